//! Bundles: artifacts on their way from one store to another, as a tar archive or a folder.
//!
//! ```text
//! bundle.json     first; sealed JSON {"format":1,"artifacts":{DIGEST: manifest},"actions":{KEY: action}}
//! objects/HEX     the bytes of each object, sorted by name
//! ```
//!
//! The same artifacts make the same bytes. An incoming bundle is hostile: no name in it becomes a
//! path, only the two kinds of entries above are accepted, every byte is checked against its
//! digest, and nothing becomes visible before everything was checked. Actions are claims that
//! cannot be checked, so they are imported only on request.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use olmo_base::{ActionKey, ArtifactId, Digest, IoContext as _, ObjectId, PathError, files};
use olmo_stage::PortType;
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::artifact::object::Incoming;
use crate::disk::Seen;
use crate::disk::{seal, tree};
use crate::error::StoreError;
use crate::manifest::{Entry, Manifest};
use crate::{Store, disk};

const FORMAT: u32 = 1;
const KIND: &str = "bundle";
const HEAD: &str = "bundle.json";
const OBJECTS: &str = "objects/";
/// Maximum size of a head in bytes: some 250,000 files.
const LARGEST_HEAD: u64 = 64 << 20;

/// The head of a bundle.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    artifacts: BTreeMap<ArtifactId, Manifest>,
    actions: BTreeMap<ActionKey, Action>,
}

/// The result of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// All artifacts of the bundle, sorted.
    pub artifacts: Vec<ArtifactId>,
    /// Size of the new objects in bytes.
    pub bytes: u64,
    /// Imported finished stages.
    pub actions: usize,
    /// Finished stages in the bundle that were not imported.
    pub untrusted: usize,
}

/// Parses the head of a bundle. The error says what is wrong with it.
fn parse_head(text: &[u8]) -> Result<Head, String> {
    let body = seal::open(KIND, HEAD, text)?;
    let head: Head = serde_json::from_str(body).map_err(|e| e.to_string())?;
    if head.format != FORMAT {
        return Err(format!("it has format {}, this build reads {FORMAT}", head.format));
    }
    for (artifact, manifest) in &head.artifacts {
        manifest.check().map_err(|why| format!("artifact {}: {why}", artifact.short()))?;
        if manifest.is_reference() {
            return Err(format!("artifact {} names files of another machine", artifact.short()));
        }
        if manifest.digest() != *artifact {
            return Err(format!("artifact {} has another digest", artifact.short()));
        }
    }
    if let Some((key, _)) = head.actions.iter().find(|(key, action)| action.key.digest() != **key) {
        return Err(format!("action {} has another key", key.short()));
    }
    Ok(head)
}

/// The objects that the artifacts of a head need, with their sizes.
fn needed(head: &Head) -> Result<BTreeMap<ObjectId, u64>, String> {
    let mut needed = BTreeMap::new();
    for entry in head.artifacts.values().flat_map(|m| m.files.values()) {
        if *needed.entry(entry.object()).or_insert(entry.size) != entry.size {
            return Err(format!("object {} has two sizes", entry.object().short()));
        }
    }
    Ok(needed)
}

/// A reader of the bytes of an object.
struct Bytes {
    object: ObjectId,
    size: u64,
    path: PathBuf,
}

