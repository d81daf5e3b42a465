//! [`Store::sweep`]: removes files that a collection found unused, while engines keep working.
//!
//! Three rules keep the two apart:
//!
//! - A commit or hit, which makes or relies on files, holds `collect.lock` shared; the sweep holds
//!   it exclusively while it decides and removes.
//! - Every use gives a file a new change time: a new file has one, and an existing file is touched.
//!   So a file that became used after the collection looked is younger than the look, and stays
//!   with everything that it names.
//! - Actions are removed first, then manifests, then objects: after a kill nothing names a missing
//!   file. After a power cut an action may reappear without its objects; it is no hit then.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use olmo_base::files::{self, open_or_create_regular, open_regular};
use olmo_base::{ActionKey, ArtifactId, IoContext as _, LockedFile, ObjectId, PathError, lock};

use crate::Store;
use crate::action::Output;
use crate::artifact::reference::SourceName;
use crate::disk::age::{Touched, touch, used};
use crate::disk::{self, Seen};
use crate::error::StoreError;
use crate::manifest::Entry;

/// The lock that keeps collections apart from commits and hits.
pub(crate) const LOCK: &str = "collect.lock";
/// How long a sweep waits for commits in progress.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of objects that are removed before waiting commits may proceed.
const BATCH: usize = 512;

