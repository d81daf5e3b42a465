//! The locks of keys. A lock dies with the process that holds it, however that process ends.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use olmo_base::{ActionKey, IoContext as _, LockedFile, lock};

use crate::disk::flock::try_exclusive;
use crate::error::StoreError;
use crate::layout::LOCKS;
use crate::store::Store;

/// The right to work on one key. Released on drop and by the death of the process.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    _lock: LockedFile,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while still held: a process that opened it meanwhile notices and opens it anew.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// Takes the lock of `key`; `None` if another process, or another thread of this one, holds it.
    pub fn lock_key(&self, key: ActionKey) -> Result<Option<KeyLock>, StoreError> {
        let path = self.lock_path(key);
        let Some(lock) = try_exclusive(&path)? else { return Ok(None) };
        lock.write_pid().context_during("write", &path)?;
        Ok(Some(KeyLock { path, _lock: lock }))
    }

    /// Waits for the lock of `key`. `go_on` is called before each wait: at once, then up to five
    /// times a second. If it returns `false`, the result is `None`.
    pub fn lock_key_wait(
        &self,
        key: ActionKey,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<KeyLock>, StoreError> {
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

    /// The process that holds the lock of `key`, if it is known.
    pub fn lock_holder(&self, key: ActionKey) -> Option<u32> {
        lock::holder(&self.lock_path(key))
    }

    /// Whether a process works on `key` at this moment. A later answer may differ.
    pub fn is_locked(&self, key: ActionKey) -> bool {
        lock::is_locked(&self.lock_path(key))
    }

    fn lock_path(&self, key: ActionKey) -> PathBuf {
        self.root.join(LOCKS).join(key.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::Digest;

    #[test]
    fn a_key_is_locked_once_and_free_after_the_drop() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
        let (key, other) = (ActionKey::new(Digest::of(b"key")), ActionKey::new(Digest::of(b"other")));
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
        let key = ActionKey::new(Digest::of(b"key"));
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
        let key = ActionKey::new(Digest::of(b"key"));
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
