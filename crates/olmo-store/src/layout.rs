//! The names in a store's folder; see the documentation of the crate.

use std::fmt::Display;
use std::str::FromStr;

use olmo_base::{ActionKey, ArtifactId, ObjectId};

/// The format this build writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;

pub(crate) const OBJECTS: &str = "objects-v1";
pub(crate) const ARTIFACTS: &str = "artifacts-v1";
pub(crate) const ACTIONS: &str = "actions-v1";
pub(crate) const TAGS: &str = "tags-v1";
pub(crate) const PINS: &str = "pins-v1";
pub(crate) const STAT: &str = "stat-v1";
pub(crate) const WORK: &str = "work-v1";
pub(crate) const LOCKS: &str = "locks-v1";
pub(crate) const RUNS: &str = "runs-v1";
pub(crate) const INDEX: &str = "index-v1";
pub(crate) const DOWNLOADS: &str = "downloads-v1";
pub(crate) const QUARANTINE: &str = "quarantine";
pub(crate) const TMP: &str = "tmp";

/// The folders that every store has.
pub(crate) const FOLDERS: [&str; 12] =
    [OBJECTS, ARTIFACTS, ACTIONS, TAGS, PINS, STAT, WORK, LOCKS, RUNS, INDEX, QUARANTINE, TMP];
/// A format file is a number and a newline.
pub(crate) const LARGEST_FORMAT: u64 = 64;

/// The name of a file in a sharded folder. Its type decides the folder, so no file is looked up in
/// the folder of another kind.
pub(crate) trait FileName: Copy + Ord + Display + FromStr {
    const FOLDER: &'static str;
}

impl FileName for ObjectId {
    const FOLDER: &'static str = OBJECTS;
}

impl FileName for ArtifactId {
    const FOLDER: &'static str = ARTIFACTS;
}

impl FileName for ActionKey {
    const FOLDER: &'static str = ACTIONS;
}
