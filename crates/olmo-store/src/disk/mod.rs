//! The store's use of the operating system: durable writes, stamps, links and clones.

pub(crate) mod age;
pub(crate) mod flock;
pub(crate) mod scratch;
pub mod seal;
pub(crate) mod tree;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use olmo_base::{Digest, IoContext as _, ObjectId, PathError, files};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// A step of a commit, as recorded by [`recorder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    FileSynced(PathBuf),
    Renamed(PathBuf, PathBuf),
    FolderMade(PathBuf),
    FolderSynced(PathBuf),
}

/// Records the steps of this thread's commits, for the test of their order. Costs nothing outside
/// tests.
pub(crate) mod recorder {
    use super::Step;

    #[cfg(test)]
    std::thread_local! {
        static STEPS: std::cell::RefCell<Vec<Step>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    pub(crate) fn note(step: impl FnOnce() -> Step) {
        #[cfg(test)]
        STEPS.with_borrow_mut(|steps| steps.push(step()));
        #[cfg(not(test))]
        let _ = step;
    }

    /// The steps since the last call.
    #[cfg(test)]
    pub(crate) fn take() -> Vec<Step> {
        STEPS.take()
    }
}

/// Creates the folder `path` and its parents.
pub(crate) fn make_folder(path: &Path) -> Result<(), StoreError> {
    Ok(fs::create_dir_all(path).context_during("make the folder", path)?)
}

/// Lists the names in the folder `path`; none if it is missing. Names that are not UTF-8 are
/// skipped.
pub(crate) fn names_in(path: &Path) -> Result<Vec<String>, StoreError> {
    Ok(entries_of(path)?.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// The entries of a folder; none if it is missing or no folder.
pub(crate) fn entries_of(path: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.flatten().collect()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(e) => Err(PathError::during("read the folder", path, e).into()),
    }
}

/// Creates the parent folder of `file` (a shard) if it is missing. Returns the folder that must be
/// synced then.
pub(crate) fn make_shard(file: &Path) -> Result<Option<PathBuf>, StoreError> {
    let Some(shard) = file.parent().filter(|shard| !shard.is_dir()) else { return Ok(None) };
    make_folder(shard)?;
    recorder::note(|| Step::FolderMade(shard.to_owned()));
    Ok(shard.parent().map(Path::to_owned))
}

/// Removes the folder `path` and everything below it, including read-only folders of this user.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            // The second attempt reports anything that stays read-only.
            let _ = crate::disk::tree::open_folders(path);
            fs::remove_dir_all(path)
        }
        removed => removed,
    }
}

/// Makes renames inside `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    files::sync_folder(folder).context_during("sync the folder", folder)?;
    recorder::note(|| Step::FolderSynced(folder.to_owned()));
    Ok(())
}

/// Largest manifest or action, in bytes: some two million files. A larger one is damaged.
pub(crate) const LARGEST: u64 = 256 << 20;
/// Largest tag, pin, remembered digest or receipt, in bytes.
pub(crate) const LARGEST_MARK: u64 = 64 << 10;

/// The result of [`read_small`].
pub(crate) enum Small {
    Absent,
    Bytes(Vec<u8>, Seen),
    /// Not a regular file, or too large: the reason, and which file it is.
    Misplaced(String, Seen),
}

/// Reads the small file `path` of at most `limit` bytes. Follows no link and waits for no FIFO.
pub(crate) fn read_small(path: &Path, limit: u64) -> io::Result<Small> {
    let file = match files::open_regular(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Small::Absent),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            return Ok(Seen::at(path).map_or(Small::Absent, |seen| Small::Misplaced(e.to_string(), seen)));
        }
        Err(e) => return Err(e),
    };
    let seen = Seen::of(&file.metadata()?);
    let mut bytes = Vec::with_capacity(2048);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Ok(Small::Misplaced(format!("it is larger than the {limit} bytes that such a file may have"), seen));
    }
    Ok(Small::Bytes(bytes, seen))
}

/// Identity of a file: equal as long as the file was neither replaced nor rewritten. Touching or
/// renaming a file does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    dev: u64,
    ino: u64,
    size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

impl Seen {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { dev: metadata.dev(), ino: metadata.ino(), size: metadata.len(), modified }
    }

    /// Identity of the file at `path`, which is not followed; `None` if it does not exist.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::of(&metadata))
    }
}

