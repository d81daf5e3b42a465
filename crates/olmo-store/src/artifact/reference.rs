//! Local source files as artifacts: their bytes stay in place ([`Store::commit_reference`]).
//!
//! Hashing 100 GB in each run is too slow, so `stat-v1/` remembers the digest of a file by its path.
//! It is used while the file's [`Stamp`] is unchanged and was settled when the file was read (git's
//! racy rule). This only saves reading during planning; a hand-over always reads.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use olmo_base::digest::DigestError;
use olmo_base::{ArtifactId, Digest, IoContext as _, PathError};
use olmo_stage::PortType;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::disk::{self, Small, Stamp};
use crate::disk::{seal, tree};
use crate::error::StoreError;
use crate::layout::{FileName, STAT};
use crate::manifest::{Entry, Manifest};

const KIND: &str = "stat";

/// The name of the file in `stat-v1/` for a source file: the digest of its path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceName(Digest);

impl SourceName {
    fn new(path: &Path) -> Self {
        Self(Digest::of(path.as_os_str().as_encoded_bytes()))
    }
}

impl FileName for SourceName {
    const FOLDER: &'static str = STAT;
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SourceName {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// The remembered digest of a source file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    stamp: Stamp,
    digest: Digest,
}

/// Stamps of the source files of some artifacts, taken before a stage reads them.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct SourceStamps(Vec<(PathBuf, Stamp)>);

impl SourceStamps {
    /// Adds the stamp of the file `path`.
    ///
    /// # Errors
    /// The file is gone.
    pub fn add(&mut self, path: &Path) -> io::Result<()> {
        let mut stamp = Stamp::of(&fs::metadata(path)?);
        let age = disk::now().saturating_sub(stamp.changed);
        if (0..CLOCK_TICK.as_nanos() as i64).contains(&age) {
            // A change within the same tick would not change the stamp.
            std::thread::sleep(CLOCK_TICK);
            stamp = Stamp::of(&fs::metadata(path)?);
        }
        self.0.push((path.to_owned(), stamp));
        Ok(())
    }
}

/// The marker of a folder of results.
pub const RESULT_MARKER: &str = ".olmo-pipe.json";

/// The files of the source `path`, by their names in an artifact of type `artifact_type`: the file, or
/// what a folder contains ([`Store::commit_reference`]).
///
/// # Errors
/// The source cannot be read, or has a name that no artifact may have.
pub fn source_files(artifact_type: PortType, path: &Path) -> Result<BTreeMap<String, PathBuf>, StoreError> {
    let metadata = fs::metadata(path).context_during("read the source", path)?;
    if !metadata.is_dir() {
        let (name, full) = resolve_file(path)?;
        tree::check_paths([name.as_str()].into_iter()).map_err(|why| StoreError::refused(path, why))?;
        return Ok(BTreeMap::from([(name, full)]));
    }
    let folder = fs::canonicalize(path).context_during("read the source", path)?;
    let files = tree::files(&folder, tree::Links::FollowFiles)?.into_iter().map(|file| (file.path, file.full));
    Ok(files.filter(|(name, _)| !is_bookkeeping(artifact_type, name)).collect())
}

/// Whether the file `name` of a source folder says nothing about its content.
fn is_bookkeeping(artifact_type: PortType, name: &str) -> bool {
    name == RESULT_MARKER || (artifact_type == PortType::Model && name.starts_with('.'))
}

/// Longest time in which two changes of a file can have the same change time: a tick of the kernel's
/// clock is 1 to 10 ms.
const CLOCK_TICK: Duration = Duration::from_millis(20);

impl Store {
    /// Adds the stamps of the sources of `artifact` to `stamps`; none for an artifact in the store. Call
    /// it before [`Store::materialize`] checks their content.
    ///
    /// # Errors
    /// A source is gone.
    pub fn stamp_sources(&self, artifact: ArtifactId, stamps: &mut SourceStamps) -> Result<(), StoreError> {
        for entry in self.manifest(artifact)?.files.values() {
            let Some(path) = &entry.source else { continue };
            let missing = |source| StoreError::SourceMissing { path: path.clone(), artifact, source };
            stamps.add(path).map_err(missing)?;
        }
        Ok(())
    }

