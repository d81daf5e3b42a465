//! [`Store::repair`]: makes a damaged store sound again. Damaged files move to `quarantine/`. Lost
//! objects are restored from copies elsewhere. Manifests and actions that name a lost object are
//! removed, so that the stage that made it runs again.
//!
//! Runs and collections continue during a repair. Before a file moves to `quarantine/` it is checked
//! again while no commit or collection is in progress, and it moves only if it is the same file that
//! was found damaged.

use std::path::{Path, PathBuf};

use olmo_base::{ActionKey, ArtifactId, IoContext as _, ObjectId, files};

use crate::action::{Output, Unread as UnreadAction};
use crate::disk::{self, Seen};
use crate::error::StoreError;
use crate::manifest::{Entry, Unread as UnreadManifest};
use crate::verify::{Problem, ProblemKind};
use crate::{Manifest, Store};

/// The result of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Damaged files that were moved to `quarantine/`.
    pub quarantined: usize,
    /// Objects restored from a copy.
    pub healed: Vec<ObjectId>,
    /// Sound manifests and actions that named lost files, which moved to `quarantine/` as well.
    pub forgotten: usize,
}

impl Store {
    /// Repairs the problems found by [`Store::verify`]. `copies` returns files that may have the bytes of
    /// a lost object, by its size; they are only read. Afterwards [`Store::verify`] finds only damage
    /// that is new.
    pub fn repair(&self, problems: &[Problem], copies: &dyn Fn(u64) -> Vec<PathBuf>) -> Result<Repaired, StoreError> {
        let mut done = Repaired::default();
        let damaged: Vec<(&Path, String, Seen)> = problems.iter().filter_map(|p| self.still_damaged(p)).collect();
        if !damaged.is_empty() {
            let _alone = self.sweeping()?;
            for (path, name, seen) in damaged {
                done.quarantined += usize::from(self.quarantine(path, &name, seen)?.is_some());
            }
        }
        for problem in problems {
            let (object, artifacts) = match &problem.kind {
                ProblemKind::CorruptObject { object, artifacts } | ProblemKind::MissingObject { object, artifacts } => {
                    (*object, artifacts)
                }
                _ => continue,
            };
            let sizes = artifacts.iter().filter_map(|a| self.manifest(*a).ok());
            let size = sizes.flat_map(|m| m.files.into_values()).find(|e| e.object() == object).map(|e| e.size);
            let Some(size) = size else { continue };
            for copy in copies(size) {
                if self.heal(object, size, &copy)? {
                    done.healed.push(object);
                    break;
                }
            }
        }
        done.forgotten = self.forget_broken()?;
        Ok(done)
    }

