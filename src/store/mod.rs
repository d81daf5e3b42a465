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
//!   begin.lock             held shared by flock while a run begins, whose record is not there yet
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
//! # What may stand in the way
//!
//! Every file is opened without following a link or waiting for a FIFO. A link, FIFO, device or
//! folder in the place of a manifest, action, tag or object is damage: it moves to `quarantine/`
//! when it is met. In the place of a lock it is an error, and `verify --repair` moves it away.
//!
//! Failpoints ([`olmo_base::failpoint()`]), in the order of a commit:
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
mod misplaced;
mod object;
#[cfg(test)]
mod order;
mod place;
#[cfg(test)]
pub(crate) mod readers;
mod reference;
mod repair;
mod scratch;
pub(crate) mod seal;
mod share;
mod sweep;
mod tag;
mod tree;
mod verify;

pub use action::{Action, ActionState, ListItem, Output};
pub use bundle::Imported;
pub use disk::{remove_tree, swap_folders};
pub use error::StoreError;
pub use handover::Handover;
pub use index::{ArtifactRow, Index, Query};
pub use lock::KeyLock;
pub use manifest::{ArtifactInfo, Entry, Manifest, digest_of};
pub use reference::SourceStamps;
pub use repair::Repaired;
pub use sweep::{RunBeginning, SweepPlan, Swept};
pub use tag::{Tag, check_tag};
pub use verify::{Problem, ProblemKind};

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use olmo_base::{Digest, IoContext, PathError, files};

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

/// The folders that every store has.
const FOLDERS: [&str; 12] = [OBJECTS, ARTIFACTS, ACTIONS, TAGS, PINS, STAT, WORK, LOCKS, RUNS, INDEX, QUARANTINE, TMP];
/// A format file is a number and a newline.
const LARGEST_FORMAT: u64 = 64;

/// How a store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Write,
    Read,
}

/// An open store. Cheap to clone; clones share one folder for temporary files. Safe to use from
/// many threads and, through many `Store`s, from many processes at once.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
    access: Access,
    /// Made by the first write: a look-up leaves no trace.
    scratch: Arc<Mutex<Option<Arc<Scratch>>>>,
    /// Manifests of sources that a reader computed; it cannot write them.
    noted: Arc<Mutex<BTreeMap<Digest, Manifest>>>,
}

impl Store {
    fn at(root: &Path, access: Access) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).context_during("find the store folder", root)?;
        Ok(Self { root, access, scratch: Arc::default(), noted: Arc::default() })
    }

    /// Opens the store in folder `root` (the `.olmo-pipe` folder itself), and makes it if it
    /// is not there. Sweeps what killed processes left in `tmp/`.
    ///
    /// Errors: the store has a newer format; its file system has no working flock; it cannot
    /// be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self::at(root, Access::Write)?;
        share::join(&store.root);
        for name in FOLDERS {
            disk::make_folder(&store.root.join(name))?;
        }
        lock::check_working(&store.root)?;
        if !store.has_format()? {
            store.write_durable(&store.root.join(".gitignore"), b"*\n", 0o644, None)?;
            store.write_durable(&store.root.join("format"), format!("{FORMAT}\n").as_bytes(), 0o644, None)?;
        }
        scratch::sweep(&store.root.join(TMP));
        Ok(store)
    }

    /// Opens the store in folder `root` for reading: creates nothing, and needs no write
    /// permission. A missing folder reads as an empty store. In an existing store, caches (digests
    /// of sources, the index) and damaged files in `quarantine/` are written if the user may.
    ///
    /// Errors: the store has a newer format; it cannot be read.
    pub fn read(root: &Path) -> Result<Self, StoreError> {
        let store = Self::at(root, Access::Read)?;
        if store.has_format()? {
            share::join(&store.root);
        }
        Ok(store)
    }

    /// Whether there is a store of a format that this build reads.
    fn has_format(&self) -> Result<bool, StoreError> {
        let path = self.root.join("format");
        match files::read_regular_text(&path, LARGEST_FORMAT) {
            Ok(text) => match text.trim().parse::<u32>() {
                Ok(found) if found <= FORMAT => Ok(true),
                Ok(found) => Err(StoreError::NewerFormat { root: self.root.clone(), found, known: FORMAT }),
                Err(_) => Err(StoreError::DamagedFormat { path }),
            },
            Err(e) => match e.kind() {
                io::ErrorKind::NotFound => Ok(false),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge => {
                    Err(StoreError::DamagedFormat { path })
                }
                _ => Err(PathError::during("read", &path, e).into()),
            },
        }
    }

    /// Whether it was opened by [`Store::read`].
    fn is_read_only(&self) -> bool {
        self.access == Access::Read
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
        let names = disk::names_in(&self.root.join(WORK))?;
        let mut keys: Vec<Digest> = names.iter().filter_map(|n| Digest::from_hex(n).ok()).collect();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
    fn a_reader_makes_nothing_and_a_missing_store_reads_as_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::read(&dir.path().join("none")).unwrap();
        assert_eq!(store.artifacts().unwrap().count(), 0);
        assert_eq!(store.action_keys().unwrap(), []);
        assert_eq!(
            (store.tags().unwrap(), store.pins().unwrap(), store.work_keys().unwrap()),
            (vec![], vec![], vec![])
        );
        assert_eq!(store.verify().unwrap(), []);
        assert_eq!(store.action_state(Digest::of(b"key")).unwrap(), ActionState::Absent);
        assert_eq!(Index::open(&store).artifacts(&Query::default()).unwrap(), []);
        let source = dir.path().join("data");
        fs::write(&source, "text").unwrap();
        let artifact = store.commit_reference(olmo_stage::PortType::File, &source).unwrap();
        assert_eq!(store.manifest(artifact).unwrap().files["data"].source.as_deref(), Some(source.as_path()));
        assert!(store.is_whole(artifact));
        assert!(!dir.path().join("none").exists());
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
