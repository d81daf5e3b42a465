//! [`Place`]: the content of a result folder. [`put`] replaces it with the result of a run. Files
//! that olmo-pipe did not write are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use olmo_base::{Digest, IoContext as _, ObjectId, PathError, files};

use crate::run::error::RunError;
use crate::run::record::Git;
use crate::run::results::marker::{MARKER, Marker};
use crate::store::{Handover, Output, Store, swap_folders};

/// The content of a result folder, as found on disk.
#[derive(Default)]
pub(super) struct Place {
    marker: Option<Marker>,
    /// All files except the marker, by path.
    found: BTreeMap<String, Found>,
    /// Folders without any files.
    empty_folders: BTreeSet<String>,
}

/// A file, link or anything else that is not a folder.
struct Found {
    /// Digest, for a regular file.
    digest: Option<Digest>,
    identity: Identity,
    /// Whether olmo-pipe wrote the file and it was not changed since.
    ours: bool,
}

/// Identifies a version of a file, to notice whether it was replaced or written to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    ino: u64,
    size: u64,
    /// Nanoseconds since 1970.
    modified: i128,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { ino: metadata.ino(), size: metadata.len(), modified }
    }
}

impl Place {
    /// Reads the content of the folder `place`. A folder without a marker is adopted if the store
    /// holds every file in it, since early builds wrote no marker.
    ///
    /// # Errors
    /// [`RunError::ForeignResults`] if olmo-pipe did not create it.
    pub(super) fn inspect(place: &Path, store: &Store) -> Result<Self, RunError> {
        let foreign = |file: Option<String>| RunError::ForeignResults { place: place.to_owned(), file };
        match fs::symlink_metadata(place) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(PathError::during("look at", place, e).into()),
            Ok(metadata) if !metadata.is_dir() => return Err(foreign(None)),
            Ok(_) => {}
        }
        let mut inspected = Self { marker: Marker::read(place), ..Self::default() };
        inspected.collect(place, "").context_during("read the folder", place)?;
        match &inspected.marker {
            Some(marker) => {
                for (path, found) in &mut inspected.found {
                    found.ours = found.digest.is_some() && marker.files.get(path) == found.digest.as_ref();
                }
            }
            None => {
                // A file of an export has the bytes of an object.
                let is_stored =
                    |found: &Found| found.digest.is_some_and(|digest| store.has_object(ObjectId::new(digest)));
                if let Some((path, _)) = inspected.found.iter().find(|(_, found)| !is_stored(found)) {
                    return Err(foreign(Some(path.clone())));
                }
                inspected.found.values_mut().for_each(|found| found.ours = true);
            }
        }
        Ok(inspected)
    }

    fn collect(&mut self, folder: &Path, name: &str) -> io::Result<()> {
        let mut is_empty = true;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            is_empty = false;
            // A name that is not UTF-8 can only belong to the user's own file. If it has to move,
            // it gets its displayed name.
            let own = entry.file_name().to_string_lossy().into_owned();
            if name.is_empty() && own == MARKER {
                continue;
            }
            let below = if name.is_empty() { own } else { format!("{name}/{own}") };
            let metadata = fs::symlink_metadata(entry.path())?;
            if metadata.is_dir() {
                self.collect(&entry.path(), &below)?;
                continue;
            }
            let digest = match metadata.is_file() {
                true => Some(Digest::of_reader(&mut files::open_regular(&entry.path())?)?.0),
                false => None,
            };
            self.found.insert(below, Found { digest, identity: Identity::of(&metadata), ours: false });
        }
        if is_empty && !name.is_empty() {
            self.empty_folders.insert(name.to_owned());
        }
        Ok(())
    }

    /// Whether the folder holds every file of `marker` and no file of an older result.
    fn is_current(&self, marker: &Marker) -> bool {
        let holds =
            |(path, digest): (&String, &Digest)| self.found.get(path).is_some_and(|f| f.digest == Some(*digest));
        let is_old = |(path, found): (&String, &Found)| found.ours && !marker.files.contains_key(path);
        marker.files.iter().all(holds) && !self.found.iter().any(is_old)
    }
}

