//! [`Store::repair`]: makes a damaged store sound again. Damaged files move to `quarantine/`;
//! what a copy elsewhere still holds comes back from there; what is lost for good is forgotten,
//! so that the stage that made it runs again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use olmo_stage::Digest;

use super::action::{Output, Unread as UnreadAction};
use super::error::StoreError;
use super::manifest::Unread as UnreadManifest;
use super::verify::{Problem, ProblemKind};
use super::{ACTIONS, ARTIFACTS, Store, disk};

/// What a repair has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Damaged files that were moved to `quarantine/`.
    pub quarantined: usize,
    /// Objects that came back from a copy.
    pub healed: Vec<Digest>,
    /// Sound manifests and actions that named what is gone, moved to `quarantine/` too.
    pub forgotten: usize,
}

impl Store {
    /// Repairs what [`Store::verify`] found. `copies` names files that may hold the bytes of a
    /// lost object, by its size; they are read and left alone. Afterwards [`Store::verify`] finds no damage,
    /// unless new damage came meanwhile.
    pub fn repair(&self, problems: &[Problem], copies: &dyn Fn(u64) -> Vec<PathBuf>) -> Result<Repaired, StoreError> {
        let mut done = Repaired::default();
        for problem in problems {
            let name = match &problem.kind {
                // A commit may have put a sound one in its place meanwhile.
                ProblemKind::CorruptObject { object, .. } if self.object_is_sound(*object) => continue,
                ProblemKind::CorruptObject { object, .. } => format!("{object}.object"),
                ProblemKind::DamagedManifest { artifact, .. } => format!("{artifact}.manifest.json"),
                ProblemKind::DamagedAction { key, .. } => format!("{key}.action.json"),
                ProblemKind::DamagedTag { .. } => {
                    format!("{}.tag.json", problem.path.file_name().unwrap_or_default().to_string_lossy())
                }
                // Nothing is there to be moved, or it is not ours.
                _ => continue,
            };
            self.quarantine(&problem.path, &name)?;
            done.quarantined += 1;
        }
        for problem in problems {
            let (object, artifacts) = match &problem.kind {
                ProblemKind::CorruptObject { object, artifacts } | ProblemKind::MissingObject { object, artifacts } => {
                    (*object, artifacts)
                }
                _ => continue,
            };
            let sizes = artifacts.iter().filter_map(|a| self.manifest(*a).ok());
            let size = sizes.flat_map(|m| m.files.into_values()).find(|e| e.digest == object).map(|e| e.size);
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

    fn object_is_sound(&self, object: Digest) -> bool {
        let opened = disk::open_regular(&self.object_path(object));
        opened.is_ok_and(|(mut file, _)| Digest::of_reader(&mut file).is_ok_and(|(digest, _)| digest == object))
    }

    /// Takes the bytes of `object` from the file `copy`, if it holds them.
    fn heal(&self, object: Digest, size: u64, copy: &Path) -> Result<bool, StoreError> {
        let Ok((mut file, metadata)) = disk::open_regular(copy) else { return Ok(false) };
        if metadata.len() != size {
            return Ok(false);
        }
        let _using = self.using()?;
        let temporary = self.scratch()?.path();
        let place = self.object_path(object);
        let written = (|| {
            let mut to = disk::create_new(&temporary, 0o444)?;
            let (digest, _) = disk::copy_hashed(&mut file, &mut to)?;
            to.sync_all()?;
            Ok(digest == object)
        })();
        if !matches!(written, Ok(true)) {
            let _ = std::fs::remove_file(&temporary);
            return written.map_err(StoreError::io("copy", copy));
        }
        disk::make_shard(&place)?;
        std::fs::rename(&temporary, &place).map_err(StoreError::io("write", &place))?;
        place.parent().map_or(Ok(()), disk::sync_folder)?;
        Ok(true)
    }

    /// Moves manifests that name objects which are gone, and actions that name artifacts which
    /// are gone, to `quarantine/`. Local sources are not looked at: they are not the store's.
    fn forget_broken(&self) -> Result<usize, StoreError> {
        let _using = self.using()?;
        let (mut forgotten, mut whole) = (0, BTreeSet::new());
        for artifact in self.names(ARTIFACTS, "")? {
            let manifest = match self.read_manifest(artifact) {
                Ok(manifest) => manifest,
                Err(UnreadManifest::Absent | UnreadManifest::Damaged(_) | UnreadManifest::Io(_)) => continue,
            };
            let there = |digest: Digest, size: u64| {
                self.object_path(digest).symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == size)
            };
            if manifest.files.values().all(|e| e.source.is_some() || there(e.digest, e.size)) {
                whole.insert(artifact);
                continue;
            }
            self.quarantine(&self.sharded(ARTIFACTS, artifact), &format!("{artifact}.manifest.json"))?;
            forgotten += 1;
        }
        for key in self.action_keys()? {
            let action = match self.read_action(key) {
                Ok(action) => action,
                Err(UnreadAction::Absent | UnreadAction::Damaged(_) | UnreadAction::Io(_)) => continue,
            };
            if !action.outputs.values().flat_map(Output::artifacts).all(|artifact| whole.contains(&artifact)) {
                self.quarantine(&self.sharded(ACTIONS, key), &format!("{key}.action.json"))?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ActionState;
    use crate::store::action::tests::store_with_action;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

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
        rot(&store.object_path(Digest::of(b"weights")));
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
        rot(&store.object_path(Digest::of(b"weights")));
        fs::remove_file(store.object_path(Digest::of(b"step1"))).unwrap();
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
        let object = store.object_path(Digest::of(b"weights"));
        assert_eq!(fs::metadata(object).unwrap().permissions().mode() & 0o777, 0o444);
    }

    #[test]
    fn an_object_that_was_made_anew_after_the_look_stays() {
        let (_dir, store, key, _) = store_with_action();
        let object = store.object_path(Digest::of(b"weights"));
        rot(&object);
        let problems = store.verify().unwrap();
        fs::remove_file(&object).unwrap();
        fs::write(&object, "weights").unwrap();
        assert_eq!(store.repair(&problems, &no_copies).unwrap(), Repaired::default());
        assert!(store.action(key).unwrap().is_some());
    }
}
