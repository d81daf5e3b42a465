//! Sources that lie elsewhere: files of an `https:` server, of the Hugging Face hub (`hf:`), or inside a pinned
//! wheel (`pypi:`). What a name means is resolved once ([`Remote::resolve`]) and recorded in a [`Lock`]; fetching
//! ([`Remote::fetch`]) is held to what was recorded.
//!
//! Everything that comes over the network is taken for hostile: https alone (plain http to this machine, and to a hub
//! that the user named), no file kind that can hold code, sizes capped, digests checked, names that stay in their folder,
//! the hub's token to the hub's own host alone.

mod digests;
mod download;
mod error;
mod http;
mod hub;
mod kind;
mod lock;
mod pattern;
mod remote;
mod settings;
mod source;
mod url;
mod watch;
mod wheel;

pub use error::RemoteError;
pub use lock::{Lock, LockError, Locked, LockedFile};
pub use remote::{Fetched, Remote};
pub use settings::Settings;
pub use source::{Repository, Source, Want, is_remote};
pub use watch::Watch;

/// File patterns, as `hf:` paths and lists of local files take them.
pub use pattern::{fits as fits_pattern, is_pattern};