/// Makes the folder `place` a copy of `output` with `marker`. Files that olmo-pipe did not write
/// stay or are set aside; in the latter case, a notice is added to `notices`. Calls `git` only if
/// the marker has to be written.
///
/// # Errors
/// As for [`crate::run::results::export::export`].
pub(super) fn put(
    store: &Store,
    output: &Output,
    place: &Path,
    mut marker: Marker,
    git: &dyn Fn() -> Option<Git>,
    notices: &mut Vec<String>,
) -> Result<(), RunError> {
    let staging = Staging::at(place);
    let mut aside = SetAside { place, notices };
    aside.clear_leftover(&staging, store)?;
    let inspected = Place::inspect(place, store)?;
    if inspected.is_current(&marker) && place.is_dir() {
        return match &inspected.marker {
            Some(there) if there.is_same_result(&marker) => Ok(()),
            _ => {
                marker.set_git(git());
                marker.write(place)
            }
        };
    }
    marker.set_git(git());
    let new = staging.fill(store, output)?;
    marker.write(&new)?;
    for folder in &inspected.empty_folders {
        // If a file of the result is in the way, the empty folder may be dropped.
        let _ = fs::create_dir_all(new.join(folder));
    }
    for (path, found) in inspected.found.iter().filter(|(_, found)| !found.ours) {
        if marker.files.get(path) == found.digest.as_ref() && found.digest.is_some() {
            continue;
        }
        let (from, to) = (place.join(path), new.join(path));
        // A file of the new result may occupy its path, or the path of a parent folder.
        let is_free = fs::symlink_metadata(&to).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        let linked =
            is_free && to.parent().is_some_and(|above| fs::create_dir_all(above).is_ok()) && link(&from, &to).is_ok();
        if !linked {
            aside.link(&from, path)?;
        }
    }
    swap(&new, place).context_during("put in place", place)?;
    aside.clear_old(&new, &inspected)?;
    staging.remove()
}

/// `.NAME.new/`: the folder in which a new result is prepared and an old one is taken apart. Only
/// `files` in it is complete; anything else is unfinished.
struct Staging(PathBuf);

impl Staging {
    fn at(place: &Path) -> Self {
        Self(sibling(place, ".", ".new"))
    }

    /// The complete folder.
    fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    /// Writes the files of `output`.
    fn fill(&self, store: &Store, output: &Output) -> Result<PathBuf, RunError> {
        fs::create_dir_all(&self.0).context_during("make the folder", &self.0)?;
        let files = self.files();
        match output {
            Output::Single(artifact) => store.materialize(*artifact, &files, Handover::Copy)?,
            Output::List(items) => {
                let unfinished = self.0.join("items");
                fs::create_dir_all(&unfinished).context_during("make the folder", &unfinished)?;
                for item in items {
                    store.materialize(item.digest, &unfinished.join(&item.label), Handover::Copy)?;
                }
                fs::rename(&unfinished, &files).context_during("rename", &unfinished)?;
            }
        }
        Ok(files)
    }

    fn remove(&self) -> Result<(), RunError> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                Ok(fs::remove_file(&self.0).context_during("remove", &self.0)?)
            }
            removed => Ok(removed.context_during("remove", &self.0)?),
        }
    }
}

/// The sibling of `place` whose name is that of `place` between `before` and `after`.
fn sibling(place: &Path, before: &str, after: &str) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!("{before}{name}{after}"))
}

/// Hard-links a file, symbolic link or special file. Falls back to a copy where hard links are not
/// possible.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|error| {
        let metadata = fs::symlink_metadata(from)?;
        if metadata.is_symlink() {
            return std::os::unix::fs::symlink(fs::read_link(from)?, to);
        }
        if metadata.is_file() { fs::copy(from, to).map(drop) } else { Err(error) }
    })
}

/// Moves files that are in the way to `NAME.set-aside/`.
struct SetAside<'a> {
    place: &'a Path,
    notices: &'a mut Vec<String>,
}

