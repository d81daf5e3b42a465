//! From YAML to a typed, fully known experiment, or to all errors at once.
//!
//! The way of a file: [`load()`] reads it (`source`, `yaml`) into nodes that know their places
//! (`node`), holds them against schemas derived from Rust types (`document`, `schema`,
//! `check`), lays experiment, profile and `--set` over the pipeline (`params`, `layers`,
//! `setting`), and follows references (`resolve`, `ports`) by the stages' contracts
//! (`catalog`), once for each variant that a sweep asks for (`sweep`, `trials`). What comes out, [`Resolved`], needs no file any more.

mod catalog;
mod check;
mod diagnostic;
mod document;
mod draw;
mod emit;
mod experiment;
mod files;
mod instance;
mod label;
mod layers;
mod load;
mod node;
mod ordered;
mod params;
mod pipeline;
mod ports;
mod prepare;
mod reference;
mod resolve;
mod resolved;
mod retry;
mod scalar;
pub mod schema;
mod setting;
mod source;
mod sweep;
mod trials;
mod when;
mod yaml;

pub use catalog::{Catalog, project_root};
pub use diagnostic::{Diagnostic, Diagnostics, Location};
pub use emit::to_yaml;
pub use load::{LoadOptions, Loaded, load};
pub use ordered::OrderedMap;
pub use ports::want;
pub use reference::environment_path;
pub use resolved::{Binding, PortRef, RESOLVED_FORMAT, Resolved, ResolvedStage, Trial};
pub use retry::{FailureClass, Retry};