impl Store {
    /// Writes `artifacts`, each once, as the tar archive `place`, complete or not at all; with
    /// `actions` also the finished stages that made them. Local sources go in as bytes. Every
    /// byte is hashed on the way. Returns the archive's size.
    pub fn export_bundle(&self, artifacts: &[ArtifactId], actions: bool, place: &Path) -> Result<u64, StoreError> {
        if place.symlink_metadata().is_ok() {
            return Err(StoreError::DestinationExists { path: place.to_owned() });
        }
        let _using = self.using()?;
        let mut head = Head { format: FORMAT, artifacts: BTreeMap::new(), actions: BTreeMap::new() };
        let mut objects: BTreeMap<ObjectId, (ArtifactId, Entry)> = BTreeMap::new();
        let mut wanted: BTreeSet<ArtifactId> = artifacts.iter().copied().collect();
        if actions {
            for key in self.action_keys()? {
                let Some(action) = self.recorded_action(key) else { continue };
                let outputs: Vec<ArtifactId> = action.outputs.values().flat_map(crate::Output::artifacts).collect();
                if outputs.iter().any(|artifact| artifacts.contains(artifact)) {
                    // A hit needs all outputs of the stage.
                    wanted.extend(outputs);
                    head.actions.insert(key, action);
                }
            }
        }
        for artifact in wanted {
            let mut manifest = self.manifest(artifact)?;
            for entry in manifest.files.values_mut() {
                objects.insert(entry.object(), (artifact, entry.clone()));
                entry.source = None;
            }
            head.artifacts.insert(artifact, manifest);
        }
        let body = serde_json::to_string(&head).map_err(|e| PathError::during("write", place, e.into()))?;
        let parent = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk::make_folder(parent)?;
        let unfinished = crate::artifact::handover::unfinished_beside(parent, place);
        let written = self.write_archive(&unfinished, &seal::seal(KIND, HEAD, &body), &objects).and_then(|size| {
            fs::rename(&unfinished, place).context_during("write", place)?;
            disk::sync_folder(parent)?;
            Ok(size)
        });
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn write_archive(
        &self,
        path: &Path,
        head: &str,
        objects: &BTreeMap<ObjectId, (ArtifactId, Entry)>,
    ) -> Result<u64, StoreError> {
        let io = |e| PathError::during("write", path, e);
        let mut archive = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, File::create_new(path).map_err(io)?));
        archive.append(&header(HEAD, head.len() as u64).map_err(io)?, head.as_bytes()).map_err(io)?;
        for (object, (artifact, entry)) in objects {
            let from = match &entry.source {
                Some(source) => source.clone(),
                None => self.object_path(*object),
            };
            let seen = Seen::at(&from);
            let opened = match &entry.source {
                Some(_) => disk::open_source(&from).context_during("read", &from).map_err(StoreError::from),
                None => disk::open_regular(&from).map(|(file, _)| file),
            };
            let mut hashing = Hashing { from: opened?.take(entry.size), hasher: Digest::hasher() };
            archive
                .append(&header(&format!("{OBJECTS}{object}"), entry.size).map_err(io)?, &mut hashing)
                .map_err(io)?;
            let found = hashing.hasher.finish();
            if found != entry.digest {
                return Err(match &entry.source {
                    Some(path) => StoreError::SourceChanged { path: path.clone(), old: entry.digest, new: found },
                    None => self.corrupt(*artifact, entry, seen),
                });
            }
        }
        let file = archive.into_inner().and_then(|w| w.into_inner().map_err(|e| e.into_error())).map_err(io)?;
        file.sync_all().map_err(io)?;
        Ok(file.metadata().map_err(io)?.len())
    }

    /// Imports the bundle at `place`, an archive or a folder: all of it, or nothing. With `trust`
    /// it also imports finished stages, which become hits in this store: the author of the bundle
    /// then decides the results of those stages.
    pub fn import_bundle(&self, place: &Path, trust: bool) -> Result<Imported, StoreError> {
        let refuse = |why: String| StoreError::refused(place, why);
        let metadata = fs::metadata(place).context_during("read the bundle", place)?;
        let _using = self.using()?;
        let mut brought = Vec::new();
        let head = if metadata.is_dir() {
            let head = parse_head(&read_head_file(&place.join(HEAD))?).map_err(refuse)?;
            let needed = needed(&head).map_err(refuse)?;
            let folder = place.join(OBJECTS.trim_end_matches('/'));
            if !folder.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                return Err(refuse("it has no folder `objects`".into()));
            }
            for (object, size) in needed {
                let path = folder.join(object.hex());
                let (mut file, metadata) = disk::open_regular(&path)?;
                if metadata.len() != size {
                    return Err(StoreError::refused(&path, "it has another size than the bundle says"));
                }
                brought.push(self.bring_bytes(Bytes { object, size, path }, &mut file)?);
            }
            head
        } else {
            let file = File::open(place).context_during("read the bundle", place)?;
            self.read_archive(place, io::BufReader::with_capacity(1 << 20, file), &mut brought)?
        };
        let mut done = Imported { artifacts: head.artifacts.keys().copied().collect(), ..Imported::default() };
        let new = brought.iter().filter(|one| self.object_path(one.object).symlink_metadata().is_err());
        done.bytes = new.map(|one| one.size).sum();
        self.settle(&brought)?;
        for manifest in head.artifacts.values() {
            self.put_manifest(manifest)?;
        }
        if trust {
            for (key, action) in &head.actions {
                // Never replaces an action that this store recorded itself.
                if self.recorded_action(*key).is_none() {
                    self.commit_action(*key, action)?;
                    done.actions += 1;
                }
            }
        }
        done.untrusted = if trust { 0 } else { head.actions.len() };
        Ok(done)
    }

    /// Reads an archive entry by entry. Neither its names nor its sizes are trusted.
    fn read_archive(&self, place: &Path, from: impl Read, brought: &mut Vec<Incoming>) -> Result<Head, StoreError> {
        let refuse = |why: String| StoreError::refused(place, why);
        let cut = |e: io::Error| StoreError::refused(place, format!("it is no archive, or a damaged one: {e}"));
        let mut archive = tar::Archive::new(from);
        // Raw: an archive's own extensions (long names, sparse files) are entries like all others
        // and so are refused, instead of being read into memory first.
        let mut entries = archive.entries().map_err(cut)?.raw(true);
        let first = entries.next().ok_or_else(|| refuse("it is empty".into()))?;
        let mut first = first.map_err(cut)?;
        if entry_name(&first) != Some(HEAD.to_owned()) {
            return Err(refuse(format!("its first entry is not {HEAD}")));
        }
        if first.size() > LARGEST_HEAD {
            return Err(refuse(format!("its {HEAD} is larger than {} MiB", LARGEST_HEAD >> 20)));
        }
        let mut text = Vec::new();
        first.read_to_end(&mut text).map_err(cut)?;
        let head = parse_head(&text).map_err(refuse)?;
        drop(text);
        let mut needed = needed(&head).map_err(refuse)?;
        for entry in entries {
            let mut entry = entry.map_err(cut)?;
            let name = entry_name(&entry);
            let object = name.as_deref().and_then(|n| n.strip_prefix(OBJECTS)).and_then(|n| ObjectId::from_hex(n).ok());
            let Some(object) = object else {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                return Err(refuse(format!("its entry `{:.80}` is no object", name.escape_debug().to_string())));
            };
            let Some(size) = needed.remove(&object).filter(|size| *size == entry.size()) else {
                return Err(refuse(format!(
                    "object {} is there twice, is not needed, or has another size",
                    object.short()
                )));
            };
            brought.push(self.bring_bytes(Bytes { object, size, path: place.to_owned() }, &mut entry)?);
        }
        match needed.first_key_value() {
            None => Ok(head),
            Some((object, _)) => Err(refuse(format!("object {} is missing", object.short()))),
        }
    }

    /// Hashes and copies the bytes of an incoming object.
    fn bring_bytes(&self, bytes: Bytes, from: &mut dyn Read) -> Result<Incoming, StoreError> {
        let Bytes { object, size, path } = bytes;
        let temporary = self.scratch()?.path();
        let copied = (|| {
            let mut to = files::create_new(&temporary, 0o444)?;
            // One byte more than expected is enough to detect a longer object.
            disk::copy_object(&mut from.take(size.saturating_add(1)), &mut to)
        })();
        // From here on, dropping the value removes the file.
        let incoming = Incoming { object, size, executable: false, temporary: Some(temporary.clone()) };
        let (found, found_size) = copied.context_during("copy", &path)?;
        if (found, found_size) != (object, size) {
            let why = format!("object {} holds other bytes than its name says", object.short());
            return Err(StoreError::refused(&path, why));
        }
        Ok(incoming)
    }

    /// Makes the files below `folder` an artifact of type `artifact_type`, and leaves them where
    /// they are. Links, pipes and devices are refused.
    pub fn import_folder(&self, artifact_type: PortType, folder: &Path) -> Result<ArtifactId, StoreError> {
        let files = tree::files(folder, tree::Links::Refuse)?;
        if files.is_empty() {
            return Err(StoreError::NoFiles { folder: folder.to_owned() });
        }
        let _using = self.using()?;
        let (mut entries, mut brought) = (BTreeMap::new(), Vec::new());
        for file in files {
            let (mut from, before) = disk::open_regular(&file.full)?;
            let temporary = self.scratch()?.path();
            let executable = self.is_program(&before)?;
            let mut incoming =
                Incoming { object: ObjectId::of(b""), size: 0, executable, temporary: Some(temporary.clone()) };
            let mut to = files::create_new(&temporary, 0o444).context_during("copy", &file.full)?;
            let copied = disk::copy_object(&mut from, &mut to).context_during("copy", &file.full)?;
            (incoming.object, incoming.size) = copied;
            if incoming.size != before.len() {
                return Err(StoreError::ChangedWhileRead { path: file.full });
            }
            entries.insert(file.path, incoming.entry());
            brought.push(incoming);
        }
        self.settle(&brought)?;
        let manifest = Manifest::new(artifact_type, entries).map_err(|why| StoreError::refused(folder, why))?;
        self.put_manifest(&manifest)
    }
}

