//! [`Provenance`]: the full recipe of an artifact. It names the stage that made it with every param
//! and the digest of every input, and the runs in which that stage ran: when, where, and with which
//! code.

use std::collections::BTreeMap;

use olmo_base::{ActionKey, ArtifactId};
use olmo_stage::PortType;
use serde::Serialize;

use crate::artifacts::error::ReferenceError;
use crate::artifacts::made::RunOutputs;
use crate::key::KeyRecord;
use crate::run::{self, Environment, Place, Used};
use crate::store::{Output, Store};

/// The full recipe of an artifact.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Provenance {
    pub artifact: ArtifactId,
    #[serde(rename = "type")]
    pub artifact_type: PortType,
    pub bytes: u64,
    /// The stages that made it. Empty for a source, or if the store no longer has the record.
    pub makers: Vec<Maker>,
}

/// A finished stage that made an artifact.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Maker {
    pub key: ActionKey,
    /// The output port of the artifact.
    pub port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Everything that can change the result: stage, version, params, inputs, backend and
    /// precision.
    pub record: KeyRecord,
    /// The executions of the stage. Empty if the record of the run was removed, or if the artifact
    /// was imported.
    pub makings: Vec<Execution>,
}

/// One complete execution of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Execution {
    pub run: String,
    pub experiment: String,
    pub place: Place,
    pub attempt: Option<u32>,
    /// Milliseconds since 1970.
    pub started_ms: Option<u64>,
    pub finished_ms: u64,
    pub used: Option<Used>,
    /// `None` if the engine was killed before it recorded the environment.
    pub environment: Option<Environment>,
}

/// The executions of each key, from the records of all runs.
pub(super) struct Executions(BTreeMap<ActionKey, Vec<Execution>>);

impl Executions {
    pub(super) fn read(store: &Store) -> Result<Self, ReferenceError> {
        let mut makings: BTreeMap<ActionKey, Vec<Execution>> = BTreeMap::new();
        for made in RunOutputs::all(store)? {
            let environments = Environment::read(&run::folder(store, &made.state.id)).unwrap_or_default();
            for task in made.tasks {
                let (Some(key), Some(finished_ms)) = (task.key, task.finished_ms) else { continue };
                let started = task.started_ms.unwrap_or(finished_ms);
                let environment = environments.iter().rev().find(|e| e.at <= started).or(environments.first());
                makings.entry(key).or_default().push(Execution {
                    run: made.state.id.to_string(),
                    experiment: made.state.experiment.clone(),
                    place: task.place,
                    attempt: task.attempt,
                    started_ms: task.started_ms,
                    finished_ms,
                    used: task.used,
                    environment: environment.cloned(),
                });
            }
        }
        Ok(Self(makings))
    }

    /// The executions of `key`, oldest first.
    pub(super) fn for_key(&self, key: ActionKey) -> &[Execution] {
        self.0.get(&key).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Provenance {
    /// Reads the recipe of `artifact`.
    pub fn read(store: &Store, artifact: ArtifactId) -> Result<Self, ReferenceError> {
        let manifest = store.manifest(artifact)?;
        let makings = Executions::read(store)?;
        let mut makers = Vec::new();
        for key in store.action_keys()? {
            let Some(action) = store.recorded_action(key) else { continue };
            let place = action.outputs.iter().find_map(|(port, output)| match output {
                Output::Single(digest) => (*digest == artifact).then(|| (port.clone(), None)),
                Output::List(items) => {
                    let item = items.iter().find(|item| item.digest == artifact)?;
                    Some((port.clone(), Some(item.label.clone())))
                }
            });
            let Some((port, label)) = place else { continue };
            makers.push(Maker { key, port, label, record: action.key, makings: makings.for_key(key).to_vec() });
        }
        // The stage that ran first counts as the maker. The others only produced the same bytes.
        let first = |maker: &Maker| maker.makings.first().map_or(u64::MAX, |m| m.finished_ms);
        makers.sort_by_key(|maker| (first(maker), maker.key));
        let (artifact_type, bytes) = (manifest.artifact_type, manifest.bytes());
        Ok(Self { artifact, artifact_type, bytes, makers })
    }
}

/// Formats milliseconds since 1970 as `2026-01-31T23:59:59.123Z`.
pub(super) fn time(ms: u64) -> String {
    let seconds = olmo_base::units::utc(ms / 1000);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), ms % 1000)
}