/// Makes the bytes of the file `path` durable.
pub(crate) fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|f| f.sync_all()).context_during("sync", path)?;
    recorder::note(|| Step::FileSynced(path.to_owned()));
    Ok(())
}

/// Minimum number of files for each thread; fewer are synced one by one.
const SYNCS_PER_THREAD: usize = 8;
const MOST_SYNC_THREADS: usize = 32;

/// Whether [`sync_many`] syncs `count` files at the same time.
pub(crate) fn syncs_in_parallel(count: usize) -> bool {
    count / SYNCS_PER_THREAD > 1
}

/// Makes all of `paths`, files or folders, durable before it returns. The fsyncs overlap, so the
/// file system commits its journal once for many of them. `step` is recorded for each path.
pub(crate) fn sync_many(paths: &[&Path], step: fn(PathBuf) -> Step) -> Result<(), StoreError> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(e) = File::open(path).and_then(|f| f.sync_all()) {
                let error = StoreError::from(PathError::during("sync", path, e));
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..(paths.len() / SYNCS_PER_THREAD).min(MOST_SYNC_THREADS) {
            // If the system has no more threads, this one syncs the rest.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            for path in paths {
                recorder::note(|| step((*path).to_owned()));
            }
            Ok(())
        }
    }
}

/// Gives the file `from` the name `to`. Durable once the folder of `to` is synced.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).context_during("write", to)?;
    recorder::note(|| Step::Renamed(from.to_owned(), to.to_owned()));
    Ok(())
}

/// Opens a regular file for reading. A link, FIFO, device or folder is refused.
pub(crate) fn open_regular(path: &Path) -> Result<(File, Metadata), StoreError> {
    let file = files::open_regular(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => StoreError::refused(path, e.to_string()),
        _ => PathError::during("read", path, e).into(),
    })?;
    let metadata = file.metadata().context_during("read", path)?;
    Ok((file, metadata))
}

/// Opens a source outside the store for reading. Links are followed; only a regular file is
/// opened, and no FIFO is waited for.
pub(crate) fn open_source(path: &Path) -> io::Result<File> {
    let check = |metadata: Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::other(format!("it is {}, not a regular file", files::kind_name(metadata.file_type())))),
    };
    // Checked before the open as well: opening some devices has effects.
    check(fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    check(file.metadata()?)?;
    Ok(file)
}

/// Copies all of `from` into `to`. Returns the digest and size of the copied bytes.
pub(crate) fn copy_hashed(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<(Digest, u64)> {
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

/// Like [`copy_hashed`], for bytes that go into the store: their digest names the object.
pub(crate) fn copy_object(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<(ObjectId, u64)> {
    copy_hashed(from, to).map(|(digest, size)| (ObjectId::new(digest), size))
}

/// Lets the new file `to` share the blocks of `from`; an error if the file system cannot.
#[cfg(target_os = "linux")]
pub(crate) fn clone_blocks(from: &File, to: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn clone_blocks(_: &File, _: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Swaps the folders `a` and `b`, atomically if the system can.
pub fn swap_folders(a: &Path, b: &Path) -> io::Result<()> {
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

/// Whether, after this error of link(2), a copy would work.
pub(crate) fn cannot_link(error: &io::Error) -> bool {
    let codes = [libc::EXDEV, libc::EPERM, libc::EMLINK, libc::EOPNOTSUPP, libc::ENOSYS];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// A file's identity and times: equal stamps of a settled file mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: i64,
    /// Nanoseconds since 1970; a program cannot set this one back.
    pub changed: i64,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
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
    pub(crate) fn settled_before(&self, read_at: i64) -> bool {
        self.modified.max(self.changed).saturating_add(2_000_000_000) < read_at
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::Diagnose as _;

    #[test]
    fn a_full_device_is_an_error_of_its_own() {
        let Ok(mut full) = OpenOptions::new().write(true).open("/dev/full") else {
            olmo_base::testing::skip("this system has no /dev/full");
            return;
        };
        let error = copy_hashed(&mut &b"some bytes"[..], &mut full).unwrap_err();
        let error = StoreError::from(PathError::during("write", Path::new("x"), error));
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