/// The collection lock, held shared by a commit, hand-over or export. Released on drop. Empty if a
/// reader may not open the lock.
pub(crate) struct Using(#[expect(dead_code, reason = "dropping it releases the lock")] Option<LockedFile>);

/// Held shared by an engine from before it looks at its sources until its run can be seen.
const BEGIN_LOCK: &str = "begin.lock";

/// A run that begins. Dropped once its record can be seen.
#[derive(Debug)]
pub struct RunBeginning(#[expect(dead_code, reason = "dropping it releases the lock")] LockedFile);

/// The files that a sweep removes, as the collection saw them.
#[derive(Clone, Debug, Default)]
pub struct SweepPlan {
    /// All finished actions that the collection saw.
    pub seen: BTreeSet<ActionKey>,
    /// The actions to remove.
    pub actions: BTreeSet<ActionKey>,
    /// The artifacts to keep.
    pub artifacts: BTreeSet<ArtifactId>,
    /// Everything made or used since this time (nanoseconds since 1970) is kept.
    pub cutoff: i64,
}

/// Numbers of removed files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub actions: usize,
    pub artifacts: usize,
    pub objects: usize,
    /// Size of the removed objects in bytes.
    pub bytes: u64,
}

impl Store {
    /// Announces to collections that a run begins, whose record does not protect its sources yet.
    pub fn begin_run(&self) -> Result<RunBeginning, StoreError> {
        let path = self.root.join(BEGIN_LOCK);
        let file = open_or_create_regular(&path).context_during("open the lock file", &path)?;
        Ok(RunBeginning(LockedFile::shared(file).context_during("lock", &path)?))
    }

    /// Whether a run begins at this moment.
    pub fn is_run_beginning(&self) -> bool {
        lock::is_used(&self.root.join(BEGIN_LOCK))
    }

    /// Keeps sweeps away until the value is dropped.
    pub(crate) fn using(&self) -> Result<Using, StoreError> {
        let path = self.root.join(LOCK);
        if self.is_read_only() {
            // A reader of another user's store may be unable to lock.
            return Ok(Using(open_regular(&path).and_then(LockedFile::shared).ok()));
        }
        let file = open_or_create_regular(&path).context_during("open the lock file", &path)?;
        Ok(Using(Some(LockedFile::shared(file).context_during("lock", &path)?)))
    }

    /// Keeps everybody else away. Waits for commits and exports in progress.
    pub(crate) fn sweeping(&self) -> Result<Using, StoreError> {
        let path = self.root.join(LOCK);
        let file = open_or_create_regular(&path).context_during("open the lock file", &path)?;
        let lock = LockedFile::from_file_within(file, PATIENCE, Duration::from_millis(2));
        match lock.context_during("lock", &path)? {
            Some(lock) => Ok(Using(Some(lock))),
            None => Err(StoreError::Busy { root: self.root.clone() }),
        }
    }

    /// Protects the file at `path`, which is in use, from a sweep that has already decided.
    /// Returns `false` if the file is missing. Call it while holding [`Store::using`].
    pub(crate) fn renew(&self, path: &Path) -> Result<bool, StoreError> {
        if self.is_read_only() {
            return Ok(path.symlink_metadata().is_ok());
        }
        match touch(path) {
            Touched::Young => Ok(true),
            Touched::Gone => Ok(false),
            Touched::NotOurs => self.replace_by_copy(path),
        }
    }

    /// Replaces another user's file, which only its owner can touch, by a copy. Returns `false` if
    /// the file is missing.
    fn replace_by_copy(&self, path: &Path) -> Result<bool, StoreError> {
        let Some(seen) = Seen::at(path) else { return Ok(false) };
        let (mut from, metadata) = match disk::open_regular(path) {
            Ok(opened) => opened,
            Err(e) if e.is_missing_file() => return Ok(false),
            // Damaged or unreadable: using it will report that.
            Err(_) => return Ok(true),
        };
        let temporary = self.scratch()?.path();
        let copied = (|| {
            let to = files::create_new(&temporary, metadata.permissions().mode() & 0o777)?;
            if disk::clone_blocks(&from, &to).is_err() {
                io::copy(&mut from, &mut &to)?;
            }
            to.set_modified(metadata.modified()?)?;
            to.sync_all()
        })();
        let placed = copied.context_during("copy", path).map_err(StoreError::from).and_then(|()| {
            // A file that replaced it meanwhile is as young.
            if Seen::at(path) == Some(seen) { self.put_in_place(&temporary, path) } else { Ok(()) }
        });
        let _ = fs::remove_file(&temporary);
        placed.map(|()| path.symlink_metadata().is_ok())
    }

    /// When the finished action `key` was last used: nanoseconds since 1970.
    pub fn action_used(&self, key: ActionKey) -> Option<i64> {
        used(&self.sharded(key))
    }

    /// When the artifact was last committed or named: nanoseconds since 1970.
    pub fn artifact_used(&self, artifact: ArtifactId) -> Option<i64> {
        used(&self.sharded(artifact))
    }

    /// When the object was committed or was last linked or named: nanoseconds since 1970.
    pub fn object_used(&self, object: ObjectId) -> Option<i64> {
        used(&self.object_path(object))
    }

    /// Removes the files in `plan` that were not used meanwhile.
    pub fn sweep(&self, plan: &SweepPlan) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let mut live = plan.artifacts.clone();
        let held = self.sweeping()?;
        for key in self.action_keys()? {
            let path = self.sharded(key);
            let goes = plan.actions.contains(&key) && used(&path).is_some_and(|at| at < plan.cutoff);
            if goes {
                swept.actions += usize::from(remove(&path)?);
            } else if plan.actions.contains(&key) || !plan.seen.contains(&key) {
                // Used, or new, since the collection looked.
                live.extend(
                    self.recorded_action(key).iter().flat_map(|a| a.outputs.values()).flat_map(Output::artifacts),
                );
            }
        }
        let mut objects = BTreeSet::new();
        for artifact in self.names::<ArtifactId>("")? {
            let path = self.sharded(artifact);
            if live.contains(&artifact) || used(&path).is_none_or(|at| at >= plan.cutoff) {
                let Ok(manifest) = self.read_manifest(artifact) else { continue };
                objects.extend(manifest.files.values().filter(|e| e.source.is_none()).map(Entry::object));
            } else {
                swept.artifacts += usize::from(remove(&path)?);
            }
        }
        drop(held);
        let mut unused: Vec<ObjectId> = self.names("")?;
        unused.retain(|object| !objects.contains(object));
        for batch in unused.chunks(BATCH) {
            let _held = self.sweeping()?;
            for object in batch {
                let path = self.object_path(*object);
                let size = fs::symlink_metadata(&path).map_or(0, |m| m.len());
                if used(&path).is_some_and(|at| at < plan.cutoff) && remove(&path)? {
                    swept.objects += 1;
                    swept.bytes += size;
                }
            }
        }
        Ok(swept)
    }

    /// Size in bytes of unused auxiliary files: remembered digests of sources, unfinished downloads
    /// and quarantined files that were not touched since `cutoff` (nanoseconds since 1970). With
    /// `remove` they are removed.
    pub fn sweep_remains(&self, cutoff: i64, remove_them: bool) -> Result<u64, StoreError> {
        let mut bytes = 0;
        let mut old = |path: &Path| -> Result<(), StoreError> {
            let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
            if !metadata.is_dir() && used(path).is_some_and(|at| at < cutoff) {
                bytes += metadata.len();
                if remove_them {
                    remove(path)?;
                }
            }
            Ok(())
        };
        for entry in fs::read_dir(self.root.join(crate::layout::QUARANTINE)).into_iter().flatten().flatten() {
            old(&entry.path())?;
        }
        for name in self.names::<SourceName>("")? {
            old(&self.sharded(name))?;
        }
        // Downloads that no run continued.
        let mut folders = vec![self.downloads_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                // Removing a lock file would let two processes hold the lock.
                let lock = path.extension().is_some_and(|ending| ending == "lock");
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    _ if lock => {}
                    _ => old(&path)?,
                }
            }
        }
        Ok(bytes)
    }
}