    /// Checks that the sources were not written to since `stamps` were taken, even with their old content:
    /// a stage may have read them in between.
    ///
    /// # Errors
    /// A file was written to, or is gone.
    pub fn check_stamps(&self, stamps: &SourceStamps) -> Result<(), StoreError> {
        for (path, before) in &stamps.0 {
            let metadata = fs::metadata(path).context_during("read the source", path)?;
            if Stamp::of(&metadata) != *before {
                return Err(StoreError::SourceTouched { path: path.clone() });
            }
        }
        Ok(())
    }

    /// Commits the file or folder at `path` as an artifact without copying it. The digest depends on the
    /// content and the names of the files (the name of a file, or the paths inside a folder), not on
    /// `path`. Links to files are followed. Not part of it: the marker of a result folder, and
    /// hidden files and folders at the top of a model's folder, such as `.git` and `.cache`.
    pub fn commit_reference(&self, artifact_type: PortType, path: &Path) -> Result<ArtifactId, StoreError> {
        let files = source_files(artifact_type, path)?;
        if files.is_empty() {
            return Err(StoreError::refused(path, "it is a folder without files"));
        }
        let mut entries = BTreeMap::new();
        for (name, full) in files {
            if full.to_str().is_none() {
                return Err(StoreError::refused(&full, "its path is not Unicode text"));
            }
            let (digest, size) = self.source_digest(&full)?;
            entries.insert(name, Entry { source: Some(full), ..Entry::plain(digest, size) });
        }
        let manifest = Manifest::new(artifact_type, entries).map_err(|why| StoreError::refused(path, why))?;
        let _using = self.using()?;
        self.put_manifest(&manifest)
    }

    /// Checks that the sources of `artifact` have not changed: by stamp if one is remembered, else by
    /// reading. Call it after a stage has read them and before its outputs are committed. An artifact
    /// in the store needs no check.
    pub fn check_sources(&self, artifact: ArtifactId) -> Result<(), StoreError> {
        for entry in self.manifest(artifact)?.files.values() {
            let Some(path) = &entry.source else { continue };
            let (new, _) = match self.source_digest(path) {
                Ok(read) => read,
                Err(StoreError::Io(PathError { path, source, .. })) if source.kind() == io::ErrorKind::NotFound => {
                    return Err(StoreError::SourceMissing { path, artifact, source });
                }
                Err(e) => return Err(e),
            };
            if new != entry.digest {
                return Err(StoreError::SourceChanged { path: path.clone(), old: entry.digest, new });
            }
        }
        Ok(())
    }

    /// The digest and size of a source file. It is read only if its digest is not remembered.
    fn source_digest(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let name = SourceName::new(path);
        let memory = self.sharded(name);
        let look = || fs::metadata(path).context_during("read the source", path);
        let before = Stamp::of(&look()?);
        if let Some(remembered) = self.remembered(&memory, name).filter(|r| r.stamp == before) {
            return Ok((remembered.digest, before.size));
        }
        let read_at = disk::now();
        let (digest, size) = hash_source(path).context_during("read the source", path)?;
        if Stamp::of(&look()?) != before || size != before.size {
            return Err(StoreError::ChangedWhileRead { path: path.to_owned() });
        }
        if before.settled_before(read_at) {
            // A failure costs only time: the file is read again.
            let _ = self.remember(&memory, name, &Remembered { stamp: before, digest });
        }
        Ok((digest, size))
    }

    fn remembered(&self, memory: &Path, name: SourceName) -> Option<Remembered> {
        let Small::Bytes(text, _) = disk::read_small(memory, disk::LARGEST_MARK).ok()? else { return None };
        serde_json::from_str(seal::open(KIND, &name.to_string(), &text).ok()?).ok()
    }

