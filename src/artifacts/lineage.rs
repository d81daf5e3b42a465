//! [`Lineage`]: everything that an artifact was made from (upstream), or everything that was made
//! from it (downstream). It is derived from the finished stages in the store.

use std::collections::{BTreeMap, BTreeSet};

use olmo_base::{ActionKey, ArtifactId, Digest};
use olmo_stage::PortType;
use serde::Serialize;
use serde_json::Value;

use crate::key::KeyRecord;
use crate::store::{Entry, Output, Store, StoreError};

/// The direction in which to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Upstream: what it was made from.
    Up,
    /// Downstream: what was made from it.
    Down,
}

/// An artifact with everything upstream or downstream of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lineage {
    pub artifact: ArtifactId,
    /// Artifacts by digest.
    pub nodes: BTreeMap<ArtifactId, Node>,
}

/// An artifact in a [`Lineage`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Node {
    /// `None` if the artifact is no longer in the store.
    #[serde(rename = "type")]
    pub artifact_type: Option<PortType>,
    pub bytes: u64,
    /// Paths of the files of a local source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The finished stages that made it. There are several if several keys gave the same bytes.
    pub made_by: Vec<Step>,
    /// If it is a folder of another artifact: that artifact, and the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_of: Option<(ArtifactId, String)>,
    /// In a downstream lineage: the stages that read it, by key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read_by: Vec<Step>,
}

/// A finished stage, as seen from one of its artifacts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    pub key: ActionKey,
    pub stage: String,
    pub version: u32,
    /// The port of the artifact: an output if the stage made it, an input if it read it.
    pub port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub params: BTreeMap<String, Value>,
    pub inputs: Vec<StepInput>,
    pub outputs: Vec<StepInput>,
}

/// An artifact in a port of a [`Step`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepInput {
    pub port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub artifact: ArtifactId,
}

/// The places of each artifact: index into [`Stages::all`], port and label.
type Places = BTreeMap<ArtifactId, Vec<(usize, String, Option<String>)>>;

/// The finished stages of a store, with the artifacts that they read and made.
struct Stages {
    all: Vec<Finished>,
    makers: Places,
    readers: Places,
}

struct Finished {
    key: ActionKey,
    record: KeyRecord,
    outputs: Vec<StepInput>,
}

impl Stages {
    fn read(store: &Store) -> Result<Self, StoreError> {
        let mut stages = Self { all: Vec::new(), makers: BTreeMap::new(), readers: BTreeMap::new() };
        for key in store.action_keys()? {
            let Some(action) = store.recorded_action(key) else { continue };
            let at = stages.all.len();
            let mut outputs = Vec::new();
            for (port, output) in &action.outputs {
                match output {
                    Output::Single(artifact) => {
                        outputs.push(StepInput { port: port.clone(), label: None, artifact: *artifact });
                    }
                    Output::List(items) => outputs.extend(items.iter().map(|item| StepInput {
                        port: port.clone(),
                        label: Some(item.label.clone()),
                        artifact: item.digest,
                    })),
                }
            }
            for made in &outputs {
                stages.makers.entry(made.artifact).or_default().push((at, made.port.clone(), made.label.clone()));
            }
            for (port, items) in &action.key.inputs {
                for item in items {
                    stages.readers.entry(item.digest).or_default().push((at, port.clone(), item.label.clone()));
                }
            }
            stages.all.push(Finished { key, record: action.key, outputs });
        }
        Ok(stages)
    }

    fn step(&self, at: usize, port: &str, label: &Option<String>) -> Step {
        let finished = &self.all[at];
        let inputs = finished.record.inputs.iter().flat_map(|(port, items)| {
            items.iter().map(|i| StepInput { port: port.clone(), label: i.label.clone(), artifact: i.digest })
        });
        Step {
            key: finished.key,
            stage: finished.record.stage.clone(),
            version: finished.record.version,
            port: port.to_owned(),
            label: label.clone(),
            params: finished.record.params.clone(),
            inputs: inputs.collect(),
            outputs: finished.outputs.clone(),
        }
    }
}