impl SetAside<'_> {
    /// Links the file `from`, whose path in the result is `path`, into the set-aside folder.
    fn link(&mut self, from: &Path, path: &str) -> Result<(), RunError> {
        let kept = self.free_name(path)?;
        link(from, &kept).context_during("set aside", from)?;
        self.report(path, &kept);
        Ok(())
    }

    /// Moves the file `from` into the set-aside folder.
    fn take(&mut self, from: &Path, path: &str) -> Result<(), RunError> {
        let kept = self.free_name(path)?;
        fs::rename(from, &kept).context_during("set aside", from)?;
        self.report(path, &kept);
        Ok(())
    }

    fn free_name(&self, path: &str) -> Result<PathBuf, RunError> {
        let folder = sibling(self.place, "", ".set-aside");
        for n in 1u32.. {
            let kept = folder.join(if n == 1 { path.to_owned() } else { format!("{path}.{n}") });
            let above = kept.parent().unwrap_or(&folder);
            let made = fs::create_dir_all(above);
            match made {
                Ok(()) if fs::symlink_metadata(&kept).is_err() => return Ok(kept),
                Ok(()) => {}
                // A file with the name of a parent folder was set aside before.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists) => {
                    return Ok(sibling(above, "", &format!(".{}", path.replace('/', "_"))));
                }
                Err(e) => return Err(PathError::during("make the folder", above, e).into()),
            }
        }
        unreachable!("a folder holds fewer than 2^32 files")
    }

    fn report(&mut self, path: &str, kept: &Path) {
        self.notices.push(format!(
            "{} was not written by olmo-pipe or was changed since, and the new result needs its path: it is kept as {}",
            self.place.join(path).display(),
            kept.display()
        ));
    }

    /// Removes the old folder `old` after the swap. Files that changed since `inspected` are kept.
    fn clear_old(&mut self, old: &Path, inspected: &Place) -> Result<(), RunError> {
        self.clear(old, &|path, metadata| {
            // Files that are not ours are linked elsewhere by now.
            inspected.found.get(path).is_some_and(|found| found.identity == Identity::of(metadata))
        })
    }

    /// Removes what a killed run left. Files that exist nowhere else are kept.
    fn clear_leftover(&mut self, staging: &Staging, store: &Store) -> Result<(), RunError> {
        let left = staging.files();
        self.clear(&left, &|path, metadata| {
            let is_stored = || {
                let file = files::open_regular(&left.join(path)).ok();
                let object = file.and_then(|mut file| ObjectId::of_reader(&mut file).ok());
                object.is_some_and(|(object, _)| store.has_object(object))
            };
            metadata.nlink() > 1 || metadata.is_symlink() || is_stored()
        })?;
        staging.remove()
    }

    fn clear(&mut self, folder: &Path, is_safe: &dyn Fn(&str, &Metadata) -> bool) -> Result<(), RunError> {
        match fs::symlink_metadata(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            Ok(metadata) if metadata.is_dir() => {}
            _ => return Ok(fs::remove_file(folder).context_during("remove", folder)?),
        }
        self.clear_below(folder, "", is_safe)?;
        Ok(fs::remove_dir_all(folder).context_during("remove", folder)?)
    }

    fn clear_below(
        &mut self,
        folder: &Path,
        name: &str,
        is_safe: &dyn Fn(&str, &Metadata) -> bool,
    ) -> Result<(), RunError> {
        for entry in fs::read_dir(folder).context_during("read the folder", folder)?.flatten() {
            let own = entry.file_name().to_string_lossy().into_owned();
            let below = if name.is_empty() { own } else { format!("{name}/{own}") };
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).context_during("look at", &path)?;
            let is_marker = matches!(below.as_str(), MARKER | ".olmo-pipe.json.tmp");
            if metadata.is_dir() {
                self.clear_below(&path, &below, is_safe)?;
            } else if !is_marker && !is_safe(&below, &metadata) {
                self.take(&path, &below)?;
            }
        }
        Ok(())
    }
}

