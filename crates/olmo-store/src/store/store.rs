//! [`Store`]: the open store and its folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use olmo_base::{ActionKey, ArtifactId, ObjectId};

use crate::disk;
use crate::disk::scratch::Scratch;
use crate::error::StoreError;
use crate::layout::{DOWNLOADS, FileName, OBJECTS, RUNS, TMP, WORK};
use crate::manifest::Manifest;

/// How a store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Read,
}

/// An open store. Cheap to clone; clones share one folder for temporary files. Safe to use from
/// many threads and, through many `Store`s, from many processes at once.
#[derive(Clone)]
pub struct Store {
    pub(crate) root: PathBuf,
    pub(super) access: Access,
    /// Created by the first write: a lookup leaves no trace.
    pub(super) scratch: Arc<Mutex<Option<Arc<Scratch>>>>,
    /// Manifests of sources that a reader computed; it cannot write them.
    pub(crate) noted: Arc<Mutex<BTreeMap<ArtifactId, Manifest>>>,
}

impl Store {
    /// Whether it was opened by [`Store::read`].
    pub(crate) fn is_read_only(&self) -> bool {
        self.access == Access::Read
    }

    /// The store's folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of unfinished work of the stage with key `key`, which may not exist. Only the
    /// holder of the key's lock may touch it.
    pub fn work(&self, key: ActionKey) -> PathBuf {
        self.root.join(WORK).join(key.hex())
    }

    /// The keys that have unfinished work, sorted.
    pub fn work_keys(&self) -> Result<Vec<ActionKey>, StoreError> {
        let names = disk::names_in(&self.root.join(WORK))?;
        let mut keys: Vec<ActionKey> = names.iter().filter_map(|n| ActionKey::from_hex(n).ok()).collect();
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

    /// The folder of remote sources that are being downloaded, which may not exist. It holds a
    /// folder and a lock for each source.
    pub fn downloads_dir(&self) -> PathBuf {
        self.root.join(DOWNLOADS)
    }

    /// Whether the store has a file named `object`. Its content is not read.
    pub fn has_object(&self, object: ObjectId) -> bool {
        self.object_path(object).symlink_metadata().is_ok_and(|found| found.is_file())
    }

    pub(crate) fn object_path(&self, object: ObjectId) -> PathBuf {
        self.sharded(object)
    }

    /// `FOLDER/ab/cdef…`: sharded, so that no folder grows too large to list.
    pub(crate) fn sharded<T: FileName>(&self, name: T) -> PathBuf {
        let hex = name.to_string();
        self.root.join(T::FOLDER).join(&hex[..2]).join(&hex[2..])
    }

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
