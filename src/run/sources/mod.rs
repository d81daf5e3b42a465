//! The data that a run reads from outside the store: local files and remote sources.

pub(super) mod local;
pub(super) mod remote;

pub use local::Sources;
pub(super) use local::{command_files, command_key};
