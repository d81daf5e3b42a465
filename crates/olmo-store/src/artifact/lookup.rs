//! Manifests in the store: reading, writing and finding them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::PoisonError;

use olmo_base::{ArtifactId, Digest, PathError};
use olmo_stage::PortType;

use crate::disk::{self, Small, seal};
use crate::error::StoreError;
use crate::layout::FileName;
use crate::manifest::{ArtifactInfo, Entry, KIND, Manifest, Unread, entries_of};
use crate::store::Store;

impl Store {
    /// The manifest of artifact `artifact`. A damaged one is moved to `quarantine/`.
    pub fn manifest(&self, artifact: ArtifactId) -> Result<Manifest, StoreError> {
        self.read_manifest(artifact).map_err(|unread| match unread {
            Unread::Absent => StoreError::NoArtifact { artifact },
            Unread::Io(e) => e,
            Unread::Damaged(why, seen) => {
                let name = format!("{artifact}.manifest.json");
                match self.quarantine(&self.sharded(artifact), &name, seen) {
                    Ok(kept) => StoreError::DamagedManifest { artifact, why, kept },
                    Err(e) => e,
                }
            }
        })
    }

    /// Reads without moving anything.
    pub(crate) fn read_manifest(&self, artifact: ArtifactId) -> Result<Manifest, Unread> {
        let path = self.sharded(artifact);
        let (text, seen) = match disk::read_small(&path, disk::LARGEST) {
            Ok(Small::Bytes(text, seen)) => (text, seen),
            Ok(Small::Absent) => return self.noted(artifact).ok_or(Unread::Absent),
            Ok(Small::Misplaced(why, seen)) => return Err(Unread::Damaged(why, seen)),
            Err(e) => return Err(Unread::Io(PathError::during("read the manifest", &path, e).into())),
        };
        Manifest::parse(artifact, &text).map_err(|why| Unread::Damaged(why, seen))
    }

    /// Writes a manifest whose objects are durable, and returns the artifact. An existing manifest
    /// stays, unless it refers to files that are now in the store, or that have moved.
    pub(crate) fn put_manifest(&self, manifest: &Manifest) -> Result<ArtifactId, StoreError> {
        let artifact = manifest.digest();
        if self.is_read_only() {
            self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(artifact, manifest.clone());
            return Ok(artifact);
        }
        let path = self.sharded(artifact);
        match self.read_manifest(artifact) {
            Ok(there)
                if (there == *manifest || (!there.is_reference() && self.has_objects(&there)))
                    && self.renew(&path)? =>
            {
                // It may have been renamed a moment ago by another process.
                path.parent().map_or(Ok(()), disk::sync_folder)?;
                return Ok(artifact);
            }
            Err(Unread::Io(e)) => return Err(e),
            // Replace a damaged one.
            Ok(_) | Err(Unread::Absent | Unread::Damaged(..)) => {}
        }
        let unwritable = |e: serde_json::Error| PathError::during("write", &path, e.into());
        let body = serde_json::to_string(manifest).map_err(unwritable)?;
        let text = seal::seal(KIND, &artifact.hex(), &body);
        if text.len() as u64 > disk::LARGEST {
            let why = format!("its list of files is larger than {} MiB", disk::LARGEST >> 20);
            return Err(StoreError::refused(&path, why));
        }
        let points = ["store.manifest_temp_written", "store.manifest_renamed"];
        self.write_durable(&path, text.as_bytes(), 0o444, Some(points))?;
        Ok(artifact)
    }

