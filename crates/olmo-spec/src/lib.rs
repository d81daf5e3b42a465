//! From YAML to a resolved experiment, or to all errors at once.
//!
//! [`load()`] takes a file through the folders of this crate, in this order. Each uses only the
//! ones before it.
//!
//! 1. `read` parses text into nodes that know their places.
//! 2. `document` checks nodes against schemas that are derived from Rust types, and knows the
//!    contracts of the stages.
//! 3. `compose` lays the experiment, profiles and `--set` over the pipeline.
//! 4. `resolve` follows references and checks ports.
//! 5. `sweep` does so once for each variant that a sweep requests.
//!
//! The result, [`Resolved`], needs no file any more. [`graph`] orders its stages.

#![cfg_attr(not(test), warn(unreachable_pub))]

mod compose;
mod document;
pub mod graph;
mod load;
mod read;
mod resolve;
pub mod schema;
mod sweep;

pub use document::catalog::{Catalog, project_root};
pub use document::retry::Retry;
pub use load::{LoadOptions, Loaded, load};
pub use olmo_stage::FailureClass;
pub use read::diagnostic::{Diagnostic, Diagnostics, Location};
pub use read::emit::to_yaml;
pub use read::ordered::OrderedMap;
pub use read::reference::{PortRef, environment_path};
pub use resolve::ports::want;
pub use resolve::resolved::{Binding, RESOLVED_FORMAT, Resolved, ResolvedStage, Trial};
