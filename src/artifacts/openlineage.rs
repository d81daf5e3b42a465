//! [`events`]: the history of an artifact as OpenLineage run events (spec 2-0-2). There is a START
//! and a COMPLETE event for every upstream stage, in the order in which the stages ended.

use olmo_base::{ActionKey, ArtifactId, Digest};
use serde_json::{Value, json};

use crate::artifacts::error::ReferenceError;
use crate::artifacts::lineage::{Direction, Lineage, StepInput};
use crate::artifacts::provenance::{Execution, Executions, time};
use crate::run::RunId;
use crate::store::Store;

const PRODUCER: &str = concat!("urn:olmo-pipe:", env!("CARGO_PKG_VERSION"));
const SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
/// The namespace of all artifacts. Their names are digests, so a name means the same bytes
/// everywhere.
const ARTIFACTS: &str = "olmo-pipe:artifact";

/// The events of `artifact`. If the record of a stage's run was removed, the stage has only a
/// COMPLETE event, with the time at which its action was committed.
pub fn events(store: &Store, artifact: ArtifactId) -> Result<Vec<Value>, ReferenceError> {
    let lineage = Lineage::trace(store, artifact, Direction::Up, None)?;
    let makings = Executions::read(store)?;
    let mut steps: Vec<(u64, ActionKey, Vec<Value>)> = Vec::new();
    for node in lineage.nodes.values() {
        // If several keys gave the same bytes, use the one that ran first.
        let ended = |key: ActionKey| makings.for_key(key).first().map(|m| m.finished_ms);
        let Some(step) = node.made_by.iter().min_by_key(|s| (ended(s.key).unwrap_or(u64::MAX), s.key)) else {
            continue;
        };
        if steps.iter().any(|(_, key, _)| *key == step.key) {
            continue;
        }
        let Some(action) = store.recorded_action(step.key) else { continue };
        let making = makings.for_key(step.key).first();
        let committed = || store.action_used(step.key).map_or(0, |at| u64::try_from(at / 1_000_000).unwrap_or(0));
        let end = making.map_or_else(committed, |m| m.finished_ms);
        let (namespace, name) = match making {
            Some(making) => (format!("olmo-pipe:{}", making.experiment), making.place.stage.clone()),
            None => ("olmo-pipe".to_owned(), step.stage.clone()),
        };
        let datasets = |list: &[StepInput]| list.iter().map(|one| dataset(store, one)).collect::<Vec<_>>();
        let (inputs, outputs) = (datasets(&step.inputs), datasets(&step.outputs));
        let event = |kind: &str, at: u64, outputs: &[Value]| {
            json!({
                "eventType": kind, "eventTime": time(at), "producer": PRODUCER, "schemaURL": SCHEMA,
                "run": {"runId": uuid(making, step.key), "facets": run_facets(making, step.key, &action.key)},
                "job": {"namespace": namespace, "name": name, "facets": {
                    "jobType": {
                        "_producer": PRODUCER,
                        "_schemaURL": "https://openlineage.io/spec/facets/2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet",
                        "processingType": "BATCH", "integration": "OLMO_PIPE", "jobType": "STAGE",
                    },
                }},
                "inputs": inputs, "outputs": outputs,
            })
        };
        let mut pair = Vec::new();
        if let Some(start) = making.and_then(|m| m.started_ms) {
            pair.push(event("START", start, &[]));
        }
        pair.push(event("COMPLETE", end, &outputs));
        steps.push((end, step.key, pair));
    }
    steps.sort_by_key(|(end, key, _)| (*end, *key));
    Ok(steps.into_iter().flat_map(|(_, _, pair)| pair).collect())
}

fn dataset(store: &Store, one: &StepInput) -> Value {
    let manifest = store.manifest(one.artifact).ok();
    let facets = manifest.map(|manifest| {
        json!({
            "version": {
                "_producer": PRODUCER,
                "_schemaURL": "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
                "datasetVersion": one.artifact,
            },
            "olmoPipe_artifact": {
                "_producer": PRODUCER, "_schemaURL": "urn:olmo-pipe:facet:artifact:1",
                "port": one.port, "label": one.label, "type": manifest.artifact_type,
                "bytes": manifest.bytes(), "files": manifest.files.len(),
            },
        })
    });
    json!({"namespace": ARTIFACTS, "name": one.artifact, "facets": facets.unwrap_or_else(|| json!({}))})
}

fn run_facets(making: Option<&Execution>, key: ActionKey, record: &crate::key::KeyRecord) -> Value {
    let mut facets = json!({
        "processing_engine": {
            "_producer": PRODUCER,
            "_schemaURL": "https://openlineage.io/spec/facets/1-1-1/ProcessingEngineRunFacet.json#/$defs/ProcessingEngineRunFacet",
            "name": "olmo-pipe",
            "version": making.and_then(|m| m.environment.as_ref()).map_or(env!("CARGO_PKG_VERSION"), |e| e.engine.as_str()),
        },
        "olmoPipe_key": {
            "_producer": PRODUCER, "_schemaURL": "urn:olmo-pipe:facet:key:1", "key": key, "record": record,
        },
    });
    if let (Some(making), Some(map)) = (making, facets.as_object_mut()) {
        let facet = json!({
            "_producer": PRODUCER, "_schemaURL": "urn:olmo-pipe:facet:making:1",
            "run": making.run, "attempt": making.attempt, "used": making.used, "environment": making.environment,
        });
        map.insert("olmoPipe_making".into(), facet);
    }
    facets
}

/// A UUID (version 8) for the execution of a stage. The same run and key give the same UUID in
/// every export.
fn uuid(making: Option<&Execution>, key: ActionKey) -> String {
    let run = making.and_then(|m| RunId::parse(&m.run)).map(|id| id.to_string()).unwrap_or_default();
    let mut bytes = *Digest::of(format!("{run}/{key}").as_bytes()).as_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes[..16].iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_execution_has_one_well_formed_uuid() {
        let one = uuid(None, ActionKey::new(Digest::of(b"key")));
        assert_eq!(one, uuid(None, ActionKey::new(Digest::of(b"key"))));
        assert_ne!(one, uuid(None, ActionKey::new(Digest::of(b"other"))));
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert!(one[14..15] == *"8" && "89ab".contains(&one[19..20]), "{one}");
    }
}
