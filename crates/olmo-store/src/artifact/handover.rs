//! [`Store::materialize`]: an artifact as a folder of files, with every byte checked.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use olmo_base::{ArtifactId, Digest, IoContext as _, ObjectId, PathError, files};

use crate::artifact::reference;
use crate::disk::Seen;
use crate::error::StoreError;
use crate::manifest::Entry;
use crate::{Store, disk};

/// How often an object may be replaced while it is handed over.
const MOST_REPLACED: u32 = 1000;

/// How files leave the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// Read-only hard links, and symbolic links to sources. Takes no space. Only for our own workers:
    /// a change to such a file changes the store.
    Link,
    /// Separate, writable files: reflinks if the file system has them, else copies. For users'
    /// commands and for exports.
    Copy,
    /// Like `Copy`, but an error if the file system has no reflinks.
    Reflink,
    /// Like `Copy`, but never a reflink.
    Bytes,
    /// Read-only hard links to objects, and copies of sources; an error across file systems. A change
    /// to such a file, once it is made writable, changes the store.
    HardLink,
}

impl Store {
    /// Creates the folder `destination` with the files of `artifact`, complete or not at all. It must
    /// be missing or empty.
    ///
    /// The bytes of every file are hashed. A damaged object moves to `quarantine/`. The error names it,
    /// or a source that has changed.
    ///
    /// Collections wait meanwhile.
    pub fn materialize(&self, artifact: ArtifactId, destination: &Path, how: Handover) -> Result<(), StoreError> {
        let _using = self.using()?;
        let manifest = self.manifest(artifact)?;
        if !is_free(destination).context_during("look at", destination)? {
            return Err(StoreError::DestinationExists { path: destination.to_owned() });
        }
        let parent = destination.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk::make_folder(parent)?;
        let unfinished = unfinished_beside(parent, destination);
        let filled = (|| {
            disk::make_folder(&unfinished)?;
            for (path, entry) in &manifest.files {
                let to = unfinished.join(path);
                to.parent().map_or(Ok(()), disk::make_folder)?;
                match &entry.source {
                    None => self.hand_object(artifact, entry, &to, how)?,
                    Some(source) => hand_source(artifact, entry, source, &to, how)?,
                }
            }
            Ok(fs::rename(&unfinished, destination).context_during("make the folder", destination)?)
        })();
        if filled.is_err() {
            let _ = fs::remove_dir_all(&unfinished);
        }
        filled
    }

    /// The path on disk of each file of `artifact`, by path in the artifact. Nothing is hashed, so this
    /// is for reading headers, not for results.
    pub fn places(&self, artifact: ArtifactId) -> Result<BTreeMap<String, PathBuf>, StoreError> {
        let manifest = self.manifest(artifact)?;
        let place = |entry: &Entry| entry.source.clone().unwrap_or_else(|| self.object_path(entry.object()));
        Ok(manifest.files.iter().map(|(path, entry)| (path.clone(), place(entry))).collect())
    }

