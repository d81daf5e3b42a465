//! Locks by flock: they vanish with the process that holds them, however it ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use olmo_stage::Digest;
use olmo_stage::files::{open_or_create_regular, open_regular};

use super::error::StoreError;
use super::{LOCKS, Store};

/// The file of [`check_working`].
pub(super) const OPEN_LOCK: &str = "open.lock";
/// So often a lock file may be replaced between open and lock before that is an error.
const MOST_TRIES: u32 = 10_000;
/// Bytes of a lock file that are read for the number of its holder.
const LONGEST_PID: u64 = 32;

/// The right to work on one key. Released on drop and by the death of the process.
#[derive(Debug)]
pub struct KeyLock {
    file: File,
    path: PathBuf,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while still held: whoever opened it meanwhile sees that and opens anew.
        let _ = fs::remove_file(&self.path);
        // By hand, since a child between fork and exec may share the open file.
        let _ = self.file.unlock();
    }
}

impl Store {
    /// Takes the lock of `key`, or `None` if somebody (another process, or another thread of
    /// this one) holds it.
    pub fn lock_key(&self, key: Digest) -> Result<Option<KeyLock>, StoreError> {
        let path = self.lock_path(key);
        let Some(mut file) = try_exclusive(&path)? else { return Ok(None) };
        // For the messages of those who wait; the lock itself is the flock.
        let told = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        told.map_err(StoreError::io("write", &path))?;
        Ok(Some(KeyLock { file, path }))
    }

    /// Waits for the lock of `key`. `go_on` is called before each wait, first at once, then up
    /// to five times a second; `false` from it gives up, with `None`.
    pub fn lock_key_wait(&self, key: Digest, go_on: &mut dyn FnMut() -> bool) -> Result<Option<KeyLock>, StoreError> {
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(lock) = self.lock_key(key)? {
                return Ok(Some(lock));
            }
            if !go_on() {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// The process that holds the lock of `key`, as far as it has told.
    pub fn lock_holder(&self, key: Digest) -> Option<u32> {
        let mut text = String::new();
        open_regular(&self.lock_path(key)).ok()?.take(LONGEST_PID).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Whether somebody works on `key` at this moment. A look, not a promise.
    pub fn is_locked(&self, key: Digest) -> bool {
        let file = open_regular(&self.lock_path(key));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    fn lock_path(&self, key: Digest) -> PathBuf {
        self.root.join(LOCKS).join(key.hex())
    }
}

/// Locks the file `path` (made if missing) for this process alone; `None` if it is held. A link,
/// FIFO, device or folder in its place is an error.
pub(super) fn try_exclusive(path: &Path) -> Result<Option<File>, StoreError> {
    for _ in 0..MOST_TRIES {
        let file = open_or_create_regular(path).map_err(StoreError::io("open the lock file", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", path)(e)),
        }
        let ours = file.metadata().map_err(StoreError::io("lock", path))?;
        match fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(Some(file)),
            // A holder removed it between our open and our lock: a lock on it binds nobody.
            _ => drop(file),
        }
    }
    Err(StoreError::io("lock", path)(io::Error::other("something replaces the file all the time")))
}

/// Checks that flock works in the folder `root`: two open files must exclude each other. Some
/// network file systems grant every lock.
pub(super) fn check_working(root: &Path) -> Result<(), StoreError> {
    let refuse = |why: String| Err(StoreError::NoLocks { root: root.to_owned(), why });
    let path = root.join(OPEN_LOCK);
    let open = || open_or_create_regular(&path).map_err(StoreError::io("open the lock file", &path));
    let (first, second) = (open()?, open()?);
    // Shared, so that processes which check at the same time do not disturb each other.
    if let Err(e) = first.try_lock_shared() {
        return refuse(e.to_string());
    }
    match second.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(e)) => refuse(e.to_string()),
        Ok(()) => refuse("two locks on one file do not exclude each other".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_locked_once_and_free_after_the_drop() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
        let (key, other) = (Digest::of(b"key"), Digest::of(b"other"));
        let held = one.lock_key(key).unwrap().unwrap();
        assert!(two.lock_key(key).unwrap().is_none());
        assert_eq!(two.lock_holder(key), Some(std::process::id()));
        assert!(two.lock_key(other).unwrap().is_some(), "another key is free");
        drop(held);
        assert!(two.lock_key(key).unwrap().is_some());
        assert_eq!(fs::read_dir(dir.path().join(LOCKS)).unwrap().count(), 0, "no lock files pile up");
    }

    #[test]
    fn a_waiter_gets_the_lock_once_it_is_free_or_gives_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = Digest::of(b"key");
        let mut held = store.lock_key(key).unwrap();
        let mut polls = 0;
        let got = store.lock_key_wait(key, &mut || {
            polls += 1;
            if polls == 3 {
                held = None;
            }
            true
        });
        assert!(got.unwrap().is_some());
        assert_eq!(polls, 3);
        let _held = store.lock_key(key).unwrap().unwrap();
        assert!(store.lock_key_wait(key, &mut || false).unwrap().is_none());
    }

    #[test]
    fn only_one_of_many_threads_is_inside_at_a_time() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = Digest::of(b"key");
        let (inside, rounds) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let _lock = store.lock_key_wait(key, &mut || true).unwrap().unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(rounds.into_inner(), 100);
    }
}
