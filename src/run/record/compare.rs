//! The rows of `runs compare`: the params and metrics of runs and of the trials of sweeps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use olmo_base::ArtifactId;
use olmo_stage::PortType;
use serde::Serialize;
use serde_json::Value;

use crate::run::api::RunId;
use crate::run::error::RunError;
use crate::run::record::folder as record;
use crate::run::record::state::{self, RunState, Status};
use crate::spec::{Resolved, Trial};
use crate::store::{Handover, Output, Store};

/// Longer lines are ignored, since they hold no metrics.
const MAX_LINE: usize = 1 << 20;

/// One run without a sweep, or one trial.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub run: RunId,
    /// The name of the experiment, followed by that of the trial.
    pub name: String,
    /// The worst status of its stages.
    pub status: Status,
    /// All params of the pipeline and of the stages, by path.
    pub values: BTreeMap<String, Value>,
    /// The last value of each metric, as `STAGE.NAME`. A `for_each` stage is represented by its
    /// last item.
    pub metrics: BTreeMap<String, f64>,
}

/// The rows of the runs `ids`, in this order; the trials of a run in the order of the sweep.
pub fn rows(store: &Store, ids: &[RunId]) -> Result<Vec<Row>, RunError> {
    let mut numbers = Numbers { store, known: HashMap::new() };
    let mut rows = Vec::new();
    for id in ids {
        let resolved = record::read_recorded_as_written(&state::folder(store, id), id)?.resolved;
        let run = state::show(store, id)?;
        if resolved.trials.is_empty() {
            rows.push(row(&mut numbers, id, &resolved, &run, None));
        }
        for trial in &resolved.trials {
            rows.push(row(&mut numbers, id, &resolved, &run, Some(trial)));
        }
    }
    Ok(rows)
}

fn row(numbers: &mut Numbers<'_>, id: &RunId, resolved: &Resolved, run: &RunState, trial: Option<&Trial>) -> Row {
    let name =
        trial.map_or_else(|| resolved.experiment.clone(), |trial| format!("{} {}", resolved.experiment, trial.name));
    let mut row =
        Row { run: id.clone(), name, status: Status::Cached, values: BTreeMap::new(), metrics: BTreeMap::new() };
    for (name, value) in &resolved.params {
        flatten(&format!("params.{name}"), value, &mut row.values);
    }
    for (path, value) in trial.iter().flat_map(|trial| &trial.values) {
        flatten(path, value, &mut row.values);
    }
    // The pipeline's stage names, mapped to the stages of this trial.
    let own: BTreeMap<&str, &str> =
        trial.iter().flat_map(|trial| &trial.stages).map(|(base, name)| (name.as_str(), base.as_str())).collect();
    for (name, stage) in resolved.stages.iter() {
        let base = match own.get(name) {
            Some(base) => base,
            None if name.contains('@') => continue,
            None => name,
        };
        if stage.params.as_object().is_some_and(|params| !params.is_empty()) {
            flatten(&format!("stages.{base}.with"), &stage.params, &mut row.values);
        }
        let Some(done) = run.stages.get(name) else { continue };
        row.status = row.status.max(done.status);
        for (port, output) in &stage.description.contract.outputs {
            if output.port_type != PortType::Metrics {
                continue;
            }
            let made = done.instances.iter().filter_map(|instance| instance.outputs.get(port)).next_back();
            let digest = match made {
                Some(Output::Single(digest)) => Some(*digest),
                Some(Output::List(items)) => items.last().map(|item| item.digest),
                None => None,
            };
            let last = digest.map(|digest| numbers.last(digest)).unwrap_or_default();
            row.metrics.extend(last.into_iter().map(|(name, value)| (format!("{base}.{name}"), value)));
        }
    }
    row
}

/// Adds the leaves of `value` to `into`, by path.
fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, into));
        }
        _ => {
            into.insert(path.to_owned(), value.clone());
        }
    }
}

/// Reads the metrics in artifacts, each artifact once.
struct Numbers<'s> {
    store: &'s Store,
    known: HashMap<ArtifactId, BTreeMap<String, f64>>,
}