    /// Checks again whether the file of `problem` is damaged. Returns its path, its name in
    /// `quarantine/` and its identity; `None` if it is sound or there is no file to move.
    fn still_damaged<'p>(&self, problem: &'p Problem) -> Option<(&'p Path, String, Seen)> {
        let path = problem.path.as_path();
        // Taken before the second check: a file that replaces it later is another one.
        let seen = Seen::at(path)?;
        let base = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = match &problem.kind {
            // A commit may have replaced it by a sound one.
            ProblemKind::CorruptObject { object, .. } if self.object_is_sound(*object) => return None,
            ProblemKind::CorruptObject { object, .. } => format!("{object}.object"),
            ProblemKind::DamagedManifest { artifact, .. } => match self.read_manifest(*artifact) {
                Err(UnreadManifest::Damaged(..)) => format!("{artifact}.manifest.json"),
                _ => return None,
            },
            ProblemKind::DamagedAction { key, .. } => match self.read_action(*key) {
                Err(UnreadAction::Damaged(..)) => format!("{key}.action.json"),
                _ => return None,
            },
            ProblemKind::DamagedTag { .. } => format!("{}.tag.json", base()),
            ProblemKind::Misplaced { .. } => format!("{}.misplaced", base()),
            // There is no file to move, or it is not ours.
            _ => return None,
        };
        Some((path, name, seen))
    }

    /// Restores `object` from the file `copy`, if it has the right bytes.
    fn heal(&self, object: ObjectId, size: u64, copy: &Path) -> Result<bool, StoreError> {
        let Ok((mut file, metadata)) = disk::open_regular(copy) else { return Ok(false) };
        if metadata.len() != size {
            return Ok(false);
        }
        let _using = self.using()?;
        let temporary = self.scratch()?.path();
        let place = self.object_path(object);
        let written = (|| {
            let mut to = files::create_new(&temporary, 0o444)?;
            let (found, _) = disk::copy_object(&mut file, &mut to)?;
            to.sync_all()?;
            Ok(found == object)
        })();
        if !matches!(written, Ok(true)) {
            let _ = std::fs::remove_file(&temporary);
            return Ok(written.context_during("copy", copy)?);
        }
        disk::make_shard(&place)?;
        self.put_in_place(&temporary, &place)?;
        place.parent().map_or(Ok(()), disk::sync_folder)?;
        Ok(true)
    }

    /// Moves manifests that name missing objects, and actions that name missing artifacts, to
    /// `quarantine/`. Local sources are not checked.
    fn forget_broken(&self) -> Result<usize, StoreError> {
        let mut forgotten = 0;
        // Actions first: a concurrent commit writes its manifests before its action.
        let keys = self.action_keys()?;
        let artifacts = self.names::<ArtifactId>("")?;
        let broken: Vec<ArtifactId> = artifacts.into_iter().filter(|artifact| self.is_broken(*artifact)).collect();
        if !broken.is_empty() {
            let _alone = self.sweeping()?;
            for artifact in broken.into_iter().filter(|artifact| self.is_broken(*artifact)) {
                let path = self.sharded(artifact);
                forgotten += self.forget(&path, &format!("{artifact}.manifest.json"))?;
            }
        }
        let names_what_is_gone = |key: &ActionKey| {
            let action = self.read_action(*key).ok();
            action
                .is_some_and(|a| !a.outputs.values().flat_map(Output::artifacts).all(|o| self.read_manifest(o).is_ok()))
        };
        let broken: Vec<ActionKey> = keys.into_iter().filter(names_what_is_gone).collect();
        if !broken.is_empty() {
            let _alone = self.sweeping()?;
            for key in broken.into_iter().filter(names_what_is_gone) {
                forgotten += self.forget(&self.sharded(key), &format!("{key}.action.json"))?;
            }
        }
        Ok(forgotten)
    }

    /// Whether the manifest of `artifact` is sound and names a missing object.
    fn is_broken(&self, artifact: ArtifactId) -> bool {
        let is_there = |entry: &Entry| {
            self.object_path(entry.object()).symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == entry.size)
        };
        let is_whole = |manifest: Manifest| manifest.files.values().all(|e| e.source.is_some() || is_there(e));
        self.read_manifest(artifact).is_ok_and(|manifest| !is_whole(manifest))
    }

    /// Moves the file `path` to `quarantine/`; returns how many files were moved.
    fn forget(&self, path: &Path, name: &str) -> Result<usize, StoreError> {
        let Some(seen) = Seen::at(path) else { return Ok(0) };
        Ok(usize::from(self.quarantine(path, name, seen)?.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ActionState;
    use crate::action::tests::store_with_action;
    use olmo_base::Diagnose as _;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    fn no_copies(_: u64) -> Vec<PathBuf> {
        Vec::new()
    }

    fn rot(path: &Path) {
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn what_is_lost_is_forgotten_and_the_store_is_sound_again() {
        let (_dir, store, key, _) = store_with_action();
        rot(&store.object_path(ObjectId::of(b"weights")));
        let problems = store.verify().unwrap();
        let done = store.repair(&problems, &no_copies).unwrap();
        // The object; its manifest and the action.
        assert_eq!(done, Repaired { quarantined: 1, healed: Vec::new(), forgotten: 2 });
        assert_eq!(store.verify().unwrap(), []);
        assert_eq!(store.action_state(key).unwrap(), ActionState::Absent);
        assert_eq!(fs::read_dir(store.root().join("quarantine")).unwrap().count(), 3);
    }

    #[test]
    fn what_a_copy_still_holds_comes_back() {
        let (dir, store, key, _) = store_with_action();
        rot(&store.object_path(ObjectId::of(b"weights")));
        fs::remove_file(store.object_path(ObjectId::of(b"step1"))).unwrap();
        let copies = ["another", "weights", "step1"].map(|text| {
            let path = dir.path().join(format!("copy of {text}"));
            fs::write(&path, text).unwrap();
            path
        });
        let find = |size: u64| copies.iter().filter(|p| fs::metadata(p).unwrap().len() == size).cloned().collect();
        let problems = store.verify().unwrap();
        let done = store.repair(&problems, &find).unwrap();
        assert_eq!((done.quarantined, done.healed.len(), done.forgotten), (1, 2, 0));
        assert_eq!(store.verify().unwrap(), []);
        assert!(store.action(key).unwrap().is_some());
        let object = store.object_path(ObjectId::of(b"weights"));
        assert_eq!(fs::metadata(object).unwrap().permissions().mode() & 0o777, 0o444);
    }

    #[test]
    fn an_object_that_was_made_anew_after_the_look_stays() {
        let (_dir, store, key, _) = store_with_action();
        let object = store.object_path(ObjectId::of(b"weights"));
        rot(&object);
        let problems = store.verify().unwrap();
        fs::remove_file(&object).unwrap();
        fs::write(&object, "weights").unwrap();
        assert_eq!(store.repair(&problems, &no_copies).unwrap(), Repaired::default());
        assert!(store.action(key).unwrap().is_some());
    }

    #[test]
    fn whatever_stands_in_the_place_of_anything_is_found_and_moved_away() {
        use crate::verify::tests::{INTRUDERS, intrude};
        for kind in INTRUDERS {
            let (_dir, store, key, action) = store_with_action();
            let artifact = action.outputs["model"].artifacts().next().unwrap();
            store.tag("mine", artifact, false).unwrap();
            store.pin(artifact).unwrap();
            let places = [
                store.object_path(ObjectId::of(b"step1")),
                store.sharded(artifact),
                store.sharded(key),
                store.root().join("tags-v1/mine"),
                store.root().join("pins-v1").join(artifact.hex()),
                store.root().join("locks-v1").join(key.hex()),
                store.root().join("tmp/1-x-0.lock"),
                store.root().join("index-v1/lock"),
                store.root().join("index-v1/db/conf"),
                store.root().join("stat-v1/ab/cd"),
            ];
            for place in &places {
                intrude(place, kind);
            }
            let problems = store.verify().unwrap();
            for place in &places {
                let found = problems.iter().filter(|p| p.path == *place).count();
                assert_eq!(found, 1, "{kind}, {}: {problems:?}", place.display());
            }
            let done = store.repair(&problems, &no_copies).unwrap();
            assert_eq!(done.quarantined, places.len(), "{kind}");
            assert_eq!(store.verify().unwrap(), [], "{kind}");
        }
    }

    #[test]
    fn a_store_whose_locks_and_folders_are_misplaced_is_opened_for_a_repair() {
        use crate::verify::tests::intrude;
        for name in ["open.lock", "collect.lock", "locks-v1", "tmp", "quarantine"] {
            let (_dir, store, key, _) = store_with_action();
            let root = store.root().to_owned();
            let key_is_there = |store: &Store| store.action(key).unwrap().is_some();
            drop(store);
            let path = root.join(name);
            let _ = fs::remove_dir_all(&path);
            intrude(&path, "fifo");
            let used = Store::open(&root).and_then(|store| store.using().map(drop));
            assert!(used.is_err_and(|e| e.hint().is_some()), "{name}");
            let (store, moved) = Store::open_for_repair(&root).unwrap();
            assert_eq!(moved.len(), 1, "{name}");
            assert_eq!(store.verify().unwrap(), [], "{name}");
            assert!(key_is_there(&store), "{name}");
        }
    }
}
