//! [`Usage`]: what takes up the space in a store. It only reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use olmo_base::{ArtifactId, ObjectId};
use serde::Serialize;

use crate::store::{Output, Store, StoreError};

/// What takes up the space in a store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// Number of objects and their bytes.
    pub objects: (usize, u64),
    /// Bytes that all artifacts would take if they did not share equal files.
    pub unshared: u64,
    /// Bytes of local sources, which are stored outside and only referred to by artifacts.
    pub referred: u64,
    /// Artifacts grouped by the stage that made them or by type, largest group first.
    pub groups: Vec<Group>,
    /// Bytes in the store's other folders, by name.
    pub folders: BTreeMap<String, u64>,
}

/// The artifacts of one stage or type.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Group {
    pub name: String,
    pub artifacts: usize,
    /// Bytes of the objects that the group uses.
    pub bytes: u64,
    /// Bytes of the objects that no other group uses, which would be freed without this group.
    pub own: u64,
}

impl Usage {
    /// Adds up the bytes in `store` by stage, or by type with `by_type`.
    pub fn measure(store: &Store, by_type: bool) -> Result<Self, StoreError> {
        let mut makers: BTreeMap<ArtifactId, BTreeSet<String>> = BTreeMap::new();
        for key in store.action_keys()? {
            let Some(action) = store.recorded_action(key) else { continue };
            for artifact in action.outputs.values().flat_map(Output::artifacts) {
                makers.entry(artifact).or_default().insert(action.key.stage.clone());
            }
        }
        // For each object, its size and the groups that use it.
        let mut users: BTreeMap<ObjectId, (u64, BTreeSet<String>)> = BTreeMap::new();
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let (mut unshared, mut referred) = (0, 0);
        for info in store.artifacts()?.flatten() {
            let names: BTreeSet<String> = match (by_type, makers.get(&info.digest)) {
                (true, _) => [info.artifact_type.to_string()].into(),
                (false, Some(stages)) => stages.clone(),
                (false, None) if info.reference => ["(a local source)".to_owned()].into(),
                (false, None) => ["(part of another)".to_owned()].into(),
            };
            for name in &names {
                groups.entry(name.clone()).or_default().artifacts += 1;
            }
            let Ok(manifest) = store.manifest(info.digest) else { continue };
            for entry in manifest.files.values() {
                if entry.source.is_some() {
                    referred += entry.size;
                    continue;
                }
                unshared += entry.size;
                let (size, by) = users.entry(entry.object()).or_default();
                *size = entry.size;
                by.extend(names.iter().cloned());
            }
        }
        for (size, by) in users.values() {
            for name in by {
                let group = groups.entry(name.clone()).or_default();
                group.bytes += size;
                group.own += if by.len() == 1 { *size } else { 0 };
            }
        }
        let objects = store.objects()?.into_iter().fold((0, 0), |(n, sum), (_, size)| (n + 1, sum + size));
        let mut groups: Vec<Group> = groups.into_iter().map(|(name, group)| Group { name, ..group }).collect();
        groups.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        let mut folders = BTreeMap::new();
        for entry in fs::read_dir(store.root()).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if entry.path().is_dir() && !name.starts_with("objects-") {
                folders.insert(name, bytes_below(&entry.path()));
            }
        }
        Ok(Self { objects, unshared, referred, groups, folders })
    }
}

/// Bytes of the regular files below `folder`. Files that cannot be read are ignored.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let (mut sum, mut open) = (0u64, vec![folder.to_owned()]);
    while let Some(place) = open.pop() {
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => sum += entry.metadata().map_or(0, |m| m.len()),
                _ => {}
            }
        }
    }
    sum
}
