//! Kills the processes of attempts whose engine, guard and supervisor were all killed at once.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use olmo_base::{LockedFile, PathError, files};

use crate::exec::error::ExecError;
use crate::exec::supervise::processes;
use crate::exec::supervise::supervisor::GUARD;

/// Kills the processes that attempts in the folder `work` left running. Does nothing while a guard
/// or a supervisor is alive, since it does this itself.
///
/// # Errors
/// The guard's lock file cannot be opened.
pub(crate) fn kill_leftovers(work: &Path) -> Result<(), ExecError> {
    let path = work.join(GUARD);
    let guard = match files::open_regular(&path) {
        Ok(guard) => guard,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(PathError::during("open", &path, e).into()),
    };
    let Ok(Some(_lock)) = LockedFile::try_from_file(guard) else { return Ok(()) };
    // The lock is held until the function returns, so that no new attempt starts. Folders are
    // compared by device and inode, since the attempt may have reached the store by another path.
    let place = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let own = place(work);
    let engine = std::process::id();
    for _ in 0..1000 {
        let found = processes::attempt_processes();
        let found: Vec<_> = found
            .into_iter()
            .filter(|(pid, at)| pid.as_raw_nonzero().get() as u32 != engine && place(at) == own)
            .map(|(pid, _)| pid)
            .collect();
        if found.is_empty() {
            break;
        }
        processes::kill_all(&found);
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
