//! The content-addressed store: everything that stages make, under the digest of its bytes.
//!
//! A store is one folder (`.olmo-pipe/`, or what `--store` names). Files are the truth; nothing
//! but files decides a cache hit. Folder names carry their own version, so that a later layout
//! can live beside this one.
//!
//! ```text
//! .olmo-pipe/
//!   format                 the newest format in this folder, a decimal number and a newline
//!   .gitignore             `*`: a store is never committed by accident
//!   objects-v1/ab/cdef…    a file's bytes; the name is the BLAKE3 of the bytes; mode 0444
//!   artifacts-v1/ab/cdef…  a manifest (path -> digest, size[, source]); the name is the artifact
//!   actions-v1/ab/cdef…    a finished stage (key record, outputs); the name is the key
//!   tags-v1/NAME           the artifact that a person gave this name
//!   pins-v1/DIGEST         an artifact that is never collected
//!   stat-v1/ab/cdef…       digest of a local source file by its stat; only ever saves reading
//!   work-v1/KEY/           unfinished work of the stage with this key
//!   locks-v1/KEY           held by flock while a process works on this key
//!   runs-v1/ID/            one record for each run
//!   downloads-v1/NAME/     what has come of a remote source; made when one is fetched
//!   index-v1/              sled, for `list` queries; see [`Index`]
//!   quarantine/            what was found damaged, kept for a look
//!   open.lock              for the check at open that file locks work here
//!   collect.lock           held alone by flock while a collection removes something
//!   tmp/NAME/, tmp/NAME.lock   half-written files of one process; swept once it is gone
//! ```
//!
//! # How a commit survives a kill and a power cut
//!
//! A file comes in as a temporary file, is synced, renamed to its digest, and its folder is
//! synced. The manifest follows when all objects are safe, the action entry when all manifests
//! are. So what is visible is whole, and a hit is checked against the files all the same. A
//! kill leaves at most unreferenced objects and a folder in `tmp/`, which the next
//! [`Store::open`] sweeps; the commit can then be repeated on the same folder.
//!
//! Failpoints ([`olmo_stage::failpoint()`]), in the order of a commit:
//! `store.object_temp_written`, `store.object_renamed`, `store.manifest_temp_written`,
//! `store.manifest_renamed`, `store.folder_taken`, `store.action_temp_written`,
//! `store.action_renamed`.

mod action;
mod bundle;
mod disk;
mod error;
mod handover;
mod index;
mod lock;
mod manifest;
mod object;
#[cfg(test)]
mod order;
#[cfg(test)]
pub(crate) mod readers;
mod reference;
mod repair;
mod scratch;
pub(crate) mod seal;
mod sweep;
mod tag;
mod tree;
mod verify;

pub use action::{Action, ActionState, ListItem, Output};
pub use bundle::Imported;
pub use error::StoreError;
pub use handover::Handover;
pub use index::{ArtifactRow, Index, Query};
pub use lock::KeyLock;
pub use manifest::{ArtifactInfo, Entry, Manifest, digest_of};
pub use reference::SourceStamps;
pub use repair::Repaired;
pub use sweep::{SweepPlan, Swept};
pub use tag::{Tag, check_tag};
pub use verify::{Problem, ProblemKind};

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use olmo_stage::Digest;

use scratch::Scratch;

/// The format this build writes, and the newest it reads.
const FORMAT: u32 = 1;

const OBJECTS: &str = "objects-v1";
const ARTIFACTS: &str = "artifacts-v1";
const ACTIONS: &str = "actions-v1";
const TAGS: &str = "tags-v1";
const PINS: &str = "pins-v1";
const STAT: &str = "stat-v1";
const WORK: &str = "work-v1";
const LOCKS: &str = "locks-v1";
const RUNS: &str = "runs-v1";
const INDEX: &str = "index-v1";
const DOWNLOADS: &str = "downloads-v1";
const QUARANTINE: &str = "quarantine";
const TMP: &str = "tmp";

/// An open store. Cheap to clone; clones share one folder for temporary files. Safe to use from
/// many threads and, through many `Store`s, from many processes at once.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    /// Made by the first write: a look-up leaves no trace.
    scratch: Arc<Mutex<Option<Arc<Scratch>>>>,
}

