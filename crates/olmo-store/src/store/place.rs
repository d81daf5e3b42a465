//! Puts files in their places in the store, and moves damaged ones to `quarantine/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use olmo_base::{IoContext as _, PathError, files};

use crate::disk::{self, Seen, Step, recorder};
use crate::error::StoreError;
use crate::layout::QUARANTINE;
use crate::store::Store;

impl Store {
    /// Writes `bytes` as the file `path`: complete and durable, or not at all. `points` are the
    /// failpoints after the temporary file and after the rename.
    pub(crate) fn write_durable(
        &self,
        path: &Path,
        bytes: &[u8],
        mode: u32,
        points: Option<[&str; 2]>,
    ) -> Result<(), StoreError> {
        let changed_above = disk::make_shard(path)?;
        let scratch = self.scratch()?;
        let temporary = scratch.path();
        files::write_new(&temporary, bytes, mode).context_during("write", path)?;
        recorder::note(|| Step::FileSynced(temporary.clone()));
        if let Some([after_write, _]) = points {
            olmo_base::failpoint(after_write);
        }
        self.put_in_place(&temporary, path).inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })?;
        if let Some([_, after_rename]) = points {
            olmo_base::failpoint(after_rename);
        }
        changed_above.as_deref().map_or(Ok(()), disk::sync_folder)?;
        path.parent().map_or(Ok(()), disk::sync_folder)
    }

    /// Renames the file `from` to `to` and replaces anything at `to`. Durable once the folder of
    /// `to` is synced.
    pub(crate) fn put_in_place(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        match disk::rename(from, to) {
            // A rename replaces everything but a folder.
            Err(StoreError::Io(e)) if e.source.kind() == io::ErrorKind::IsADirectory => {
                let seen = Seen::at(to);
                let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(seen) = seen {
                    self.quarantine(to, &format!("{name}.folder"), seen)?;
                }
                disk::rename(from, to)
            }
            other => other,
        }
    }

    /// Moves the file or folder at `path` to `quarantine/` and returns its new path; `None` if it is
    /// not there, or this process may only read the store.
    pub fn set_aside(&self, path: &Path, name: &str) -> Result<Option<PathBuf>, StoreError> {
        Seen::at(path).map_or(Ok(None), |seen| self.quarantine(path, name, seen))
    }

    /// Moves the damaged file at `path` to `quarantine/` and returns its new path. `seen` identifies
    /// the file that was found damaged. Returns `None` if another process has moved or replaced
    /// that file since, or if this process may only read the store.
    pub(crate) fn quarantine(&self, path: &Path, name: &str, seen: Seen) -> Result<Option<PathBuf>, StoreError> {
        if Seen::at(path) != Some(seen) {
            return Ok(None);
        }
        let folder = self.root.join(QUARANTINE);
        let mut n = 0u32;
        let kept = loop {
            let kept = folder.join(if n == 0 { name.to_owned() } else { format!("{name}.{n}") });
            if kept.symlink_metadata().is_err() {
                break kept;
            }
            n += 1;
        };
        match fs::rename(path, &kept) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound && folder.is_dir() => return Ok(None),
            Err(_) if self.is_read_only() => return Ok(None),
            Err(e) => return Err(PathError::during("move to quarantine/", path, e).into()),
        }
        if Seen::at(&kept) == Some(seen) {
            return Ok(Some(kept));
        }
        // A commit put a sound file in its place just before the rename: restore its name, unless
        // another one has it already.
        match fs::hard_link(&kept, path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => return Ok(fs::rename(&kept, path).map(|()| None).context_during("move back", path)?),
        }
        fs::remove_file(&kept).context_during("remove", &kept)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_seen_to_be_damaged_moves_to_quarantine() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("actions-v1/entry");
        fs::write(&path, "damaged").unwrap();
        let seen = Seen::at(&path).unwrap();
        fs::write(dir.path().join("sound"), "sound").unwrap();
        fs::rename(dir.path().join("sound"), &path).unwrap();
        assert_eq!(store.quarantine(&path, "entry", seen).unwrap(), None);
        assert_eq!(fs::read_to_string(&path).unwrap(), "sound");
        let seen = Seen::at(&path).unwrap();
        let kept = store.quarantine(&path, "entry", seen).unwrap().unwrap();
        assert_eq!(fs::read_to_string(kept).unwrap(), "sound");
        assert_eq!(store.quarantine(&path, "entry", seen).unwrap(), None, "it is gone");
    }
}
