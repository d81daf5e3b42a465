//! A process's folder for half-written files, `tmp/NAME/`, and the sweep of those whose
//! process is gone.
//!
//! `tmp/NAME.lock` is created and locked before `tmp/NAME/`, and held until the process ends: a
//! process that can take the lock may remove the folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use olmo_base::LockedFile;

use crate::disk;
use crate::disk::flock;
use crate::error::StoreError;

pub(crate) struct Scratch {
    folder: PathBuf,
    lock_path: PathBuf,
    _lock: LockedFile,
    next: AtomicU64,
}

impl Scratch {
    /// Creates a new folder in `tmp`.
    pub(crate) fn make(tmp: &Path) -> Result<Self, StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{:x}-{count}", std::process::id(), disk::now());
            let lock_path = tmp.join(format!("{name}.lock"));
            // Taken: another host with our pid, within the same nanosecond.
            let Some(lock) = flock::try_exclusive(&lock_path)? else { continue };
            let folder = tmp.join(name);
            disk::make_folder(&folder)?;
            return Ok(Self { folder, lock_path, _lock: lock, next: AtomicU64::new(0) });
        }
    }

    /// The path of a new temporary file or folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next process sweeps anything that cannot be removed now.
        let _ = disk::remove_tree(&self.folder);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes the folders in `tmp` that belong to no living process. Never fails: leftovers do no
/// harm. Entries that are not lock files stay, and `verify` reports them.
pub(crate) fn sweep(tmp: &Path) {
    let Ok(entries) = fs::read_dir(tmp) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let (folder, lock_path) = if path.extension().is_some_and(|e| e == "lock") {
            (path.with_extension(""), path)
        } else {
            (path.clone(), path.with_extension("lock"))
        };
        let Ok(Some(lock)) = flock::try_exclusive(&lock_path) else { continue };
        let _ = disk::remove_tree(&folder);
        let _ = fs::remove_file(&lock_path);
        drop(lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_removes_what_is_dead_and_leaves_what_lives() {
        let dir = tempfile::tempdir().unwrap();
        let live = Scratch::make(dir.path()).unwrap();
        fs::write(live.path(), "half").unwrap();
        fs::create_dir_all(dir.path().join("999-dead-0/deep")).unwrap();
        fs::write(dir.path().join("999-dead-0.lock"), "").unwrap();
        fs::create_dir_all(dir.path().join("no-lock-at-all")).unwrap();
        sweep(dir.path());
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [live.folder.clone(), live.lock_path.clone()]);
        drop(live);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_and_fifos_in_the_place_of_locks_stop_no_sweep() {
        for kind in crate::verify::tests::INTRUDERS {
            let dir = tempfile::tempdir().unwrap();
            let lock = dir.path().join("1-x-0.lock");
            crate::verify::tests::intrude(&lock, kind);
            fs::create_dir_all(dir.path().join("2-y-0/deep")).unwrap();
            sweep(dir.path());
            assert!(lock.symlink_metadata().is_ok(), "{kind}: it is reported, not removed");
            assert!(!dir.path().join("2-y-0").exists(), "{kind}");
        }
    }

    #[test]
    fn a_read_only_folder_of_a_dead_process_is_swept() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("1-x-0/a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "").unwrap();
        for folder in [deep.as_path(), deep.parent().unwrap()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
        }
        sweep(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