/// The name of a regular file in an archive; `None` for everything else.
fn entry_name<R: Read>(entry: &tar::Entry<'_, R>) -> Option<String> {
    let regular = entry.header().entry_type() == tar::EntryType::Regular;
    regular.then(|| String::from_utf8(entry.path_bytes().into_owned()).ok()).flatten()
}

fn read_head_file(path: &Path) -> Result<Vec<u8>, StoreError> {
    let (file, metadata) = disk::open_regular(path)?;
    if metadata.len() > LARGEST_HEAD {
        return Err(StoreError::refused(path, format!("it is larger than {} MiB", LARGEST_HEAD >> 20)));
    }
    let mut text = Vec::new();
    file.take(LARGEST_HEAD).read_to_end(&mut text).context_during("read", path)?;
    Ok(text)
}

/// A header that depends on neither user, host nor time.
fn header(name: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o444);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(header)
}

/// A reader that hashes the bytes that pass through it.
struct Hashing<R> {
    from: R,
    hasher: olmo_base::digest::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hasher.write_all(&buffer[..n])?;
        Ok(n)
    }
}

/// The file `bundle.json` with the body `body`, and what a reader makes of such a file; for
/// property tests.
#[cfg(test)]
pub(crate) fn sealed(body: &str) -> Vec<u8> {
    seal::seal(KIND, HEAD, body).into_bytes()
}

