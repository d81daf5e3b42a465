//! When a file was last used: its change time, which a use updates and no program can set back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::disk::{self, Stamp};

/// A hit does not touch a file again within this time, so a run of cached stages writes nothing.
/// Collections leave a wider margin while an engine runs.
pub(crate) const TOUCHED_LATELY: Duration = Duration::from_secs(600);

/// When the file at `path` last changed in any way: nanoseconds since 1970.
pub(crate) fn used(path: &Path) -> Option<i64> {
    let stamp = Stamp::of(&fs::symlink_metadata(path).ok()?);
    Some(stamp.changed.max(stamp.modified))
}

/// The result of [`touch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    Young,
    Gone,
    /// It belongs to another user.
    NotOurs,
}

/// Updates the change time of the file at `path` and keeps its modification time.
pub(crate) fn touch(path: &Path) -> Touched {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    match utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => Touched::Gone,
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => Touched::NotOurs,
        _ => Touched::Young,
    }
}

/// Whether the file at `path` exists and was touched a short time ago.
pub(crate) fn used_lately(path: &Path) -> bool {
    let lately = disk::now() - i64::try_from(TOUCHED_LATELY.as_nanos()).unwrap_or(i64::MAX);
    used(path).is_some_and(|at| at > lately)
}