    fn hand_object(&self, artifact: ArtifactId, entry: &Entry, to: &Path, how: Handover) -> Result<(), StoreError> {
        let object = self.object_path(entry.object());
        let (mut file, metadata) = match disk::open_regular(&object) {
            Ok(open) => open,
            Err(e) if e.is_missing_file() => {
                return Err(StoreError::MissingObject { object: entry.object(), artifact });
            }
            Err(StoreError::Refused { .. }) => return Err(self.corrupt(artifact, entry, Seen::at(&object))),
            Err(e) => return Err(e),
        };
        // Plain files and programs share one object, so a program must be a copy.
        let how = match how {
            Handover::Link | Handover::HardLink if entry.executable => Handover::Copy,
            how => how,
        };
        let mode = if entry.executable { 0o755 } else { 0o644 };
        let mut replaced = 0;
        let (digest, _) = match how {
            Handover::Link | Handover::HardLink => loop {
                let hashed = Digest::of_reader(&mut file).context_during("read", &object)?;
                if hashed.0 != entry.digest {
                    break hashed;
                }
                match fs::hard_link(&object, to) {
                    Ok(()) => break hashed,
                    // A commit of the same bytes has replaced the file since it was opened.
                    Err(e) if e.kind() == io::ErrorKind::NotFound && replaced < MOST_REPLACED && object.exists() => {
                        replaced += 1;
                        file = disk::open_regular(&object)?.0;
                    }
                    Err(source) if disk::cannot_link(&source) && how == Handover::HardLink => {
                        return Err(StoreError::CannotShare { how: "a hard link", to: to.to_owned(), source });
                    }
                    Err(e) if disk::cannot_link(&e) => {
                        let mut again = disk::open_regular(&object)?.0;
                        break copy(&mut again, to, 0o444, Handover::Copy)?;
                    }
                    Err(e) => return Err(PathError::during("link", to, e).into()),
                }
            },
            Handover::Copy | Handover::Reflink | Handover::Bytes => copy(&mut file, to, mode, how)?,
        };
        if digest == entry.digest { Ok(()) } else { Err(self.corrupt(artifact, entry, Some(Seen::of(&metadata)))) }
    }

    /// Opens a file of `artifact` for reading, in the store or outside it. The caller must check the
    /// digest and report another one through [`Store::not_as_named`].
    pub fn open_file(&self, artifact: ArtifactId, entry: &Entry) -> Result<File, StoreError> {
        match &entry.source {
            Some(source) => {
                let missing = |e| StoreError::SourceMissing { path: source.clone(), artifact, source: e };
                disk::open_source(source).map_err(missing)
            }
            None => Ok(disk::open_regular(&self.object_path(entry.object()))?.0),
        }
    }

    /// The error for a file that was opened but cannot be read.
    pub fn unreadable(&self, entry: &Entry, error: io::Error) -> StoreError {
        let path = entry.source.clone().unwrap_or_else(|| self.object_path(entry.object()));
        PathError::during("read", &path, error).into()
    }

    /// The error for a file whose bytes have the digest `found`. A damaged object is moved away.
    pub fn not_as_named(&self, artifact: ArtifactId, entry: &Entry, found: Digest) -> StoreError {
        match &entry.source {
            Some(path) => StoreError::SourceChanged { path: path.clone(), old: entry.digest, new: found },
            None => {
                // A commit may have replaced it by a sound object since.
                let path = self.object_path(entry.object());
                let seen = Seen::at(&path).filter(|_| !self.object_is_sound(entry.object()));
                self.corrupt(artifact, entry, seen)
            }
        }
    }

    /// Moves away an object that was `seen` to be damaged. Returns the error that says so.
    pub(crate) fn corrupt(&self, artifact: ArtifactId, entry: &Entry, seen: Option<Seen>) -> StoreError {
        let (path, name) = (self.object_path(entry.object()), format!("{}.object", entry.object()));
        match seen.map_or(Ok(None), |seen| self.quarantine(&path, &name, seen)) {
            Ok(kept) => StoreError::Corrupt { object: entry.object(), artifact, kept },
            Err(e) => e,
        }
    }

    pub(crate) fn object_is_sound(&self, object: ObjectId) -> bool {
        let opened = disk::open_regular(&self.object_path(object));
        opened.is_ok_and(|(mut file, _)| ObjectId::of_reader(&mut file).is_ok_and(|(found, _)| found == object))
    }
}

fn hand_source(artifact: ArtifactId, entry: &Entry, source: &Path, to: &Path, how: Handover) -> Result<(), StoreError> {
    let missing = |source_error| StoreError::SourceMissing { path: source.to_owned(), artifact, source: source_error };
    let new = match how {
        Handover::Link => {
            let (digest, _) = reference::hash_source(source).map_err(missing)?;
            std::os::unix::fs::symlink(source, to).context_during("link", to)?;
            digest
        }
        Handover::Copy | Handover::Reflink | Handover::Bytes | Handover::HardLink => {
            let mut file = disk::open_source(source).map_err(missing)?;
            let program = file.metadata().is_ok_and(|m| m.mode() & 0o100 != 0);
            let how = if how == Handover::HardLink { Handover::Copy } else { how };
            copy(&mut file, to, if program { 0o755 } else { 0o644 }, how)?.0
        }
    };
    if new == entry.digest {
        return Ok(());
    }
    Err(StoreError::SourceChanged { path: source.to_owned(), old: entry.digest, new })
}

