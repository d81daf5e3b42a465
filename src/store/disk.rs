//! What the store asks of the operating system: durable writes, stamps, links and clones.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use olmo_stage::Digest;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::scratch::Scratch;

/// A step of a commit, as [`recorder`] saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    FileSynced(PathBuf),
    Renamed(PathBuf, PathBuf),
    FolderMade(PathBuf),
    FolderSynced(PathBuf),
}

/// Records the steps of this thread's commits, for the test of their order. Costs nothing outside
/// tests.
pub(super) mod recorder {
    use super::Step;

    #[cfg(test)]
    std::thread_local! {
        static STEPS: std::cell::RefCell<Vec<Step>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    pub fn note(step: impl FnOnce() -> Step) {
        #[cfg(test)]
        STEPS.with_borrow_mut(|steps| steps.push(step()));
        #[cfg(not(test))]
        let _ = step;
    }

    /// The steps since the last call.
    #[cfg(test)]
    pub fn take() -> Vec<Step> {
        STEPS.take()
    }
}

/// Makes folder `path` and what is above it.
pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(StoreError::io("make the folder", path))
}

/// Makes the folder above `file` (a shard) if it is missing. Returns what then has to be synced.
pub(super) fn make_shard(file: &Path) -> Result<Option<PathBuf>, StoreError> {
    let Some(shard) = file.parent().filter(|shard| !shard.is_dir()) else { return Ok(None) };
    make_folder(shard)?;
    recorder::note(|| Step::FolderMade(shard.to_owned()));
    Ok(shard.parent().map(Path::to_owned))
}

/// Makes renames inside `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(StoreError::io("sync the folder", folder))?;
    recorder::note(|| Step::FolderSynced(folder.to_owned()));
    Ok(())
}

/// The bytes of the small file `path`, without asking for its size first.
pub(super) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2048);
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes the bytes of the file `path` durable.
pub(super) fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(StoreError::io("sync", path))?;
    recorder::note(|| Step::FileSynced(path.to_owned()));
    Ok(())
}

/// Gives the file `from` the name `to`. Durable once the folder of `to` is synced.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("write", to))?;
    recorder::note(|| Step::Renamed(from.to_owned(), to.to_owned()));
    Ok(())
}

/// Writes `bytes` as the file `path`: complete and durable, or not there. `points` are the
/// failpoints after the temporary file and after the rename.
pub(super) fn write_durable(
    scratch: &Scratch,
    path: &Path,
    bytes: &[u8],
    mode: u32,
    points: Option<[&str; 2]>,
) -> Result<(), StoreError> {
    let changed_above = make_shard(path)?;
    let temporary = scratch.path();
    let written = (|| {
        let mut file = create_new(&temporary, mode)?;
        file.write_all(bytes)?;
        file.sync_all()
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        StoreError::io("write", path)(e)
    })?;
    recorder::note(|| Step::FileSynced(temporary.clone()));
    if let Some([after_write, _]) = points {
        olmo_stage::failpoint(after_write);
    }
    rename(&temporary, path).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    if let Some([_, after_rename]) = points {
        olmo_stage::failpoint(after_rename);
    }
    changed_above.as_deref().map_or(Ok(()), sync_folder)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// A new file with exactly `mode`, whatever the umask.
pub(super) fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

/// Opens a regular file for reading. Neither follows a link in the last place nor waits on a
/// pipe; what is not a regular file is refused.
pub(super) fn open_regular(path: &Path) -> Result<(File, Metadata), StoreError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| {
        if e.raw_os_error() == Some(libc::ELOOP) {
            StoreError::refused(path, "it is a symbolic link")
        } else {
            StoreError::io("read", path)(e)
        }
    })?;
    let metadata = file.metadata().map_err(StoreError::io("read", path))?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(StoreError::refused(path, "it is not a regular file")) }
}

/// Copies all of `from` into `to`; the digest and the size of what passed.
pub(super) fn copy_hashed(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<(Digest, u64)> {
    struct Tee<'a>(&'a mut dyn Read, &'a mut dyn Write);
    impl Read for Tee<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read(buffer)?;
            self.1.write_all(&buffer[..n])?;
            Ok(n)
        }
    }
    Digest::of_reader(&mut Tee(from, to))
}

/// Lets the new file `to` share the blocks of `from`; an error where the file system cannot.
#[cfg(target_os = "linux")]
pub(super) fn clone_blocks(from: &File, to: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn clone_blocks(_: &File, _: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Swaps the folders `a` and `b`, in one step where the system can.
pub(super) fn swap_folders(a: &Path, b: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {}
            other => return other.map_err(io::Error::from),
        }
    }
    let mut third = b.as_os_str().to_owned();
    third.push(".swap");
    fs::rename(a, &third)?;
    fs::rename(b, a)?;
    fs::rename(&third, b)
}

/// Whether an error of link(2) means that a copy would do.
pub(super) fn cannot_link(error: &io::Error) -> bool {
    let codes = [libc::EXDEV, libc::EPERM, libc::EMLINK, libc::EOPNOTSUPP, libc::ENOSYS];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// A file's identity and times: equal stamps of a settled file mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: i64,
    /// Nanoseconds since 1970; a program cannot set this one back.
    pub changed: i64,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Git's racy rule: a file that changed within a clock granule of being read may change
    /// again and keep its stamp. Two seconds is the coarsest granule in use (FAT).
    pub fn settled_before(&self, read_at: i64) -> bool {
        self.modified.max(self.changed).saturating_add(2_000_000_000) < read_at
    }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_an_error_of_its_own() {
        let Ok(mut full) = OpenOptions::new().write(true).open("/dev/full") else {
            eprintln!("skipped: this system has no /dev/full");
            return;
        };
        let error = copy_hashed(&mut &b"some bytes"[..], &mut full).unwrap_err();
        let error = StoreError::io("write", Path::new("x"))(error);
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        assert!(error.hint().unwrap().contains("free some space"));
    }

    #[test]
    fn a_fresh_file_is_not_settled() {
        let stamp = Stamp { dev: 1, ino: 1, size: 1, modified: 5_000_000_000, changed: 4_000_000_000 };
        assert!(!stamp.settled_before(5_000_000_000));
        assert!(!stamp.settled_before(7_000_000_000));
        assert!(stamp.settled_before(7_000_000_001));
    }

    #[test]
    fn swapped_folders_hold_each_others_files() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(&a).unwrap();
        fs::create_dir_all(&b).unwrap();
        fs::write(a.join("in_a"), "").unwrap();
        swap_folders(&a, &b).unwrap();
        assert!(b.join("in_a").exists() && !a.join("in_a").exists() && a.is_dir());
    }
}