/// Whether the file existed.
fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(PathError::during("remove", path, e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tests::{record, store_with_action};
    use crate::{Action, ActionState};
    use olmo_stage::PortType;

    /// Removes everything that is older than now and not named in `keep`.
    fn plan(store: &Store, keep: &[ArtifactId]) -> SweepPlan {
        let seen: BTreeSet<ActionKey> = store.action_keys().unwrap().into_iter().collect();
        SweepPlan { actions: seen.clone(), seen, artifacts: keep.iter().copied().collect(), cutoff: disk::now() }
    }

    #[test]
    fn a_sweep_removes_actions_artifacts_and_objects_and_leaves_what_is_named() {
        let (_dir, store, key, action) = store_with_action();
        let Output::Single(model) = action.outputs["model"] else { panic!() };
        let swept = store.sweep(&plan(&store, &[model])).unwrap();
        assert_eq!(swept, Swept { actions: 1, artifacts: 2, objects: 2, bytes: 10 });
        assert_eq!(store.action_state(key).unwrap(), ActionState::Absent);
        assert!(store.is_whole(model));
        assert_eq!(store.verify().unwrap(), []);
    }

    #[test]
    fn what_is_used_after_the_collection_looked_stays_with_all_that_it_names() {
        let (_dir, store, key, action) = store_with_action();
        let plan = plan(&store, &[]);
        std::thread::sleep(Duration::from_millis(20));
        // As a hit does, had the last touch been long ago.
        assert!(store.renew(&store.sharded(key)).unwrap());
        assert_eq!(store.sweep(&plan).unwrap(), Swept::default());
        assert!(store.action(key).unwrap().is_some());
        drop(action);
    }

    #[test]
    fn a_commit_of_what_is_there_already_keeps_it() {
        let (dir, store, _, _) = store_with_action();
        let plan = plan(&store, &[]);
        std::thread::sleep(Duration::from_millis(20));
        let folder = dir.path().join("again");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), "weights").unwrap();
        // A second name: the object is not replaced by this file.
        fs::hard_link(folder.join("file"), dir.path().join("second name")).unwrap();
        let model = store.commit_tree(PortType::Dir, &folder).unwrap();
        let new = Action::new(record(0.7), [("model".to_owned(), Output::Single(model))].into());
        let swept = store.sweep(&plan).unwrap();
        assert_eq!((swept.actions, swept.objects), (1, 2), "the old action and its other objects");
        store.commit_action(new.key.digest(), &new).unwrap();
        assert!(store.action(new.key.digest()).unwrap().is_some());
    }

    #[test]
    fn a_new_action_keeps_what_the_collection_did_not_know_to_be_used() {
        let (_dir, store, _, action) = store_with_action();
        let mut plan = plan(&store, &[]);
        let again = Action::new(record(0.9), action.outputs);
        store.commit_action(again.key.digest(), &again).unwrap();
        plan.cutoff = disk::now() + 1_000_000_000;
        let swept = store.sweep(&plan).unwrap();
        assert_eq!((swept.actions, swept.artifacts, swept.objects), (1, 0, 0));
        assert!(store.action(again.key.digest()).unwrap().is_some());
    }

    #[test]
    fn a_sweep_waits_for_a_commit_that_goes_on() {
        let (_dir, store, _, _) = store_with_action();
        let plan = plan(&store, &[]);
        let using = store.using().unwrap();
        std::thread::scope(|scope| {
            let sweep = scope.spawn(|| store.sweep(&plan).unwrap());
            std::thread::sleep(Duration::from_millis(30));
            assert!(!sweep.is_finished() && store.action_keys().unwrap().len() == 1);
            drop(using);
            assert_eq!(sweep.join().unwrap().actions, 1);
        });
    }

    #[test]
    fn a_touch_keeps_the_time_when_an_artifact_was_made() {
        let (_dir, store, _, action) = store_with_action();
        let path = store.sharded(action.outputs["model"].artifacts().next().unwrap());
        let (before, made) = (used(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
        std::thread::sleep(Duration::from_millis(20));
        assert!(store.renew(&path).unwrap() && used(&path).unwrap() > before);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), made);
        assert!(!store.renew(Path::new("/nowhere/at/all")).unwrap());
    }

    #[test]
    fn a_copy_in_the_place_of_anothers_file_is_young_and_the_same() {
        let (_dir, store, key, action) = store_with_action();
        let artifact = action.outputs["model"].artifacts().next().unwrap();
        for path in [store.sharded(key), store.sharded(artifact)] {
            let (before, old) = (fs::metadata(&path).unwrap(), used(&path).unwrap());
            std::thread::sleep(Duration::from_millis(20));
            assert!(store.replace_by_copy(&path).unwrap());
            let after = fs::metadata(&path).unwrap();
            assert_eq!(
                (after.modified().unwrap(), after.permissions()),
                (before.modified().unwrap(), before.permissions())
            );
            assert!(used(&path).unwrap() > old);
        }
        assert!(store.action(key).unwrap().is_some());
        assert!(!store.replace_by_copy(Path::new("/nowhere/at/all")).unwrap());
    }
}
