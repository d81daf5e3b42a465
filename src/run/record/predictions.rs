//! The instances that evaluations in runs recorded: `predictions.jsonl` in metrics artifacts.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use olmo_base::{ArtifactId, IoContext as _};
use olmo_eval::Prediction;
use olmo_stage::PortType;

use crate::run::api::RunId;
use crate::run::error::RunError;
use crate::run::record::folder as record;
use crate::run::record::state;
use crate::store::{Handover, Output, Store};

/// The file of a metrics artifact.
const LINES: &str = "predictions.jsonl";

/// What an evaluation recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    pub run: RunId,
    pub stage: String,
    /// The item of a `for_each` stage.
    pub item: Option<String>,
    pub predictions: Vec<Prediction>,
}

/// The evaluations of the runs `ids` in this order: of each stage, that of its last item. With
/// `stages`, only those of stages with these names, and of all their items.
///
/// # Errors
/// A record or an artifact cannot be read.
pub fn evaluations(store: &Store, ids: &[RunId], stages: &[String]) -> Result<Vec<Evaluation>, RunError> {
    let mut found = Vec::new();
    for id in ids {
        let resolved = record::read_recorded_as_written(&state::folder(store, id), id)?.resolved;
        let run = state::show(store, id)?;
        for (name, stage) in resolved.stages.iter() {
            if !stages.is_empty() && !stages.iter().any(|wanted| wanted == name) {
                continue;
            }
            let Some(done) = run.stages.get(name) else { continue };
            let mut own = Vec::new();
            for (port, output) in &stage.description.contract.outputs {
                if output.port_type != PortType::Metrics {
                    continue;
                }
                for instance in &done.instances {
                    let Some(Output::Single(artifact)) = instance.outputs.get(port) else { continue };
                    if !store.manifest(*artifact)?.files.contains_key(LINES) {
                        continue;
                    }
                    own.push((instance.item.clone(), *artifact));
                }
            }
            if stages.is_empty() {
                own.drain(..own.len().saturating_sub(1));
            }
            for (item, artifact) in own {
                let predictions = read(store, artifact)?;
                found.push(Evaluation { run: id.clone(), stage: name.to_owned(), item, predictions });
            }
        }
    }
    Ok(found)
}

/// The instances that the metrics artifact `artifact` holds; `None` if it holds none.
///
/// # Errors
/// It cannot be read.
pub fn predictions(store: &Store, artifact: ArtifactId) -> Result<Option<Vec<Prediction>>, RunError> {
    match store.manifest(artifact)?.files.contains_key(LINES) {
        true => read(store, artifact).map(Some),
        false => Ok(None),
    }
}

fn read(store: &Store, artifact: ArtifactId) -> Result<Vec<Prediction>, RunError> {
    let folder = tempfile::tempdir().context(std::env::temp_dir())?;
    let place = folder.path().join("metrics");
    store.materialize(artifact, &place, Handover::Copy)?;
    read_lines(&place.join(LINES))
}

fn read_lines(path: &Path) -> Result<Vec<Prediction>, RunError> {
    let mut predictions = Vec::new();
    for line in BufReader::new(std::fs::File::open(path).context(path)?).lines() {
        let line = line.context(path)?;
        let prediction = serde_json::from_str(&line).map_err(std::io::Error::from).context(path)?;
        predictions.push(prediction);
    }
    Ok(predictions)
}
