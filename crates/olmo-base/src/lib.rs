//! The basis of all crates of olmo-pipe: content digests ([`digest`]), typed names of the things in
//! a store ([`id`]), safe and durable file access ([`files`], [`mod@writeback`]), locks ([`lock`]),
//! checksummed journals ([`journal`]), seals of finished work ([`seal`]), errors with a code and a
//! hint ([`error`]), text for messages ([`text`]), numbers that are the same everywhere
//! ([`SplitMix64`]), and failpoints for tests ([`mod@failpoint`]).
//!
//! It knows nothing about stages or stores, and depends on no other crate of the workspace.

#![cfg_attr(not(test), warn(unreachable_pub))]

pub mod digest;
pub mod error;
pub mod failpoint;
pub mod files;
pub mod id;
pub mod journal;
pub mod lock;
pub mod seal;
mod split_mix;
pub mod testing;
pub mod text;
pub mod writeback;

pub use digest::Digest;
pub use error::{Diagnose, IoContext, PathError};
pub use failpoint::failpoint;
pub use id::{ActionKey, ArtifactId, ObjectId};
pub use lock::LockedFile;
pub use split_mix::SplitMix64;
pub use text::{nearest, units};
pub use writeback::WritebackFile;
