//! [`Store`]: one folder, opened.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use olmo_base::{Digest, IoContext, PathError, files};

use crate::artifact::manifest::Manifest;
use crate::disk::scratch::{self, Scratch};
use crate::disk::{self, lock, share};
use crate::error::StoreError;

/// The format this build writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;

pub(crate) const OBJECTS: &str = "objects-v1";
pub(crate) const ARTIFACTS: &str = "artifacts-v1";
pub(crate) const ACTIONS: &str = "actions-v1";
pub(crate) const TAGS: &str = "tags-v1";
pub(crate) const PINS: &str = "pins-v1";
pub(crate) const STAT: &str = "stat-v1";
const WORK: &str = "work-v1";
pub(crate) const LOCKS: &str = "locks-v1";
const RUNS: &str = "runs-v1";
pub(crate) const INDEX: &str = "index-v1";
pub(crate) const DOWNLOADS: &str = "downloads-v1";
pub(crate) const QUARANTINE: &str = "quarantine";
pub(crate) const TMP: &str = "tmp";

/// The folders that every store has.
pub(crate) const FOLDERS: [&str; 12] =
    [OBJECTS, ARTIFACTS, ACTIONS, TAGS, PINS, STAT, WORK, LOCKS, RUNS, INDEX, QUARANTINE, TMP];
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
    pub(crate) root: PathBuf,
    access: Access,
    /// Made by the first write: a look-up leaves no trace.
    scratch: Arc<Mutex<Option<Arc<Scratch>>>>,
    /// Manifests of sources that a reader computed; it cannot write them.
    pub(crate) noted: Arc<Mutex<BTreeMap<Digest, Manifest>>>,
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
    pub(crate) fn has_format(&self) -> Result<bool, StoreError> {
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
    pub(crate) fn is_read_only(&self) -> bool {
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

    pub(crate) fn object_path(&self, object: Digest) -> PathBuf {
        self.sharded(OBJECTS, object)
    }

    /// `FOLDER/ab/cdef…`: no folder grows past what file systems and people can list.
    pub(crate) fn sharded(&self, folder: &str, name: Digest) -> PathBuf {
        let hex = name.hex();
        self.root.join(folder).join(&hex[..2]).join(&hex[2..])
    }

    /// This process's folder for temporary files, on the store's file system.
    /// A new path in `tmp/`, which is emptied after this process has ended. On the same file
    /// system as everything else in the store.
    pub fn temporary(&self) -> Result<PathBuf, StoreError> {
        Ok(self.scratch()?.path())
    }

    pub(crate) fn scratch(&self) -> Result<Arc<Scratch>, StoreError> {
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
