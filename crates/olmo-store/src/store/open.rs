//! Opens a store, for writing or for reading only.

use std::io;
use std::path::Path;
use std::sync::Arc;

use olmo_base::{IoContext as _, PathError, files};

use crate::disk::{self, flock, scratch};
use crate::error::StoreError;
use crate::layout::{FOLDERS, FORMAT, LARGEST_FORMAT, TMP};
use crate::store::{Access, Store, share};

impl Store {
    fn at(root: &Path, access: Access) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).context_during("find the store folder", root)?;
        Ok(Self { root, access, scratch: Arc::default(), noted: Arc::default() })
    }

    /// Opens the store in folder `root` (the `.olmo-pipe` folder itself), and creates it if it is
    /// missing. Sweeps the leftovers of killed processes in `tmp/`.
    ///
    /// # Errors
    /// The store has a newer format, its file system has no working flock, or it cannot be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self::at(root, Access::Write)?;
        share::join(&store.root);
        for name in FOLDERS {
            disk::make_folder(&store.root.join(name))?;
        }
        flock::check_working(&store.root)?;
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
    /// # Errors
    /// The store has a newer format, or it cannot be read.
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ActionState, Index, Query};
    use olmo_base::{ActionKey, Diagnose as _, Digest};
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
        assert_eq!(store.action_state(ActionKey::new(Digest::of(b"key"))).unwrap(), ActionState::Absent);
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
