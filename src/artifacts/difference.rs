//! [`Difference`]: compares the files of two artifacts and the keys of the stages that made them.

use std::collections::BTreeSet;

use olmo_base::{ArtifactId, Digest};
use olmo_stage::PortType;

use crate::key::{FieldChange, KeyRecord, diff};
use crate::store::{Store, StoreError};

/// The differences between two artifacts.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub types: (PortType, PortType),
    /// Files that differ, by path.
    pub files: Vec<FileChange>,
    /// Number of files that are equal in both.
    pub same_files: usize,
    /// Bytes of the equal files.
    pub same_bytes: u64,
    /// The fields in which the keys of the stages that made them differ. `None` if the stage is
    /// unknown for at least one of them.
    pub fields: Option<Vec<FieldChange>>,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    pub path: String,
    /// Digest and size in bytes. `None` if the artifact has no such file.
    pub old: Option<(Digest, u64)>,
    pub new: Option<(Digest, u64)>,
}

impl Difference {
    /// Compares `old` and `new`.
    pub fn between(store: &Store, old: ArtifactId, new: ArtifactId) -> Result<Self, StoreError> {
        let (before, after) = (store.manifest(old)?, store.manifest(new)?);
        let paths: BTreeSet<&String> = before.files.keys().chain(after.files.keys()).collect();
        let (mut files, mut same_files, mut same_bytes) = (Vec::new(), 0, 0);
        for path in paths {
            let (a, b) = (before.files.get(path), after.files.get(path));
            match (a, b) {
                (Some(a), Some(b)) if a.digest == b.digest => {
                    same_files += 1;
                    same_bytes += a.size;
                }
                _ => {
                    let version = |e: Option<&crate::store::Entry>| e.map(|e| (e.digest, e.size));
                    files.push(FileChange { path: path.clone(), old: version(a), new: version(b) });
                }
            }
        }
        let fields = match (maker(store, old)?, maker(store, new)?) {
            (Some(a), Some(b)) => Some(diff(&a, &b)),
            _ => None,
        };
        Ok(Self { types: (before.artifact_type, after.artifact_type), files, same_files, same_bytes, fields })
    }
}

/// The key of the stage that made `artifact`.
fn maker(store: &Store, artifact: ArtifactId) -> Result<Option<KeyRecord>, StoreError> {
    for key in store.action_keys()? {
        let Some(action) = store.recorded_action(key) else { continue };
        if action.outputs.values().any(|output| output.artifacts().any(|d| d == artifact)) {
            return Ok(Some(action.key));
        }
    }
    Ok(None)
}
