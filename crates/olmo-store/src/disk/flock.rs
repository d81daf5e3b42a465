//! Lock files of a store, and the check that its file system locks.

use std::path::Path;

use olmo_base::{IoContext as _, LockedFile, lock};

use crate::error::StoreError;

/// The file of [`check_working`].
pub(crate) const OPEN_LOCK: &str = "open.lock";

/// Locks the file `path`, which is created if it is missing; `None` if it is held. A link, FIFO,
/// device or folder in its place is an error.
pub(crate) fn try_exclusive(path: &Path) -> Result<Option<LockedFile>, StoreError> {
    Ok(LockedFile::try_removable(path).context_during("lock", path)?)
}

/// Checks that locks work in the folder `root`.
pub(crate) fn check_working(root: &Path) -> Result<(), StoreError> {
    let path = root.join(OPEN_LOCK);
    let works = lock::check_working(&path).context_during("open the lock file", &path)?;
    works.map_err(|why| StoreError::NoLocks { root: root.to_owned(), why })
}