impl Store {
    /// Opens the store in folder `root` (the `.olmo-pipe` folder itself), and makes it if it
    /// is not there. Sweeps what killed processes left in `tmp/`.
    ///
    /// Errors: the store has a newer format; its file system has no working flock; it cannot
    /// be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("find the store folder", root))?;
        let store = Self { root, scratch: Arc::default() };
        for name in [OBJECTS, ARTIFACTS, ACTIONS, TAGS, PINS, STAT, WORK, LOCKS, RUNS, INDEX, QUARANTINE, TMP] {
            disk::make_folder(&store.root.join(name))?;
        }
        lock::check_working(&store.root)?;
        store.check_format()?;
        scratch::sweep(&store.root.join(TMP));
        Ok(store)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let path = self.root.join("format");
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(found) if found <= FORMAT => Ok(()),
                Ok(found) => Err(StoreError::NewerFormat { root: self.root.clone(), found, known: FORMAT }),
                Err(_) => Err(StoreError::DamagedFormat { path }),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let ignore = self.root.join(".gitignore");
                let scratch = self.scratch()?;
                disk::write_durable(&scratch, &ignore, b"*\n", 0o644, None)?;
                disk::write_durable(&scratch, &path, format!("{FORMAT}\n").as_bytes(), 0o644, None)
            }
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(StoreError::DamagedFormat { path }),
            Err(e) => Err(StoreError::io("read", &path)(e)),
        }
    }

    /// The store's folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of unfinished work of the stage with key `key`; not made here. Only the
    /// holder of the key's lock may touch it.
    pub fn work(&self, key: Digest) -> PathBuf {
        self.root.join(WORK).join(key.hex())
    }

    /// The keys that have unfinished work, sorted.
    pub fn work_keys(&self) -> Result<Vec<Digest>, StoreError> {
        let folder = self.root.join(WORK);
        let entries = fs::read_dir(&folder).map_err(StoreError::io("read the folder", &folder))?;
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        let mut keys: Vec<Digest> = names.filter_map(|n| Digest::from_hex(&n).ok()).collect();
        keys.sort();
        Ok(keys)
    }

    /// The folder of objects, named by their digests.
    pub fn objects_dir(&self) -> PathBuf {
        self.root.join(OBJECTS)
    }

    /// The folder that holds one folder for each run.
    pub fn runs_dir(&self) -> PathBuf {
        self.root.join(RUNS)
    }

    /// The folder of remote sources on their way in; not made here. Each source's folder there has a lock beside it.
    pub fn downloads_dir(&self) -> PathBuf {
        self.root.join(DOWNLOADS)
    }

    /// Whether the store holds the bytes named `object`, going by their name alone.
    pub fn has_object(&self, object: Digest) -> bool {
        self.object_path(object).symlink_metadata().is_ok_and(|found| found.is_file())
    }

    fn object_path(&self, object: Digest) -> PathBuf {
        self.sharded(OBJECTS, object)
    }

    /// `FOLDER/ab/cdef…`: no folder grows past what file systems and people can list.
    fn sharded(&self, folder: &str, name: Digest) -> PathBuf {
        let hex = name.hex();
        self.root.join(folder).join(&hex[..2]).join(&hex[2..])
    }

    /// This process's folder for temporary files, on the store's file system.
    /// A new path in `tmp/`, which is emptied after this process has ended. On the same file
    /// system as everything else in the store.
    pub(crate) fn temporary(&self) -> Result<PathBuf, StoreError> {
        Ok(self.scratch()?.path())
    }

    fn scratch(&self) -> Result<Arc<Scratch>, StoreError> {
        let mut slot = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scratch) = slot.as_ref() {
            return Ok(scratch.clone());
        }
        let made = Arc::new(Scratch::make(&self.root.join(TMP))?);
        *slot = Some(made.clone());
        Ok(made)
    }

    /// Moves a damaged file out of the way, and says where to.
    pub(crate) fn quarantine(&self, path: &Path, name: &str) -> Result<PathBuf, StoreError> {
        let folder = self.root.join(QUARANTINE);
        for n in 0u32.. {
            let kept = folder.join(if n == 0 { name.to_owned() } else { format!("{name}.{n}") });
            if kept.symlink_metadata().is_ok() {
                continue;
            }
            return match fs::rename(path, &kept) {
                Ok(()) => Ok(kept),
                // Another process was faster.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(kept),
                Err(e) => Err(StoreError::io("quarantine", path)(e)),
            };
        }
        unreachable!("a folder holds fewer than 2^32 files")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_store_has_its_folders_and_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/.olmo-pipe");
        Store::open(&root).unwrap();
        assert_eq!(fs::read_to_string(root.join("format")).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(root.join(".gitignore")).unwrap(), "*\n");
        let store = Store::open(&root).unwrap();
        assert!(store.runs_dir().is_dir());
        assert_eq!(fs::read_dir(root.join(TMP)).unwrap().count(), 0, "temporary files go with their process");
    }

    #[test]
    fn a_newer_or_unreadable_format_is_refused_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap();
        fs::write(dir.path().join("format"), "2\n").unwrap();
        let Err(error) = Store::open(dir.path()) else { panic!("opened a newer store") };
        assert!(matches!(error, StoreError::NewerFormat { found: 2, known: 1, .. }));
        assert!(error.hint().unwrap().contains("--store"));
        fs::write(dir.path().join("format"), b"\xff\xfe").unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::DamagedFormat { .. })));
    }

    #[test]
    fn a_file_in_the_place_of_the_store_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        fs::write(&path, "x").unwrap();
        let Err(error) = Store::open(&path) else { panic!("opened a file") };
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
