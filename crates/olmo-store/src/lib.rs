//! The content-addressed store: everything that stages make, under the digest of its bytes.
//!
//! A store is one folder (`.olmo-pipe/`, or the one that `--store` names). Files are the source of
//! truth; only files decide a cache hit. Folder names carry their own version, so that a later
//! layout can live next to this one.
//!
//! ```text
//! .olmo-pipe/
//!   format                 the newest format in this folder, a decimal number and a newline
//!   .gitignore             `*`: a store is never committed by accident
//!   objects-v1/ab/cdef…    a file's bytes; the name is the BLAKE3 of the bytes; mode 0444
//!   artifacts-v1/ab/cdef…  a manifest (path -> digest, size[, source]); the name is the artifact
//!   actions-v1/ab/cdef…    a finished stage (key record, outputs); the name is the key
//!   tags-v1/NAME           the artifact that a user gave this name
//!   pins-v1/DIGEST         an artifact that is never collected
//!   stat-v1/ab/cdef…       digest of a local source file by its stat; only saves reading
//!   work-v1/KEY/           unfinished work of the stage with this key
//!   locks-v1/KEY           held by flock while a process works on this key
//!   runs-v1/ID/            one record for each run
//!   downloads-v1/NAME/     the downloaded part of a remote source
//!   index-v1/              sled, for `list` queries; see [`Index`]
//!   quarantine/            damaged files, kept for inspection
//!   open.lock              used at open to check that file locks work here
//!   begin.lock             held shared by flock while a run begins, before its record exists
//!   collect.lock           held exclusively by flock while a collection removes something
//!   tmp/NAME/, tmp/NAME.lock   half-written files of one process; swept once it is gone
//! ```
//!
//! # How a commit survives a kill and a power cut
//!
//! A file is written as a temporary file, synced, renamed to its digest, and its folder is synced.
//! The manifest follows when all objects are durable, the action entry when all manifests are. So
//! everything visible is complete; a hit is checked against the files anyway. A kill leaves at most
//! unreferenced objects and a folder in `tmp/`, which the next [`Store::open`] sweeps; the commit
//! can then be repeated on the same folder.
//!
//! # Foreign files
//!
//! Every file is opened without following a link or waiting for a FIFO. A link, FIFO, device or
//! folder in the place of a manifest, action, tag or object is damage: it moves to `quarantine/`
//! when it is found. In the place of a lock it is an error, and `verify --repair` moves it away.
//!
//! Failpoints ([`olmo_base::failpoint()`]), in the order of a commit:
//! `store.object_temp_written`, `store.object_renamed`, `store.manifest_temp_written`,
//! `store.manifest_renamed`, `store.folder_taken`, `store.action_temp_written`,
//! `store.action_renamed`.

#![cfg_attr(not(test), warn(unreachable_pub))]

mod action;
mod artifact;
mod bundle;
mod disk;
mod error;
mod index;
pub mod key;
mod layout;
mod manifest;
#[cfg(test)]
#[path = "../../../tests/support/mutations.rs"]
mod mutations;
mod store;
mod sweep;
mod tag;
#[cfg(test)]
mod tests;
mod verify;

pub use action::{Action, ActionState, ListItem, Output};
pub use artifact::handover::Handover;
pub use artifact::reference::{RESULT_MARKER, SourceStamps, source_files};
pub use bundle::Imported;
pub use disk::seal;
pub use disk::{remove_tree, swap_folders};
pub use error::StoreError;
pub use index::{ArtifactRow, Index, Query};
pub use manifest::{ArtifactInfo, Entry, Manifest, digest_of};
pub use store::{KeyLock, Store};
pub use sweep::{RunBeginning, SweepPlan, Swept};
pub use tag::{Tag, check_tag};
pub use verify::repair::Repaired;
pub use verify::{Problem, ProblemKind};