    fn remember(&self, memory: &Path, name: SourceName, what: &Remembered) -> Result<(), StoreError> {
        if self.is_read_only() && !self.has_format()? {
            // A reader creates no files.
            return Ok(());
        }
        let body = serde_json::to_string(what).map_err(|e| PathError::during("write", memory, e.into()))?;
        disk::make_shard(memory)?;
        let temporary = self.scratch()?.path();
        // Not synced: after a power cut it is complete, or damaged and therefore ignored.
        fs::write(&temporary, seal::seal(KIND, &name.to_string(), &body)).context_during("write", memory)?;
        self.put_in_place(&temporary, memory)
    }
}

/// Digest and size of a source. A link is followed; only a regular file is read.
pub(crate) fn hash_source(path: &Path) -> io::Result<(Digest, u64)> {
    Digest::of_reader(&mut disk::open_source(path)?)
}

/// A file's own name, and its absolute path without links in its folders.
fn resolve_file(path: &Path) -> Result<(String, PathBuf), StoreError> {
    let full = std::path::absolute(path).context_during("find", path)?;
    let (Some(name), Some(parent)) = (full.file_name(), full.parent()) else {
        return Err(StoreError::refused(path, "it has no name"));
    };
    let Some(name) = name.to_str() else {
        return Err(StoreError::refused(path, "its name is not Unicode text"));
    };
    let parent = fs::canonicalize(parent).context_during("find", path)?;
    Ok((name.to_owned(), parent.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::ObjectId;
    use std::fs::File;
    use std::time::SystemTime;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_reference_is_named_by_content_and_name_not_by_place() {
        let (dir, store) = store();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        for folder in [&here, &there] {
            fs::create_dir_all(folder.join("deep")).unwrap();
            fs::write(folder.join("data.jsonl"), "text").unwrap();
            fs::write(folder.join("deep/more"), "more").unwrap();
        }
        let file = store.commit_reference(PortType::File, &here.join("data.jsonl")).unwrap();
        assert_eq!(file, store.commit_reference(PortType::File, &there.join("data.jsonl")).unwrap());
        let folder = store.commit_reference(PortType::Dir, &here).unwrap();
        assert_eq!(folder, store.commit_reference(PortType::Dir, &there).unwrap());
        assert!(store.is_whole(folder));
        assert!(store.names::<ObjectId>("").unwrap().is_empty(), "nothing is copied");
        fs::rename(there.join("data.jsonl"), there.join("other.jsonl")).unwrap();
        assert_ne!(file, store.commit_reference(PortType::File, &there.join("other.jsonl")).unwrap());
        // The same artifact by content: committed for good, it needs its source no longer.
        let copy = dir.path().join("copy");
        fs::create_dir(&copy).unwrap();
        fs::copy(here.join("data.jsonl"), copy.join("data.jsonl")).unwrap();
        assert_eq!(file, store.commit_tree(PortType::File, &copy).unwrap());
        assert!(!store.manifest(file).unwrap().is_reference());
        store.commit_reference(PortType::File, &here.join("data.jsonl")).unwrap();
        assert!(!store.manifest(file).unwrap().is_reference(), "a reference never replaces what is stored");
    }

    #[test]
    fn what_downloads_and_results_leave_in_a_folder_is_not_part_of_it() {
        let (dir, store) = store();
        let folder = dir.path().join("model");
        fs::create_dir_all(folder.join("deep/.kept")).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        fs::write(folder.join("deep/.kept/file"), "").unwrap();
        let plain = [PortType::Model, PortType::Dir].map(|kind| store.commit_reference(kind, &folder).unwrap());
        fs::write(folder.join(RESULT_MARKER), "run 7").unwrap();
        assert_eq!(plain, [PortType::Model, PortType::Dir].map(|kind| store.commit_reference(kind, &folder).unwrap()));
        fs::create_dir_all(folder.join(".git/objects")).unwrap();
        fs::write(folder.join(".git/objects/pack"), "large").unwrap();
        assert_eq!(plain[0], store.commit_reference(PortType::Model, &folder).unwrap());
        assert_ne!(
            plain[1],
            store.commit_reference(PortType::Dir, &folder).unwrap(),
            "any folder may hold what it likes"
        );
        fs::remove_file(folder.join("deep/.kept/file")).unwrap();
        assert_ne!(plain[0], store.commit_reference(PortType::Model, &folder).unwrap());
    }

    #[test]
    fn a_changed_or_removed_source_is_noticed() {
        let (dir, store) = store();
        let path = dir.path().join("data");
        fs::write(&path, "old text").unwrap();
        let artifact = store.commit_reference(PortType::File, &path).unwrap();
        store.check_sources(artifact).unwrap();
        fs::write(&path, "new text").unwrap();
        assert!(store.is_whole(artifact), "a stat cannot see it");
        let error = store.check_sources(artifact).unwrap_err();
        let StoreError::SourceChanged { old, new, .. } = &error else { panic!("{error}") };
        assert_eq!((*old, *new), (Digest::of(b"old text"), Digest::of(b"new text")));
        fs::write(&path, "longer text").unwrap();
        assert!(!store.is_whole(artifact));
        fs::remove_file(&path).unwrap();
        assert!(matches!(store.check_sources(artifact), Err(StoreError::SourceMissing { .. })));
    }

    #[test]
    fn a_source_that_changes_and_changes_back_is_noticed() {
        let (dir, store) = store();
        let path = dir.path().join("data");
        fs::write(&path, "old text").unwrap();
        let artifact = store.commit_reference(PortType::File, &path).unwrap();
        let mut stamps = SourceStamps::default();
        store.stamp_sources(artifact, &mut stamps).unwrap();
        store.check_stamps(&stamps).unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "new text").unwrap();
        fs::write(&path, "old text").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        store.check_sources(artifact).unwrap();
        assert!(matches!(store.check_stamps(&stamps), Err(StoreError::SourceTouched { .. })));
    }

    #[test]
    fn a_settled_file_is_read_once_and_a_fresh_one_every_time() {
        let (dir, store) = store();
        let path = dir.path().join("data");
        fs::write(&path, "text").unwrap();
        store.source_digest(&path).unwrap();
        assert!(store.names::<SourceName>("").unwrap().is_empty(), "a fresh file is not remembered");

        let name = SourceName::new(&path);
        let memory = store.sharded(name);
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let marked = Digest::of(b"marked");
        store.remember(&memory, name, &Remembered { stamp, digest: marked }).unwrap();
        assert_eq!(store.source_digest(&path).unwrap().0, marked, "the remembered digest is believed");
        // Same size, same modification time, but the change time tells.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "tex2").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(store.source_digest(&path).unwrap().0, Digest::of(b"tex2"));
        // A damaged memory is none.
        let mut text = fs::read(&memory).unwrap();
        let at = text.len() / 2;
        text[at] ^= 4;
        fs::write(&memory, text).unwrap();
        assert_eq!(store.source_digest(&path).unwrap().0, Digest::of(b"tex2"));
    }

    #[test]
    fn an_old_modification_time_alone_does_not_settle_a_file() {
        let (dir, _store) = store();
        let path = dir.path().join("data");
        fs::write(&path, "text").unwrap();
        let old = SystemTime::now() - Duration::from_secs(3600);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        assert!(!Stamp::of(&fs::metadata(&path).unwrap()).settled_before(disk::now()));
    }

    #[test]
    fn links_to_files_are_followed_as_model_hubs_lay_them_out() {
        let (dir, store) = store();
        fs::create_dir_all(dir.path().join("blobs")).unwrap();
        fs::create_dir_all(dir.path().join("snapshot")).unwrap();
        fs::write(dir.path().join("blobs/1234"), "weights").unwrap();
        std::os::unix::fs::symlink("../blobs/1234", dir.path().join("snapshot/model.safetensors")).unwrap();
        let artifact = store.commit_reference(PortType::Model, &dir.path().join("snapshot")).unwrap();
        let manifest = store.manifest(artifact).unwrap();
        assert_eq!(manifest.files["model.safetensors"].digest, Digest::of(b"weights"));
        let file = store.commit_reference(PortType::File, &dir.path().join("snapshot/model.safetensors")).unwrap();
        assert_eq!(store.manifest(file).unwrap().files.keys().collect::<Vec<_>>(), ["model.safetensors"]);
    }

    #[test]
    fn pipes_and_empty_folders_are_refused() {
        let (dir, store) = store();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(store.commit_reference(PortType::File, &socket).is_err());
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(matches!(store.commit_reference(PortType::Dir, &empty), Err(StoreError::Refused { .. })));
    }
}