#[cfg(test)]
pub(crate) fn artifacts_of(text: &[u8]) -> Option<BTreeMap<ArtifactId, Manifest>> {
    parse_head(text).ok().map(|head| head.artifacts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::tests::store_with_action;
    use crate::layout::FileName;
    use crate::{ActionState, Handover, Output};

    /// A store with an action, an empty one, and the archive of all that the action made.
    fn bundled() -> (tempfile::TempDir, Store, Store, ActionKey, Action, PathBuf) {
        let (dir, store, key, action) = store_with_action();
        let other = Store::open(&dir.path().join("other")).unwrap();
        let place = dir.path().join("bundle.tar");
        let Output::Single(model) = action.outputs["model"] else { panic!() };
        store.export_bundle(&[model], true, &place).unwrap();
        (dir, store, other, key, action, place)
    }

    fn is_empty(store: &Store) -> bool {
        fn none<T: FileName>(store: &Store) -> bool {
            store.names::<T>("").unwrap().is_empty()
        }
        let scratch = store.scratch().unwrap().path();
        let left = fs::read_dir(scratch.parent().unwrap()).unwrap().count();
        none::<ObjectId>(store) && none::<ArtifactId>(store) && none::<ActionKey>(store) && left == 0
    }

    /// An archive with these entries: name, type, bytes.
    fn archive(place: &Path, entries: &[(&str, tar::EntryType, &[u8])]) {
        let mut archive = tar::Builder::new(File::create(place).unwrap());
        for (name, kind, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            // By hand: the library itself refuses names like `../x`.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            if !kind.is_file() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            archive.append(&header, *bytes).unwrap();
        }
        archive.into_inner().unwrap();
    }

    fn head_of(files: &[(&str, &str)]) -> Vec<u8> {
        let entry = |text: &str| Entry::plain(Digest::of(text.as_bytes()), text.len() as u64);
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), entry(text))).collect();
        let manifest = Manifest::unchecked(PortType::Dir, files);
        let artifacts = BTreeMap::from([(manifest.digest(), manifest)]);
        sealed(&Head { format: FORMAT, artifacts, actions: BTreeMap::new() })
    }

    fn sealed(head: &Head) -> Vec<u8> {
        super::sealed(&serde_json::to_string(head).unwrap())
    }

    #[test]
    fn a_bundle_brings_artifacts_and_on_request_what_made_them() {
        let (dir, store, other, key, action, place) = bundled();
        let imported = other.import_bundle(&place, false).unwrap();
        assert_eq!((imported.artifacts.len(), imported.bytes, imported.actions, imported.untrusted), (3, 17, 0, 1));
        assert_eq!(other.action_state(key).unwrap(), ActionState::Absent, "claims are not believed unasked");
        let again = other.import_bundle(&place, true).unwrap();
        assert_eq!((again.bytes, again.actions), (0, 1));
        assert_eq!(other.action(key).unwrap(), Some(action));
        assert_eq!(other.verify().unwrap(), []);
        // The same artifacts make the same bytes.
        let second = dir.path().join("second.tar");
        other.export_bundle(&imported.artifacts, true, &second).unwrap();
        assert_eq!(fs::read(&place).unwrap(), fs::read(&second).unwrap());
        assert!(matches!(store.export_bundle(&[], false, &second), Err(StoreError::DestinationExists { .. })));
    }

    #[test]
    fn an_unpacked_bundle_is_one_too_and_links_in_it_are_refused() {
        let (dir, _, other, _, _, place) = bundled();
        let folder = dir.path().join("unpacked");
        tar::Archive::new(File::open(&place).unwrap()).unpack(&folder).unwrap();
        assert_eq!(other.import_bundle(&folder, false).unwrap().artifacts.len(), 3);

        let third = Store::open(&dir.path().join("third")).unwrap();
        let object = folder.join("objects").join(Digest::of(b"weights").hex());
        fs::rename(&object, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &object).unwrap();
        assert!(matches!(third.import_bundle(&folder, false), Err(StoreError::Refused { .. })));
        fs::rename(folder.join("objects"), dir.path().join("objects elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("objects elsewhere"), folder.join("objects")).unwrap();
        assert!(matches!(third.import_bundle(&folder, false), Err(StoreError::Refused { .. })));
        assert!(is_empty(&third));
    }

    #[test]
    fn local_sources_travel_as_bytes_and_never_as_places() {
        let (dir, store, other, ..) = bundled();
        let source = dir.path().join("data.jsonl");
        fs::write(&source, "some data").unwrap();
        let artifact = store.commit_reference(PortType::File, &source).unwrap();
        let place = dir.path().join("source.tar");
        store.export_bundle(&[artifact], false, &place).unwrap();
        assert_eq!(other.import_bundle(&place, false).unwrap().artifacts, [artifact]);
        fs::remove_file(&source).unwrap();
        other.materialize(artifact, &dir.path().join("back"), Handover::Copy).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("back/data.jsonl")).unwrap(), "some data");
        fs::write(&source, "other data").unwrap();
        let error = store.export_bundle(&[artifact], false, &dir.path().join("third.tar")).unwrap_err();
        assert!(matches!(error, StoreError::SourceChanged { .. }), "{error}");
        assert!(!dir.path().join("third.tar").exists());
    }

    #[test]
    fn hostile_archives_are_refused_as_a_whole_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let place = dir.path().join("bad.tar");
        let (file, link) = (tar::EntryType::Regular, tar::EntryType::Symlink);
        let object = format!("objects/{}", Digest::of(b"bytes"));
        let good = head_of(&[("a", "bytes")]);
        let evil = |path: &str| head_of(&[(path, "bytes")]);
        let (up, absolute, control) = (evil("../up"), evil("/etc/cron.d/x"), evil("a\u{1b}[2J"));
        let case = head_of(&[("a", "bytes"), ("A", "bytes")]);
        let nested = head_of(&[("a", "bytes"), ("a/b", "bytes")]);
        let mut elsewhere: Head = parse_head(&good).unwrap();
        elsewhere
            .artifacts
            .values_mut()
            .flat_map(|m| m.files.values_mut())
            .for_each(|e| e.source = Some("/etc/shadow".into()));
        let elsewhere = sealed(&elsewhere);
        let mut renamed: Head = parse_head(&good).unwrap();
        let manifest = renamed.artifacts.pop_first().unwrap().1;
        renamed.artifacts.insert(ArtifactId::new(Digest::of(b"another name")), manifest);
        let renamed = sealed(&renamed);
        let newer = seal::seal(KIND, HEAD, r#"{"format":2,"artifacts":{},"actions":{}}"#).into_bytes();
        let unknown = seal::seal(KIND, HEAD, r#"{"format":1,"artifacts":{},"actions":{},"x":1}"#).into_bytes();
        let mut flipped = good.clone();
        flipped[100] ^= 1;
        let (head, bytes) = ((HEAD, file, &good[..]), (object.as_str(), file, &b"bytes"[..]));
        let heads = [&up, &absolute, &control, &case, &nested, &elsewhere, &renamed, &newer, &unknown, &flipped];
        let mut archives: Vec<Vec<(&str, tar::EntryType, &[u8])>> =
            heads.into_iter().map(|text| vec![(HEAD, file, &text[..]), bytes]).collect();
        archives.extend([
            vec![],
            vec![bytes, head],
            vec![head],
            vec![(HEAD, link, b""), bytes],
            vec![head, (object.as_str(), link, b"")],
            vec![head, (object.as_str(), tar::EntryType::Link, b"")],
            vec![head, (object.as_str(), tar::EntryType::Fifo, b"")],
            vec![head, (object.as_str(), tar::EntryType::GNUSparse, b"bytes")],
            vec![head, ("x", tar::EntryType::GNULongName, b"objects/a-long-name"), bytes],
            vec![head, (object.as_str(), file, b"other")],
            vec![head, (object.as_str(), file, b"bytes and more")],
            vec![head, (object.as_str(), file, b"byte")],
            vec![head, bytes, bytes],
            vec![head, bytes, ("../../escape", file, b"x")],
            vec![head, bytes, ("/tmp/escape", file, b"x")],
            vec![head, bytes, ("objects/../x", file, b"x")],
            vec![head, bytes, ("extra", file, b"x")],
        ]);
        for (n, entries) in archives.iter().enumerate() {
            archive(&place, entries);
            let error = store.import_bundle(&place, true).unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{n}: {error}");
            assert!(is_empty(&store), "archive {n} left something");
        }
        fs::write(&place, vec![7u8; 4096]).unwrap();
        assert!(matches!(store.import_bundle(&place, true), Err(StoreError::Refused { .. })), "no archive at all");
        archive(&place, &[head, bytes]);
        let whole = fs::read(&place).unwrap();
        for end in [1, 511, 512, 700, 1024, 1500] {
            fs::write(&place, &whole[..end]).unwrap();
            assert!(matches!(store.import_bundle(&place, true), Err(StoreError::Refused { .. })), "cut at {end}");
        }
        assert!(is_empty(&store));
        fs::write(&place, whole).unwrap();
        assert_eq!(store.import_bundle(&place, true).unwrap().artifacts.len(), 1);
        let outside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(outside.len(), 2, "{outside:?}");
    }

    #[test]
    fn a_folder_becomes_an_artifact_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let folder = dir.path().join("model");
        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::write(folder.join("deep/weights"), "weights").unwrap();
        let artifact = store.import_folder(PortType::Model, &folder).unwrap();
        fs::write(folder.join("deep/weights"), "changed").unwrap();
        assert!(store.is_whole(artifact));
        assert_eq!(store.verify().unwrap(), []);
        std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
        assert!(matches!(store.import_folder(PortType::Model, &folder), Err(StoreError::Refused { .. })));
        assert!(matches!(store.import_folder(PortType::Model, &dir.path().join("none")), Err(StoreError::Io { .. })));
    }
}
