//! The named results of a run under `out/EXPERIMENT/NAME`: copies for people, made anew when
//! they are not what the run made. The store keeps the originals.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use olmo_stage::Digest;

use super::board::{Board, End};
use super::error::RunError;
use crate::spec::Resolved;
use crate::store::{Handover, Output, Store};

/// The folder of an experiment's results.
pub fn folder(resolved: &Resolved) -> PathBuf {
    resolved.root.join("out").join(&resolved.experiment)
}

/// Puts each named output of `resolved` whose stage is done into its folder, one by one (what
/// differs between the trials of a sweep into a folder for each trial):
/// what was under a name is replaced at once, by what is complete. A kill leaves at most a
/// folder whose name begins with a dot, which the next run removes.
pub fn export(resolved: &Resolved, board: &Board, store: &Store) -> Result<BTreeMap<String, PathBuf>, RunError> {
    let folder = folder(resolved);
    let mut results = BTreeMap::new();
    let shared = resolved.outputs.iter().map(|(name, port)| (None, name, port));
    let of_trials = resolved
        .trials
        .iter()
        .flat_map(|trial| trial.outputs.iter().map(|(name, port)| (Some(trial.name.as_str()), name, port)));
    for (trial, name, port) in shared.chain(of_trials) {
        let Some(End::Done(outputs)) = board.stage(&port.stage).map(|s| &board.stages[s].end) else { continue };
        let Some(output) = outputs.get(&port.port) else { continue };
        let folder = trial.map_or_else(|| folder.clone(), |trial| folder.join(trial));
        put(store, output, &folder, name)?;
        let shown = trial.map_or_else(|| name.clone(), |trial| format!("{trial}/{name}"));
        results.insert(shown, folder.join(name));
    }
    Ok(results)
}

fn put(store: &Store, output: &Output, folder: &Path, name: &str) -> Result<(), RunError> {
    fs::create_dir_all(folder).map_err(RunError::io("make the folder", folder))?;
    let (new, place) = (folder.join(format!(".{name}.new")), folder.join(name));
    remove(&new)?;
    if is_there(store, output, &place) {
        return Ok(());
    }
    match output {
        Output::Single(artifact) => store.materialize(*artifact, &new, Handover::Copy)?,
        Output::List(items) => {
            fs::create_dir_all(&new).map_err(RunError::io("make the folder", &new))?;
            for item in items {
                store.materialize(item.digest, &new.join(&item.label), Handover::Copy)?;
            }
        }
    }
    swap(&new, &place).map_err(RunError::io("put in place", &place))?;
    remove(&new)
}

/// Whether `place` holds exactly the files of `output`, byte by byte: reading them is cheaper
/// than writing them again, and their times stay.
fn is_there(store: &Store, output: &Output, place: &Path) -> bool {
    let parts: Vec<(PathBuf, Digest)> = match output {
        Output::Single(artifact) => vec![(PathBuf::new(), *artifact)],
        Output::List(items) => items.iter().map(|item| (item.label.clone().into(), item.digest)).collect(),
    };
    let mut expected = BTreeMap::new();
    for (below, artifact) in parts {
        let Ok(manifest) = store.manifest(artifact) else { return false };
        expected.extend(manifest.files.into_iter().map(|(path, entry)| (place.join(&below).join(path), entry)));
    }
    let mut found = BTreeSet::new();
    if files_below(place, &mut found).is_err() || !found.iter().eq(expected.keys()) {
        return false;
    }
    expected.iter().all(|(path, entry)| Digest::of_file(path).is_ok_and(|(digest, _)| digest == entry.digest))
}

fn files_below(folder: &Path, found: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), found)?;
        } else {
            found.insert(entry.path());
        }
    }
    Ok(())
}

/// Afterwards `place` is what `new` was, and `new`, if it exists, what `place` was.
fn swap(new: &Path, place: &Path) -> std::io::Result<()> {
    if fs::symlink_metadata(place).is_err() {
        return fs::rename(new, place);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE) {
            // Some file systems cannot do both at once.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            other => return Ok(other?),
        }
    }
    let old = new.with_extension("old");
    fs::rename(place, &old)?;
    fs::rename(new, place)?;
    fs::rename(&old, new)
}

fn remove(path: &Path) -> Result<(), RunError> {
    let removed = match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(RunError::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ListItem;
    use olmo_stage::PortType;

    fn artifact(store: &Store, dir: &Path, text: &str) -> Digest {
        let folder = dir.join(format!("made-{text}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("file"), text).unwrap();
        store.commit_tree(PortType::Text, &folder).unwrap()
    }

    #[test]
    fn a_result_is_replaced_whole_and_a_list_has_a_folder_for_each_label() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let out = dir.path().join("out/e");
        let (a, b) = (artifact(&store, dir.path(), "a"), artifact(&store, dir.path(), "b"));
        put(&store, &Output::Single(a), &out, "text").unwrap();
        fs::write(out.join("text/edited by hand"), "x").unwrap();
        put(&store, &Output::Single(b), &out, "text").unwrap();
        assert_eq!(fs::read_to_string(out.join("text/file")).unwrap(), "b");
        let item = |label: &str, digest| ListItem { label: label.into(), digest };
        put(&store, &Output::List(vec![item("step1", a), item("step2", b)]), &out, "text").unwrap();
        assert_eq!(fs::read_to_string(out.join("text/step1/file")).unwrap(), "a");
        assert!(!out.join("text/file").exists());
        let left: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["text"], "nothing half-made stays");
    }

    #[test]
    fn a_result_that_is_there_is_left_alone_and_an_edited_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let out = dir.path().join("out/e");
        let output = Output::Single(artifact(&store, dir.path(), "a"));
        let identity = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(out.join("text/file")).unwrap());
        put(&store, &output, &out, "text").unwrap();
        let first = identity();
        put(&store, &output, &out, "text").unwrap();
        assert_eq!(identity(), first, "it was not written again");
        for (file, text) in [("file", "b"), ("more", "x")] {
            fs::write(out.join("text").join(file), text).unwrap();
            put(&store, &output, &out, "text").unwrap();
            assert_eq!(fs::read_dir(out.join("text")).unwrap().count(), 1);
            assert_eq!(fs::read_to_string(out.join("text/file")).unwrap(), "a");
        }
    }
}
