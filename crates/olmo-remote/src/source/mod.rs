//! The notation of remote sources, and which of their files are accepted.

pub(crate) mod file_kind;
pub(crate) mod pattern;
#[expect(clippy::module_inception, reason = "the folder is named after its type")]
mod source;

pub(crate) use source::is_sha256;
pub use source::{Repository, Source, Want, is_remote};
