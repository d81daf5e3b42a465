//! [`Marker`]: the file `.olmo-pipe.json` in a result folder. It records what made the result and
//! which files olmo-pipe wrote, so that no other file is ever deleted.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_base::files::{self, Durability};
use olmo_base::{ActionKey, ArtifactId, Digest, IoContext as _, PathError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::run::error::RunError;
use crate::run::record::Git;
use crate::spec::PortRef;
use crate::store::{Output, Store};

/// The marker's file name.
pub(super) use crate::store::RESULT_MARKER as MARKER;
/// Largest marker that is read, in bytes: about a million files.
const MAX_MARKER: u64 = 256 << 20;
const FORMAT: u32 = 1;

/// The run that made a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MadeBy {
    pub run: String,
    pub experiment: String,
    /// The params that differ from the pipeline's defaults.
    pub params: Map<String, Value>,
    /// The project's commit when the result was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
}

/// The content of `.olmo-pipe.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Marker {
    format: u32,
    #[serde(flatten)]
    made_by: MadeBy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trial: Option<String>,
    stage: String,
    port: String,
    /// Key of the stage. A `for_each` stage has `keys` by label instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<ActionKey>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    keys: BTreeMap<String, ActionKey>,
    /// The artifact. A list has `items` by label instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact: Option<ArtifactId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    items: BTreeMap<String, ArtifactId>,
    /// The digest of every file that olmo-pipe wrote, by path.
    pub files: BTreeMap<String, Digest>,
}

impl Marker {
    /// Creates the marker for `output`, which stage `port.stage` made under `keys`.
    ///
    /// # Errors
    /// The manifest of an artifact cannot be read.
    pub(super) fn new(
        made_by: MadeBy,
        trial: Option<&str>,
        port: &PortRef,
        mut keys: BTreeMap<String, ActionKey>,
        output: &Output,
        store: &Store,
    ) -> Result<Self, RunError> {
        let key = keys.remove("");
        let (artifact, items) = match output {
            Output::Single(artifact) => (Some(*artifact), BTreeMap::new()),
            Output::List(items) => (None, items.iter().map(|item| (item.label.clone(), item.digest)).collect()),
        };
        let mut written = BTreeMap::new();
        let parts = artifact.iter().map(|artifact| (None, artifact));
        for (label, artifact) in parts.chain(items.iter().map(|(label, artifact)| (Some(label), artifact))) {
            let below = |path: String| label.map_or_else(|| path.clone(), |label| format!("{label}/{path}"));
            let manifest = store.manifest(*artifact)?;
            written.extend(manifest.files.into_iter().map(|(path, entry)| (below(path), entry.digest)));
        }
        Ok(Self {
            format: FORMAT,
            made_by,
            trial: trial.map(str::to_owned),
            stage: port.stage.clone(),
            port: port.port.clone(),
            key,
            keys,
            artifact,
            items,
            files: written,
        })
    }

    /// Reads the marker in `folder`. Returns `None` if there is none or it cannot be read.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let text = files::read_regular(&folder.join(MARKER), MAX_MARKER).ok()?;
        serde_json::from_slice(&text).ok().filter(|marker: &Self| marker.format == FORMAT)
    }

    /// Sets the project's commit.
    pub(super) fn set_git(&mut self, git: Option<Git>) {
        self.made_by.git = git;
    }

    /// Writes the marker into `folder` atomically.
    ///
    /// # Errors
    /// An I/O error.
    pub(super) fn write(&self, folder: &Path) -> Result<(), RunError> {
        let path = folder.join(MARKER);
        let text = serde_json::to_string_pretty(self).map_err(|e| PathError::during("write", &path, e.into()))? + "\n";
        Ok(files::write(&path, text.as_bytes(), Durability::Process).context_during("write", &path)?)
    }

    /// Whether `other` describes the same result. The run, the experiment's name, the trial and the
    /// commit may differ.
    pub(super) fn is_same_result(&self, other: &Self) -> bool {
        let of_result =
            |m: &Self| (m.stage.clone(), m.port.clone(), m.key, m.keys.clone(), m.artifact, m.items.clone());
        of_result(self) == of_result(other) && self.made_by.params == other.made_by.params && self.files == other.files
    }
}
