//! [`LockedFile`]: a lock that is released when the process that holds it ends, however it ends.
//!
//! Every lock of olmo-pipe is a `flock` on a regular file. If a symbolic link, FIFO, device or
//! folder is in its place, that is an error; it is never followed or waited for.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::files::{open_or_create_regular, open_regular};

/// How often a lock file may be replaced between opening and locking it before that is an error.
const MAX_REPLACEMENTS: u32 = 10_000;
/// How many bytes of a lock file are read for the PID of its holder.
const MAX_PID: u64 = 32;

/// An open file that this process has locked. Dropping it releases the lock.
#[derive(Debug)]
pub struct LockedFile {
    file: File,
    /// Set for a file that a child inherits. The child holds the lock as long as it keeps the file
    /// open.
    outlives_drop: bool,
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing the file is not enough, since a child between fork and exec may share it.
        if !self.outlives_drop {
            let _ = self.file.unlock();
        }
    }
}

impl LockedFile {
    fn new(file: File) -> Self {
        Self { file, outlives_drop: false }
    }

    /// Locks `file` exclusively. Returns `None` if another lock on it is held.
    ///
    /// # Errors
    /// The file system does not support locks.
    pub fn try_from_file(file: File) -> io::Result<Option<Self>> {
        Self::from_file_while(file, || false)
    }

    /// Locks `file` exclusively, and retries every `pause` for up to `patience`. Returns `None` if
    /// another lock on it is still held then.
    ///
    /// # Errors
    /// The file system does not support locks.
    pub fn from_file_within(file: File, patience: Duration, pause: Duration) -> io::Result<Option<Self>> {
        let since = Instant::now();
        Self::from_file_while(file, || {
            let retry = since.elapsed() < patience;
            if retry {
                std::thread::sleep(pause);
            }
            retry
        })
    }

    /// Locks `file` exclusively. While another lock on it is held, calls `wait` and tries again.
    /// Returns `None` once `wait` returns `false`.
    ///
    /// # Errors
    /// The file system does not support locks.
    pub fn from_file_while(file: File, mut wait: impl FnMut() -> bool) -> io::Result<Option<Self>> {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self::new(file))),
                Err(TryLockError::WouldBlock) if wait() => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
    }

    /// Takes a shared lock on `file`, after waiting until no exclusive lock on it is held.
    ///
    /// # Errors
    /// The file system does not support locks.
    pub fn shared(file: File) -> io::Result<Self> {
        file.lock_shared()?;
        Ok(Self::new(file))
    }

    /// Takes an exclusive lock on `file`, after waiting until no other lock on it is held.
    ///
    /// # Errors
    /// The file system does not support locks.
    pub fn exclusive(file: File) -> io::Result<Self> {
        file.lock()?;
        Ok(Self::new(file))
    }

    /// Locks the file `path`, which is created if it is missing. Its holder may remove it before
    /// releasing the lock, so the returned lock is checked to be on the file that now has this
    /// name. Returns `None` if another lock on it is held.
    ///
    /// # Errors
    /// The file cannot be opened or locked.
    pub fn try_removable(path: &Path) -> io::Result<Option<Self>> {
        for _ in 0..MAX_REPLACEMENTS {
            let Some(lock) = Self::try_from_file(open_or_create_regular(path)?)? else { return Ok(None) };
            let ours = lock.file.metadata()?;
            match fs::symlink_metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => return Ok(Some(lock)),
                // A holder removed the file after it was opened here, so this lock excludes no
                // other process.
                _ => drop(lock),
            }
        }
        Err(io::Error::other("another process keeps replacing the file"))
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Shares the lock with every child that inherits the file. It is held until the last copy of
    /// the file is closed.
    pub fn share_with_children(mut self) -> Self {
        self.outlives_drop = true;
        self
    }

    /// Writes the PID of this process to the file, for the messages of waiting processes. Only the
    /// lock matters; the PID has no other effect.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_pid(&self) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    }
}

/// The process that holds the lock `path`, or last held it, if it has written its PID.
pub fn holder(path: &Path) -> Option<u32> {
    let mut text = String::new();
    open_regular(path).ok()?.take(MAX_PID).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether an exclusive lock on `file` is currently held.
pub fn is_file_locked(file: &File) -> bool {
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Whether an exclusive lock on `path` is currently held. False if the file is missing.
pub fn is_locked(path: &Path) -> bool {
    open_regular(path).is_ok_and(|file| is_file_locked(&file))
}

/// Whether any lock on `path`, shared or exclusive, is currently held.
pub fn is_used(path: &Path) -> bool {
    open_regular(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Checks that two locks on the file `path` exclude each other. Some network file systems have no
/// locks, and others grant every lock.
///
/// # Errors
/// The file cannot be opened. The inner error says why locks do not work.
pub fn check_working(path: &Path) -> io::Result<Result<(), String>> {
    let first = open_or_create_regular(path)?;
    let second = open_or_create_regular(path)?;
    // The first lock is shared, so that processes that check at the same time do not disturb each
    // other.
    if let Err(e) = first.try_lock_shared() {
        return Ok(Err(e.to_string()));
    }
    Ok(match second.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(e)) => Err(e.to_string()),
        Ok(()) => Err("two locks on one file do not exclude each other".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("olmo-lock-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let path = path("exclusive");
        let lock = LockedFile::try_removable(&path).unwrap().unwrap();
        lock.write_pid().unwrap();
        assert_eq!(holder(&path), Some(std::process::id()));
        assert!(is_locked(&path) && is_used(&path));
        assert!(LockedFile::try_removable(&path).unwrap().is_none());
        let (patience, pause) = (Duration::from_millis(5), Duration::from_millis(1));
        assert!(LockedFile::from_file_within(open_regular(&path).unwrap(), patience, pause).unwrap().is_none());
        drop(lock);
        assert!(!is_used(&path));
        let shared = LockedFile::shared(open_regular(&path).unwrap()).unwrap();
        assert!(is_used(&path) && !is_locked(&path), "a shared lock lets other shared locks in");
        drop(shared);
        fs::remove_file(&path).unwrap();
        assert!(!is_locked(&path) && holder(&path).is_none());
    }

    #[test]
    fn a_lock_lives_on_in_a_copy_of_its_file() {
        let path = path("copy");
        let lock = LockedFile::try_removable(&path).unwrap().unwrap().share_with_children();
        let copy = lock.file().try_clone().unwrap();
        drop(lock);
        assert!(is_locked(&path));
        drop(copy);
        assert!(!is_locked(&path));
        fs::remove_file(&path).unwrap();
    }
}
