//! The test that a commit reaches the disk in the right order, by what [`crate::disk`] records.
//! `scripts/commit-order` checks the same by the system calls of a real process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use olmo_stage::PortType;

use crate::action::tests::record;
use crate::disk::{Step, recorder};
use crate::layout::{ACTIONS, ARTIFACTS, OBJECTS};
use crate::{Action, Output, Store};

/// Objects before manifests before actions.
fn rank(path: &Path) -> Option<usize> {
    let inside = |folder: &str| path.components().any(|c| c.as_os_str() == folder);
    [OBJECTS, ARTIFACTS, ACTIONS].iter().position(|folder| inside(folder))
}

/// Checks that names come after bytes, and what names something after the folder of what it
/// names; what is wrong, in words.
fn check(steps: &[Step]) -> Result<usize, String> {
    let mut safe: Vec<&Path> = Vec::new();
    let mut pending: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let (mut named, mut highest) = (0, 0);
    for step in steps {
        match step {
            Step::FileSynced(path) => safe.push(path),
            Step::FolderSynced(folder) => drop(pending.remove(folder)),
            Step::FolderMade(folder) => {
                if let (Some(rank), Some(parent)) = (rank(folder), folder.parent()) {
                    pending.insert(parent.to_owned(), rank);
                }
            }
            Step::Renamed(from, to) => {
                let Some(rank) = rank(to) else { continue };
                if !safe.contains(&from.as_path()) {
                    return Err(format!("{} was named before its bytes were safe", to.display()));
                }
                if rank < highest {
                    return Err(format!("{} was named after what names it", to.display()));
                }
                highest = rank;
                if let Some((folder, _)) = pending.iter().find(|(_, below)| **below < rank) {
                    return Err(format!("{} was named while {} is not safe", to.display(), folder.display()));
                }
                pending.insert(to.parent().unwrap().to_owned(), rank);
                named += 1;
            }
        }
    }
    match pending.into_keys().next() {
        None => Ok(named),
        Some(folder) => Err(format!("{} was never made safe", folder.display())),
    }
}

/// The steps of one commit of two files, with its action.
fn steps() -> Vec<Step> {
    steps_of(&[("a".into(), "one".into()), ("b".into(), "two".into())])
}

/// The steps of one commit of `files` (name and content), with its action.
fn steps_of(files: &[(String, String)]) -> Vec<Step> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let folder = dir.path().join("out");
    fs::create_dir(&folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    recorder::take();
    let model = store.commit_tree(PortType::Dir, &folder).unwrap();
    let action = Action::new(record(0.1), BTreeMap::from([("model".to_owned(), Output::Single(model))]));
    store.commit_action(action.key.digest(), &action).unwrap();
    recorder::take()
}

#[test]
fn a_commit_reaches_the_disk_in_the_right_order() {
    assert_eq!(check(&steps()), Ok(4), "two objects, a manifest, an action");
}

#[test]
fn a_commit_of_many_files_reaches_the_disk_in_the_right_order() {
    // Each content twice: 100 objects.
    let files: Vec<_> = (0..200).map(|n| (n.to_string(), format!("content {}", n / 2))).collect();
    let steps = steps_of(&files);
    assert_eq!(check(&steps), Ok(100 + 2));
    let synced = steps.iter().filter(|step| matches!(step, Step::FileSynced(_))).count();
    assert_eq!(synced, 100 + 2, "equal files are written once");
}

#[test]
fn a_commit_without_any_one_of_its_syncs_would_be_noticed() {
    let steps = steps();
    let syncs: Vec<usize> =
        (0..steps.len()).filter(|at| matches!(steps[*at], Step::FileSynced(_) | Step::FolderSynced(_))).collect();
    assert!(syncs.len() >= 8, "{steps:?}");
    for at in syncs {
        let mut fewer = steps.clone();
        let left_out = fewer.remove(at);
        assert!(check(&fewer).is_err(), "without {left_out:?}");
    }
    // An action before its manifest.
    let mut swapped = steps.clone();
    let last = swapped.iter().rposition(|s| matches!(s, Step::Renamed(..))).unwrap();
    let action: Vec<Step> = swapped.drain(last - 1..=last).collect();
    swapped.splice(0..0, action);
    assert!(check(&swapped).is_err());
}