impl Lineage {
    /// Traces `artifact` in `direction`, through at most `depth` stages. A missing or damaged
    /// artifact becomes a node without a type.
    pub fn trace(
        store: &Store,
        artifact: ArtifactId,
        direction: Direction,
        depth: Option<usize>,
    ) -> Result<Self, StoreError> {
        let stages = Stages::read(store)?;
        let parts = Parts::find(store, &stages)?;
        let mut tags: BTreeMap<ArtifactId, Vec<String>> = BTreeMap::new();
        for tag in store.tags()? {
            tags.entry(tag.artifact).or_default().push(tag.name);
        }
        let mut nodes = BTreeMap::new();
        let mut level = BTreeSet::from([artifact]);
        let mut left = depth.unwrap_or(usize::MAX);
        // Level by level, so that a long chain needs no deep stack.
        while !level.is_empty() {
            let mut next = BTreeSet::new();
            for digest in std::mem::take(&mut level) {
                if nodes.contains_key(&digest) {
                    continue;
                }
                let mut node = describe(store, digest);
                node.tags = tags.get(&digest).cloned().unwrap_or_default();
                node.part_of = parts.whole.get(&digest).cloned();
                let steps = |map: &Places| {
                    let found = map.get(&digest).into_iter().flatten();
                    found.map(|(at, port, label)| stages.step(*at, port, label)).collect::<Vec<_>>()
                };
                node.made_by = steps(&stages.makers);
                if left > 0 {
                    match direction {
                        Direction::Up => {
                            next.extend(node.made_by.iter().flat_map(|step| step.inputs.iter().map(|i| i.artifact)));
                            next.extend(node.part_of.iter().map(|(whole, _)| *whole));
                        }
                        Direction::Down => {
                            node.read_by = steps(&stages.readers);
                            next.extend(node.read_by.iter().flat_map(|step| step.outputs.iter().map(|o| o.artifact)));
                            next.extend(parts.parts.get(&digest).into_iter().flatten());
                        }
                    }
                }
                nodes.insert(digest, node);
            }
            left = left.saturating_sub(1);
            level = next;
        }
        Ok(Self { artifact, nodes })
    }
}

fn describe(store: &Store, artifact: ArtifactId) -> Node {
    let Ok(manifest) = store.manifest(artifact) else { return Node::default() };
    let sources = manifest.files.values().filter_map(|e| e.source.as_ref()).map(|s| s.display().to_string());
    Node {
        artifact_type: Some(manifest.artifact_type),
        bytes: manifest.bytes(),
        sources: sources.collect(),
        ..Node::default()
    }
}

/// Artifacts read by stages that are a folder of another artifact.
struct Parts {
    whole: BTreeMap<ArtifactId, (ArtifactId, String)>,
    parts: BTreeMap<ArtifactId, Vec<ArtifactId>>,
}

/// The files of a tree. They are equal for a part and for its folder in the whole.
fn signature<'e>(files: impl Iterator<Item = (&'e str, &'e Entry)>) -> Vec<(String, Digest)> {
    files.map(|(path, entry)| (path.to_owned(), entry.digest)).collect()
}

impl Parts {
    /// Finds the wholes of inputs that no stage made and that are not local sources.
    fn find(store: &Store, stages: &Stages) -> Result<Self, StoreError> {
        let mut found = Self { whole: BTreeMap::new(), parts: BTreeMap::new() };
        let mut wanted: BTreeMap<Vec<(String, Digest)>, Vec<ArtifactId>> = BTreeMap::new();
        for artifact in stages.readers.keys().filter(|a| !stages.makers.contains_key(a)) {
            let Ok(manifest) = store.manifest(*artifact) else { continue };
            if !manifest.is_reference() {
                let files = signature(manifest.files.iter().map(|(p, e)| (p.as_str(), e)));
                wanted.entry(files).or_default().push(*artifact);
            }
        }
        if wanted.is_empty() {
            return Ok(found);
        }
        for whole in stages.makers.keys() {
            let Ok(manifest) = store.manifest(*whole) else { continue };
            let folders: BTreeSet<&str> = manifest.files.keys().filter_map(|p| Some(p.split_once('/')?.0)).collect();
            for folder in folders {
                let inside = manifest.files.iter().filter_map(|(path, entry)| {
                    let (first, rest) = path.split_once('/')?;
                    (first == folder).then_some((rest, entry))
                });
                for part in wanted.get(&signature(inside)).into_iter().flatten() {
                    found.whole.entry(*part).or_insert_with(|| (*whole, folder.to_owned()));
                    found.parts.entry(*whole).or_default().push(*part);
                }
            }
        }
        Ok(found)
    }
}