/// Swaps the folders `new` and `place`, or moves `new` to `place` if that does not exist.
fn swap(new: &Path, place: &Path) -> io::Result<()> {
    if fs::symlink_metadata(place).is_err() { fs::rename(new, place) } else { swap_folders(new, place) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::results::marker::MadeBy;
    use crate::spec::PortRef;
    use crate::store::ListItem;
    use olmo_base::{ActionKey, ArtifactId};
    use olmo_stage::PortType;

    struct Bench {
        dir: tempfile::TempDir,
        store: Store,
        notices: Vec<String>,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("store")).unwrap();
            fs::create_dir_all(dir.path().join("out/e")).unwrap();
            Self { dir, store, notices: Vec::new() }
        }

        fn artifact(&self, text: &str) -> ArtifactId {
            let folder = self.dir.path().join(format!("made-{text}"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("file"), text).unwrap();
            self.store.commit_tree(PortType::Text, &folder).unwrap()
        }

        fn place(&self) -> PathBuf {
            self.dir.path().join("out/e/text")
        }

        fn put(&mut self, output: &Output) -> Result<(), RunError> {
            let port = PortRef { stage: "s".into(), port: "text".into() };
            let made_by = MadeBy { run: "r".into(), experiment: "e".into(), params: serde_json::Map::new(), git: None };
            let keys = BTreeMap::from([(String::new(), ActionKey::new(Digest::of(b"key")))]);
            let marker = Marker::new(made_by, None, &port, keys, output, &self.store)?;
            put(&self.store, output, &self.place(), marker, &|| None, &mut self.notices)
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.place().join(path)).unwrap()
        }
    }

    #[test]
    fn a_result_is_replaced_whole_and_a_list_has_a_folder_for_each_label() {
        let mut bench = Bench::new();
        let (a, b) = (bench.artifact("a"), bench.artifact("b"));
        bench.put(&Output::Single(a)).unwrap();
        bench.put(&Output::Single(b)).unwrap();
        assert_eq!(bench.read("file"), "b");
        let item = |label: &str, digest| ListItem { label: label.into(), digest };
        bench.put(&Output::List(vec![item("step1", a), item("step2", b)])).unwrap();
        assert_eq!((bench.read("step1/file"), bench.read("step2/file")), ("a".into(), "b".into()));
        assert!(!bench.place().join("file").exists());
        // A user's file where a list item now needs a folder.
        bench.put(&Output::Single(a)).unwrap();
        fs::write(bench.place().join("step1"), "mine").unwrap();
        bench.put(&Output::List(vec![item("step1", a)])).unwrap();
        assert_eq!(bench.read("step1/file"), "a");
        assert_eq!(fs::read_to_string(bench.dir.path().join("out/e/text.set-aside/step1")).unwrap(), "mine");
        assert_eq!(bench.notices.len(), 1);
        let mut left: Vec<_> =
            fs::read_dir(bench.dir.path().join("out/e")).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["text", "text.set-aside"], "no unfinished folder remains");
    }

    #[test]
    fn a_result_that_is_current_is_left_alone_and_a_lost_file_comes_back() {
        let mut bench = Bench::new();
        let output = Output::Single(bench.artifact("a"));
        bench.put(&output).unwrap();
        let identity = |bench: &Bench| fs::metadata(bench.place().join("file")).unwrap().ino();
        let first = identity(&bench);
        bench.put(&output).unwrap();
        assert_eq!(identity(&bench), first, "it was not written again");
        fs::remove_file(bench.place().join("file")).unwrap();
        bench.put(&output).unwrap();
        assert_eq!(bench.read("file"), "a");
        // A damaged marker must not make a user's file ours.
        fs::write(bench.place().join(MARKER), "{").unwrap();
        bench.put(&output).unwrap();
        fs::write(bench.place().join("file"), "edited").unwrap();
        fs::remove_file(bench.place().join(MARKER)).unwrap();
        assert!(matches!(bench.put(&output), Err(RunError::ForeignResults { file: Some(file), .. }) if file == "file"));
        assert_eq!(bench.read("file"), "edited");
    }
}
