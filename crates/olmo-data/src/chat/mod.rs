//! [`Chat`]: renders conversations as text, and finds where an answer ends.

#[expect(clippy::module_inception, reason = "the folder is named after its type")]
mod chat;
mod error;
mod jinja_template;
mod model;
mod probe;
mod template_source;
mod turns;

pub use chat::Chat;
pub use error::ChatError;
pub use model::ModelTokenizer;
pub use template_source::Source;

#[cfg(test)]
mod tests;