    /// A manifest that this reader has computed but cannot write.
    fn noted(&self, artifact: ArtifactId) -> Option<Manifest> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).get(&artifact).cloned()
    }

    /// The part of an artifact below the folder `prefix`, as an artifact of type
    /// `artifact_type`. Its digest is the same as if that folder had been committed alone.
    pub fn subtree(
        &self,
        artifact: ArtifactId,
        prefix: &str,
        artifact_type: PortType,
    ) -> Result<ArtifactId, StoreError> {
        let whole = self.manifest(artifact)?;
        let below = format!("{}/", prefix.trim_end_matches('/'));
        let inside = |(path, entry): (String, Entry)| path.strip_prefix(&below).map(|p| (p.to_owned(), entry));
        let files: BTreeMap<String, Entry> = whole.files.into_iter().filter_map(inside).collect();
        let part = Manifest::new(artifact_type, files)
            .map_err(|_| StoreError::NoSubtree { artifact, prefix: prefix.to_owned() })?;
        let _using = self.using()?;
        for entry in part.files.values().filter(|e| e.source.is_none()) {
            // It would be collected with the whole artifact.
            self.renew(&self.object_path(entry.object()))?;
        }
        self.put_manifest(&part)
    }

    /// Commits the artifact of these files (digest and size by path) if all of them are objects of this
    /// store; else `None`.
    pub fn commit_present(
        &self,
        artifact_type: PortType,
        files: &BTreeMap<String, (Digest, u64)>,
    ) -> Result<Option<ArtifactId>, StoreError> {
        let manifest = entries_of(artifact_type, files);
        manifest.check().map_err(|why| StoreError::refused(&self.root, why))?;
        let _using = self.using()?;
        for entry in manifest.files.values() {
            // A collection may be about to remove it.
            self.renew(&self.object_path(entry.object()))?;
        }
        if !self.has_objects(&manifest) {
            return Ok(None);
        }
        self.put_manifest(&manifest).map(Some)
    }

    /// Whether the manifest of `artifact` is sound and each of its files exists with the right size.
    /// The content is not read; [`Store::materialize`] checks it.
    pub fn is_whole(&self, artifact: ArtifactId) -> bool {
        self.read_manifest(artifact).is_ok_and(|manifest| self.has_objects(&manifest))
    }

    fn has_objects(&self, manifest: &Manifest) -> bool {
        manifest.files.values().all(|entry| {
            // A source may be a link; an object never is.
            let metadata = match &entry.source {
                Some(source) => fs::metadata(source),
                None => fs::symlink_metadata(self.object_path(entry.object())),
            };
            metadata.is_ok_and(|m| m.is_file() && m.len() == entry.size)
        })
    }

    /// All artifacts, sorted by digest. A damaged manifest is an error item; the rest follow.
    pub fn artifacts(&self) -> Result<impl Iterator<Item = Result<ArtifactInfo, StoreError>> + '_, StoreError> {
        let artifacts = self.names::<ArtifactId>("")?;
        Ok(artifacts.into_iter().filter_map(|artifact| self.artifact_info(artifact).transpose()))
    }

    /// `None` if it was removed meanwhile.
    pub(crate) fn artifact_info(&self, artifact: ArtifactId) -> Result<Option<ArtifactInfo>, StoreError> {
        let path = self.sharded(artifact);
        let Ok(made) = fs::symlink_metadata(&path).and_then(|m| m.modified()) else { return Ok(None) };
        let manifest = match self.manifest(artifact) {
            Err(StoreError::NoArtifact { .. }) => return Ok(None),
            other => other?,
        };
        Ok(Some(ArtifactInfo {
            digest: artifact,
            artifact_type: manifest.artifact_type,
            files: manifest.files.len(),
            bytes: manifest.bytes(),
            reference: manifest.is_reference(),
            made,
        }))
    }

    /// The one artifact whose digest begins with `text`.
    pub fn find_prefix(&self, text: &str) -> Result<ArtifactId, StoreError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(hex) {
            return Err(StoreError::NotAPrefix { text: text.to_owned() });
        }
        let mut candidates = self.names::<ArtifactId>(text)?;
        match candidates.len() {
            0 => Err(StoreError::UnknownPrefix { text: text.to_owned() }),
            1 => Ok(candidates.remove(0)),
            _ => Err(StoreError::AmbiguousPrefix { text: text.to_owned(), candidates }),
        }
    }

    /// The names that begin with `prefix` in the sharded folder of `T`, sorted. Other files there are
    /// left alone.
    pub(crate) fn names<T: FileName>(&self, prefix: &str) -> Result<Vec<T>, StoreError> {
        let mut names = Vec::new();
        for shard in self.shards::<T>(prefix)? {
            names.extend(self.files_of_shard::<T>(&shard, prefix)?.into_iter().map(|(name, _)| name));
        }
        Ok(names)
    }

    /// The shards of the folder of `T` in which names may begin with `prefix`, sorted.
    pub(crate) fn shards<T: FileName>(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        if let Some(shard) = prefix.get(..2) {
            return Ok(vec![shard.to_owned()]);
        }
        let mut shards = disk::names_in(&self.root.join(T::FOLDER))?;
        shards.retain(|shard| shard.len() == 2 && shard.starts_with(prefix));
        shards.sort_unstable();
        Ok(shards)
    }

    /// The files of a shard whose names begin with `prefix`, sorted by name.
    pub(crate) fn files_of_shard<T: FileName>(
        &self,
        shard: &str,
        prefix: &str,
    ) -> Result<Vec<(T, fs::DirEntry)>, StoreError> {
        let file = |entry: fs::DirEntry| {
            let hex = format!("{shard}{}", entry.file_name().to_str()?);
            Some((hex.starts_with(prefix).then(|| hex.parse().ok())??, entry))
        };
        let mut files: Vec<(T, fs::DirEntry)> =
            disk::entries_of(&self.root.join(T::FOLDER).join(shard))?.into_iter().filter_map(file).collect();
        files.sort_unstable_by_key(|(name, _)| *name);
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::Diagnose as _;

    fn manifest() -> Manifest {
        let entry = |text: &str| Entry::plain(Digest::of(text.as_bytes()), text.len() as u64);
        let files = [("config.json", "{}"), ("model.safetensors", "weights")];
        let files = files.into_iter().map(|(p, t)| (p.to_owned(), entry(t))).collect();
        Manifest::new(PortType::Model, files).unwrap()
    }

    #[test]
    fn the_digest_of_an_artifact_stays_as_it_is() {
        // Computed by the encoding in the module's doc: a change of it needs `artifacts-v2`.
        let digest = manifest().digest();
        assert_eq!(digest.hex(), "8705b6c8a3c00b829be2f9755c4d2d0e50f36bf9da0bb1071ec5d82d241c2a77");
    }

    #[test]
    fn everything_but_the_place_of_a_source_changes_the_digest() {
        let base = manifest();
        let mut moved = base.clone();
        moved.files.get_mut("config.json").unwrap().source = Some("/elsewhere/config.json".into());
        assert_eq!(moved.digest(), base.digest());
        let mut others = vec![base.clone(); 4];
        others[0].artifact_type = PortType::Dir;
        others[1].files.get_mut("config.json").unwrap().size += 1;
        others[2].files.get_mut("config.json").unwrap().digest = Digest::of(b"other");
        let entry = others[3].files.remove("config.json").unwrap();
        others[3].files.insert("config.jsom".into(), entry);
        for other in others {
            assert_ne!(other.digest(), base.digest());
        }
    }

    #[test]
    fn a_program_is_another_file_and_a_plain_one_has_no_such_field() {
        let plain = manifest();
        let mut program = plain.clone();
        program.files.get_mut("config.json").unwrap().executable = true;
        assert_ne!(program.digest(), plain.digest());
        assert!(!serde_json::to_string(&plain).unwrap().contains("executable"));
        let text = seal::seal(KIND, &program.digest().hex(), &serde_json::to_string(&program).unwrap());
        assert_eq!(Manifest::parse(program.digest(), text.as_bytes()).unwrap(), program);
    }

    #[test]
    fn whatever_stands_in_the_place_of_a_manifest_moves_to_quarantine() {
        for kind in crate::verify::tests::INTRUDERS {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let artifact = store.put_manifest(&manifest()).unwrap();
            let path = store.sharded(artifact);
            crate::verify::tests::intrude(&path, kind);
            assert!(
                matches!(store.manifest(artifact), Err(StoreError::DamagedManifest { kept: Some(_), .. })),
                "{kind}"
            );
            assert!(matches!(store.manifest(artifact), Err(StoreError::NoArtifact { .. })), "{kind}");
            crate::verify::tests::intrude(&path, kind);
            assert_eq!(store.put_manifest(&manifest()).unwrap(), artifact, "{kind}");
            assert_eq!(store.manifest(artifact).unwrap(), manifest(), "{kind}");
        }
    }

    #[test]
    fn a_hostile_manifest_is_damaged_even_if_its_seal_holds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut bad = manifest();
        let entry = bad.files.remove("config.json").unwrap();
        bad.files.insert("../../escape".into(), entry);
        let artifact = bad.digest();
        let path = store.sharded(artifact);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = seal::seal(KIND, &artifact.hex(), &serde_json::to_string(&bad).unwrap());
        fs::write(&path, text).unwrap();
        assert!(!store.is_whole(artifact));
        assert!(matches!(store.manifest(artifact), Err(StoreError::DamagedManifest { why, .. }) if why.contains("..")));
        assert!(matches!(store.manifest(artifact), Err(StoreError::NoArtifact { .. })), "it is out of the way");
    }

    #[test]
    fn a_prefix_finds_its_artifact_or_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut digests = Vec::new();
        for n in 0..40 {
            let mut one = manifest();
            one.files.get_mut("config.json").unwrap().size = n;
            digests.push(store.put_manifest(&one).unwrap());
        }
        for digest in &digests {
            assert_eq!(store.find_prefix(&digest.hex()).unwrap(), *digest);
            assert_eq!(store.find_prefix(&digest.hex()[..20]).unwrap(), *digest);
        }
        // 40 digests begin with 16 digits: two have the same.
        let first = |d: &ArtifactId| d.hex()[..1].to_owned();
        let twice = digests.iter().map(first).find(|f| digests.iter().filter(|d| first(d) == *f).count() > 1).unwrap();
        let error = store.find_prefix(&twice).unwrap_err();
        assert!(matches!(&error, StoreError::AmbiguousPrefix { candidates, .. } if candidates.len() > 1));
        assert!(error.hint().is_some());
        for bad in ["", "xyz", "ABC", "../..", "é"] {
            assert!(matches!(store.find_prefix(bad), Err(StoreError::NotAPrefix { .. })), "{bad}");
        }
        let absent = "0123456789abcdef";
        assert!(matches!(store.find_prefix(absent), Err(StoreError::UnknownPrefix { .. })));
    }
}
