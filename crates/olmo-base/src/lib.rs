//! What every crate of olmo-pipe builds on: content digests ([`digest`]), files that are durable
//! and of the expected kind ([`files`]), locks ([`lock`]), checksummed journals ([`journal`]),
//! seals of finished work ([`seal`]), errors with a code and a hint ([`error`]), suggestions for
//! misspelt words ([`nearest`]), text for messages ([`text`], [`units`]), and failpoints for tests
//! ([`mod@failpoint`]).
//!
//! It knows neither stages nor stores, and depends on no other crate of the workspace.

#![cfg_attr(not(test), warn(unreachable_pub))]

pub mod digest;
pub mod error;
pub mod failpoint;
pub mod files;
pub mod journal;
pub mod lock;
pub mod nearest;
pub mod seal;
pub mod testing;
pub mod text;
pub mod units;

pub use digest::Digest;
pub use error::{Diagnose, IoContext, PathError};
pub use failpoint::failpoint;
pub use lock::LockedFile;