/// Creates the file `to` with the bytes of `from`. Returns the digest and size of `to`.
fn copy(from: &mut File, to: &Path, mode: u32, how: Handover) -> Result<(Digest, u64), StoreError> {
    let mut file = files::create_new(to, mode).context_during("write", to)?;
    let shared = if how == Handover::Bytes { Ok(()) } else { disk::clone_blocks(from, &file) };
    let hashed = match shared {
        // Check the file that was handed over.
        Ok(()) if how != Handover::Bytes => Digest::of_file(to),
        Err(source) if how == Handover::Reflink => {
            return Err(StoreError::CannotShare { how: "a reflink", to: to.to_owned(), source });
        }
        _ => disk::copy_hashed(from, &mut file),
    };
    Ok(hashed.context_during("copy to", to)?)
}

/// Whether `path` is missing, or an empty folder (which a rename replaces).
fn is_free(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
        Ok(metadata) if !metadata.is_dir() => Ok(false),
        Ok(_) => Ok(fs::read_dir(path)?.next().is_none()),
    }
}

/// A name in the same folder for the unfinished `destination`.
pub(crate) fn unfinished_beside(parent: &Path, destination: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = destination.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    parent.join(format!(".{name}.unfinished-{}-{count}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_stage::PortType;
    use std::os::unix::fs::PermissionsExt as _;

    fn committed() -> (tempfile::TempDir, Store, ArtifactId) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let folder = dir.path().join("out");
        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        fs::write(folder.join("deep/weights"), "weights").unwrap();
        let artifact = store.commit_tree(PortType::Model, &folder).unwrap();
        (dir, store, artifact)
    }

    fn rot(path: &Path, text: &str) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_link_shares_the_object_and_a_copy_is_the_receivers_own() {
        let (dir, store, artifact) = committed();
        let (link, copy) = (dir.path().join("a/link"), dir.path().join("b/copy"));
        store.materialize(artifact, &link, Handover::Link).unwrap();
        store.materialize(artifact, &copy, Handover::Copy).unwrap();
        let object = store.object_path(ObjectId::of(b"weights"));
        let ino = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(ino(&link.join("deep/weights")), ino(&object));
        assert_eq!(fs::metadata(link.join("deep/weights")).unwrap().mode() & 0o777, 0o444);
        assert_ne!(ino(&copy.join("deep/weights")), ino(&object));
        fs::write(copy.join("deep/weights"), "changed").unwrap();
        assert_eq!(fs::read_to_string(&object).unwrap(), "weights");
        assert_eq!(fs::read_to_string(copy.join("config.json")).unwrap(), "{}");
    }

    #[test]
    fn an_object_that_a_commit_replaces_meanwhile_is_handed_over() {
        let (dir, store, artifact) = committed();
        let object = store.object_path(ObjectId::of(b"weights"));
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // As a commit of the same bytes does.
                let new = dir.path().join("new");
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::write(&new, "weights").unwrap();
                    fs::rename(&new, &object).unwrap();
                }
            });
            let handed: Result<Vec<()>, StoreError> = (0..2000)
                .map(|number| {
                    let how = if number % 2 == 0 { Handover::Link } else { Handover::HardLink };
                    let to = dir.path().join("to");
                    store.materialize(artifact, &to, how)?;
                    fs::remove_dir_all(&to).unwrap();
                    Ok(())
                })
                .collect();
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            handed.unwrap();
        });
    }

    #[test]
    fn a_rotten_object_is_named_moved_away_and_made_again_by_a_commit() {
        for how in [Handover::Link, Handover::Copy] {
            let (dir, store, artifact) = committed();
            let object = store.object_path(ObjectId::of(b"weights"));
            rot(&object, "weighTs");
            assert!(store.is_whole(artifact), "a stat cannot see it");
            let to = dir.path().join("to");
            let error = store.materialize(artifact, &to, how).unwrap_err();
            let StoreError::Corrupt { object: named, artifact: of, kept } = &error else { panic!("{error}") };
            assert_eq!((*named, *of), (ObjectId::of(b"weights"), artifact));
            assert_eq!(fs::read_to_string(kept.as_ref().unwrap()).unwrap(), "weighTs");
            assert!(!object.exists() && !to.exists(), "nothing half-made is left");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the store and out/");
            assert!(!store.is_whole(artifact));
            assert!(matches!(store.materialize(artifact, &to, how), Err(StoreError::MissingObject { .. })));

            let again = dir.path().join("again");
            fs::create_dir_all(again.join("deep")).unwrap();
            fs::write(again.join("config.json"), "{}").unwrap();
            fs::write(again.join("deep/weights"), "weights").unwrap();
            assert_eq!(store.commit_tree(PortType::Model, &again).unwrap(), artifact);
            store.materialize(artifact, &to, how).unwrap();
        }
    }

    #[test]
    fn an_object_that_was_replaced_by_a_link_is_corrupt_not_followed() {
        let (dir, store, artifact) = committed();
        let object = store.object_path(ObjectId::of(b"weights"));
        let secret = dir.path().join("weights");
        fs::write(&secret, "weights").unwrap();
        fs::remove_file(&object).unwrap();
        std::os::unix::fs::symlink(&secret, &object).unwrap();
        assert!(!store.is_whole(artifact));
        let error = store.materialize(artifact, &dir.path().join("to"), Handover::Copy).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }

    #[test]
    fn a_folder_with_files_is_never_written_into() {
        let (dir, store, artifact) = committed();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        store.materialize(artifact, &to, Handover::Copy).unwrap();
        let error = store.materialize(artifact, &to, Handover::Copy).unwrap_err();
        assert!(matches!(error, StoreError::DestinationExists { .. }), "{error}");
        let file = dir.path().join("file");
        fs::write(&file, "mine").unwrap();
        assert!(store.materialize(artifact, &file, Handover::Copy).is_err());
        assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    }

    #[test]
    fn a_reference_is_linked_or_copied_and_checked_on_each_use() {
        let (dir, store, _) = committed();
        let source = dir.path().join("data.jsonl");
        fs::write(&source, "old").unwrap();
        let artifact = store.commit_reference(PortType::File, &source).unwrap();
        let (link, copy) = (dir.path().join("link"), dir.path().join("copy"));
        store.materialize(artifact, &link, Handover::Link).unwrap();
        store.materialize(artifact, &copy, Handover::Copy).unwrap();
        assert!(fs::symlink_metadata(link.join("data.jsonl")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(link.join("data.jsonl")).unwrap(), "old");
        fs::write(copy.join("data.jsonl"), "my own").unwrap();
        assert_eq!(fs::read_to_string(&source).unwrap(), "old");

        fs::write(&source, "new").unwrap();
        for how in [Handover::Link, Handover::Copy] {
            let error = store.materialize(artifact, &dir.path().join("to"), how).unwrap_err();
            let StoreError::SourceChanged { old, new, path } = &error else { panic!("{error}") };
            assert_eq!((*old, *new), (Digest::of(b"old"), Digest::of(b"new")));
            assert!(path.ends_with("data.jsonl"));
        }
        fs::remove_file(&source).unwrap();
        for how in [Handover::Link, Handover::Copy] {
            let error = store.materialize(artifact, &dir.path().join("to"), how).unwrap_err();
            assert!(matches!(error, StoreError::SourceMissing { .. }), "{error}");
        }
    }
}
