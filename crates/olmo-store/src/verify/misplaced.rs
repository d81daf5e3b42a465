//! Misplaced entries in a store's folder: links, FIFOs, devices and folders in the place of files,
//! and files in the place of folders. Commands refuse to open them, and a repair moves them to
//! `quarantine/`.

use std::fs;
use std::path::{Path, PathBuf};

use olmo_base::IoContext as _;
use olmo_base::files::kind_name;

use crate::disk::flock;
use crate::error::StoreError;
use crate::layout::{ACTIONS, ARTIFACTS, DOWNLOADS, FOLDERS, INDEX, LOCKS, OBJECTS, PINS, QUARANTINE, STAT, TMP};
use crate::verify::{Problem, ProblemKind};
use crate::{Store, disk, sweep};

/// Sled's only folder in its own.
const BLOBS: &str = "blobs";

/// The expected kind of file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    File,
    Folder,
}

/// Returns a problem if the file at `path` has another kind. A missing file is no problem.
fn look(path: PathBuf, wants: Wants) -> Option<Problem> {
    // A folder of the store may be a link to one: users move large folders to other disks.
    let metadata = match wants {
        Wants::File => fs::symlink_metadata(&path),
        Wants::Folder => fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)),
    };
    let kind = metadata.ok()?.file_type();
    let why = match wants {
        Wants::File if !kind.is_file() => format!("it is {}, not a regular file", kind_name(kind)),
        Wants::Folder if !kind.is_dir() => format!("it is {}, not a folder", kind_name(kind)),
        _ => return None,
    };
    Some(Problem { path, kind: ProblemKind::Misplaced { why } })
}

/// Whether `name` is that of a lock file.
fn is_lock(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == "lock")
}

impl Store {
    /// Finds misplaced entries, except in the place of manifests, actions, tags and objects, which
    /// are checked with their content.
    pub(crate) fn misplaced(&self) -> Result<Vec<Problem>, StoreError> {
        let mut found: Vec<Problem> = self.misplaced_at_open();
        for folder in [LOCKS, PINS, TMP, DOWNLOADS] {
            let place = self.root.join(folder);
            let locks_only = folder == TMP || folder == DOWNLOADS;
            let names = disk::names_in(&place)?.into_iter().filter(|name| !locks_only || is_lock(name));
            found.extend(names.filter_map(|name| look(place.join(name), Wants::File)));
        }
        for folder in [OBJECTS, ARTIFACTS, ACTIONS, STAT] {
            let place = self.root.join(folder);
            for shard in disk::names_in(&place)?.into_iter().filter(|name| name.len() == 2) {
                let shard = place.join(shard);
                found.extend(look(shard.clone(), Wants::Folder));
                if folder == STAT {
                    let names = disk::names_in(&shard)?.into_iter();
                    found.extend(names.filter_map(|name| look(shard.join(name), Wants::File)));
                }
            }
        }
        found.extend(look(self.root.join(INDEX).join("lock"), Wants::File));
        found.extend(misplaced_in_index(&self.root.join(INDEX).join("db")));
        Ok(found)
    }

    /// Finds the misplaced entries because of which [`Store::open`] fails.
    fn misplaced_at_open(&self) -> Vec<Problem> {
        let files = [flock::OPEN_LOCK, sweep::LOCK].map(|name| look(self.root.join(name), Wants::File));
        let folders = FOLDERS.iter().map(|name| look(self.root.join(name), Wants::Folder));
        files.into_iter().chain(folders).flatten().collect()
    }

    /// Opens the store in folder `root` for a repair: first moves everything to `quarantine/` that
    /// makes [`Store::open`] fail. Returns those problems too.
    pub fn open_for_repair(root: &Path) -> Result<(Self, Vec<Problem>), StoreError> {
        let problems = Self::read(root)?.misplaced_at_open();
        let quarantine = root.join(QUARANTINE);
        for problem in &problems {
            if problem.path == quarantine {
                let aside = root.join(format!("{QUARANTINE}.misplaced"));
                fs::rename(&quarantine, &aside).context_during("move away", &quarantine)?;
            }
            disk::make_folder(&quarantine)?;
            let name = problem.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let to = (0u32..).map(|n| quarantine.join(format!("{name}.misplaced.{n}")));
            let free = to.into_iter().find(|to| to.symlink_metadata().is_err());
            if let Some(to) = free.filter(|_| problem.path != quarantine) {
                fs::rename(&problem.path, to).context_during("move to quarantine/", &problem.path)?;
            }
        }
        Ok((Self::open(root)?, problems))
    }
}

/// Finds links, FIFOs and other things that sled would follow or wait for in its folder `place`.
pub(crate) fn misplaced_in_index(place: &Path) -> Vec<Problem> {
    let mut found: Vec<Problem> = Vec::new();
    // Not through a link either: sled removes files in that folder.
    let is_folder = fs::symlink_metadata(place).is_ok_and(|m| m.is_dir());
    if !is_folder {
        if let Ok(metadata) = fs::symlink_metadata(place) {
            let why = format!("it is {}, not a folder", kind_name(metadata.file_type()));
            found.push(Problem { path: place.to_owned(), kind: ProblemKind::Misplaced { why } });
        }
        return found;
    }
    let mut open = vec![place.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && folder == place && entry.file_name() == BLOBS => open.push(entry.path()),
                _ => found.extend(look(entry.path(), Wants::File)),
            }
        }
    }
    found
}