impl Numbers<'_> {
    /// The last value of each metric in `artifact`. Empty if it can no longer be read.
    fn last(&mut self, artifact: ArtifactId) -> BTreeMap<String, f64> {
        if let Some(known) = self.known.get(&artifact) {
            return known.clone();
        }
        let read = tempfile::tempdir().ok().and_then(|folder| {
            let place = folder.path().join("metrics");
            self.store.materialize(artifact, &place, Handover::Copy).ok()?;
            Some(read_numbers(&place))
        });
        self.known.entry(artifact).or_insert(read.unwrap_or_default()).clone()
    }
}

/// The values in `metrics.json`, and the last values in `metrics.jsonl`, in `folder`.
fn read_numbers(folder: &Path) -> BTreeMap<String, f64> {
    let mut numbers = BTreeMap::new();
    let mut add = |text: &str| {
        if let Ok(value) = serde_json::from_str::<Value>(text) {
            let mut flat = BTreeMap::new();
            flatten("", &value, &mut flat);
            numbers.extend(
                flat.into_iter().filter_map(|(name, value)| Some((name.get(1..)?.to_owned(), value.as_f64()?))),
            );
        }
    };
    if let Ok(text) = std::fs::read_to_string(folder.join("metrics.json")) {
        add(&text);
    }
    if let Ok(file) = File::open(folder.join("metrics.jsonl")) {
        for line in BufReader::new(file).lines().map_while(Result::ok).filter(|line| line.len() <= MAX_LINE) {
            add(&line);
        }
    }
    numbers
}

/// The paths of the values in which `rows` differ. If several paths differ in the same way (a
/// stage's param that is set from a pipeline's param), only the first is listed.
pub fn differing(rows: &[Row]) -> Vec<String> {
    let paths: BTreeSet<&String> = rows.iter().flat_map(|row| row.values.keys()).collect();
    let mut seen: Vec<Vec<Option<&Value>>> = Vec::new();
    let mut differing = Vec::new();
    for path in paths {
        let column: Vec<Option<&Value>> = rows.iter().map(|row| row.values.get(path)).collect();
        if column.windows(2).all(|pair| pair[0] == pair[1]) || seen.contains(&column) {
            continue;
        }
        differing.push(path.clone());
        seen.push(column);
    }
    differing
}

/// The names of the metrics in which `rows` differ.
pub fn differing_metrics(rows: &[Row]) -> Vec<String> {
    let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.metrics.keys()).collect();
    let differs = |name: &&&String| {
        let mut column = rows.iter().map(|row| row.metrics.get(**name));
        let first = column.next();
        column.any(|number| Some(number) != first)
    };
    names.iter().filter(differs).map(|name| (*name).clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(values: &[(&str, Value)], metrics: &[(&str, f64)]) -> Row {
        Row {
            run: RunId::parse("20260131-235959-0f3a").unwrap(),
            name: "e".into(),
            status: Status::Finished,
            values: values.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect(),
            metrics: metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        }
    }

    #[test]
    fn only_what_differs_is_named_and_each_difference_once() {
        let lr = |lr: f64, seed: u64| {
            let values = [
                ("params.lr", json!(lr)),
                ("params.seed", json!(seed)),
                ("params.name", json!("same")),
                ("stages.train.with.optimizer.lr", json!(lr)),
            ];
            row(&values, &[("train.loss", lr * 2.0), ("train.tokens", 5.0)])
        };
        let rows = [lr(0.1, 1), lr(0.2, 1), lr(0.2, 2)];
        assert_eq!(differing(&rows), ["params.lr", "params.seed"]);
        assert_eq!(differing_metrics(&rows), ["train.loss"]);
        assert!(differing(&rows[..1]).is_empty() && differing_metrics(&rows[..1]).is_empty());
    }

    #[test]
    fn the_last_number_of_each_name_counts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("metrics.jsonl"),
            "{\"loss\": 2, \"eval\": {\"loss\": 3}}\n{\"loss\": 1.5}\nnot json\n{\"note\": \"x\"}\n",
        )
        .unwrap();
        assert_eq!(read_numbers(folder.path()), BTreeMap::from([("loss".into(), 1.5), ("eval.loss".into(), 3.0)]));
        std::fs::write(folder.path().join("metrics.json"), "{\"exact_match\": 0.25}").unwrap();
        assert_eq!(read_numbers(folder.path())["exact_match"], 0.25);
    }
}
