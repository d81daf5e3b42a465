//! [`Reference`]: resolves the name of an artifact, as typed by a user.
//!
//! ```text
//! TAG                          a name given by `artifacts tag`
//! DIGITS or @DIGITS            the first digits of a digest
//! RUN:STAGE.PORT               an output, or the only item of a list
//! RUN:STAGE.PORT[LABEL]        an item of a list; LABEL may be `first` or `last`
//! RUN:STAGE[ITEM].PORT         an output of a `for_each` stage
//! RUN:RESULT                   a named result of the experiment
//! ```
//!
//! RUN is the start of a run's ID, `latest`, or the name of an experiment, which means its newest
//! run.

use olmo_base::ArtifactId;

use crate::artifacts::error::ReferenceError;
use crate::artifacts::made::{RunOutputs, TaskOutputs};
use crate::run::{self, RunError, RunId};
use crate::store::{ListItem, Output, Store, StoreError};

/// A text that refers to an artifact in a store.
pub struct Reference;

impl Reference {
    /// Resolves `text` to an artifact of `store`. The artifact may no longer exist in the store,
    /// since run records remember what was made.
    pub fn resolve(store: &Store, text: &str) -> Result<ArtifactId, ReferenceError> {
        let form = |why: &str| ReferenceError::Form { text: text.to_owned(), why: why.to_owned() };
        if text.is_empty() {
            return Err(form("it is empty"));
        }
        if let Some(digits) = text.strip_prefix('@') {
            return Ok(store.find_prefix(digits)?);
        }
        if let Some((run, what)) = text.split_once(':') {
            let id = match run::find(store, run) {
                Err(RunError::UnknownRun { text }) => return Err(ReferenceError::UnknownRun { text }),
                found => found?,
            };
            return resolve_in_run(store, &id, what, text);
        }
        if let Some(artifact) = store.tagged(text)? {
            return Ok(artifact);
        }
        match store.find_prefix(text) {
            Err(StoreError::NotAPrefix { .. }) => {
                let tags = store.tags()?.into_iter().map(|tag| tag.name).collect();
                Err(ReferenceError::Unknown { text: text.to_owned(), tags })
            }
            other => Ok(other?),
        }
    }
}

fn resolve_in_run(store: &Store, id: &RunId, what: &str, whole: &str) -> Result<ArtifactId, ReferenceError> {
    let made = RunOutputs::read(store, id)?;
    let mut stages: Vec<&str> = made.state.stages.keys().collect();
    // Longest name first, since one name may be a prefix of another.
    stages.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let below = stages.iter().find_map(|stage| {
        let rest = what.strip_prefix(stage)?;
        rest.starts_with(['.', '[']).then_some((*stage, rest))
    });
    if let Some((stage, rest)) = below {
        return resolve_in_stage(&made, stage, rest, whole);
    }
    // Not a stage, so it is the name of a result, possibly with a label.
    let (name, label) = split_label(what);
    let recorded = run::read_recorded_as_written(&run::folder(store, id), id)?;
    match recorded.resolved.outputs.get(name) {
        Some(port) => {
            let label = label.map(|l| format!("[{l}]")).unwrap_or_default();
            resolve_in_stage(&made, &port.stage, &format!(".{}{label}", port.port), whole)
        }
        None => {
            let mut known: Vec<String> = made.state.stages.keys().map(str::to_owned).collect();
            known.extend(recorded.resolved.outputs.keys().cloned());
            if known.iter().any(|k| k == what) {
                let why = format!("`{what}` is a stage, so the name of one of its outputs must follow");
                return Err(ReferenceError::Form { text: whole.to_owned(), why });
            }
            let text = name.split('.').next().unwrap_or(name).to_owned();
            Err(ReferenceError::UnknownStage { run: id.to_string(), text, known })
        }
    }
}

/// Splits `PORT[LABEL]`.
fn split_label(text: &str) -> (&str, Option<&str>) {
    match text.strip_suffix(']').and_then(|t| t.split_once('[')) {
        Some((name, label)) => (name, Some(label)),
        None => (text, None),
    }
}

/// Resolves `rest`, which is `.PORT…` or `[ITEM].PORT…`, in stage `stage`.
fn resolve_in_stage(made: &RunOutputs, stage: &str, rest: &str, whole: &str) -> Result<ArtifactId, ReferenceError> {
    let form = |why: &str| ReferenceError::Form { text: whole.to_owned(), why: why.to_owned() };
    let (item, port) = match rest.strip_prefix('[') {
        Some(inside) => {
            let (item, port) = inside.split_once("].").ok_or_else(|| form("[ITEM] must be followed by .PORT"))?;
            (Some(item), port)
        }
        None => (None, rest.strip_prefix('.').unwrap_or(rest)),
    };
    let (port, label) = split_label(port);
    if port.is_empty() {
        return Err(form("the name of an output is missing"));
    }
    let run = || made.state.id.to_string();
    let is_done = made.state.stages.get(stage).is_some_and(|stage| stage.status.is_done());
    let tasks: Vec<&TaskOutputs> = made.tasks.iter().filter(|task| task.place.stage == stage).collect();
    let items: Vec<String> = tasks.iter().filter_map(|task| task.place.item.clone()).collect();
    let task = match item {
        Some(item) => tasks.iter().find(|p| p.place.item.as_deref() == Some(item)).ok_or_else(|| {
            let (stage, item) = (stage.to_owned(), item.to_owned());
            ReferenceError::UnknownItem { run: run(), stage, item, items }
        })?,
        None => match tasks.iter().find(|p| p.place.item.is_none() && !p.ports().is_empty()) {
            Some(task) => task,
            // Only once the stage is done is it certain that there is just one item.
            None if items.len() == 1 && is_done => tasks.iter().find(|p| p.place.item.is_some()).unwrap_or(&tasks[0]),
            None if !items.is_empty() => {
                return Err(ReferenceError::WhichItem { run: run(), stage: stage.to_owned(), items });
            }
            None => {
                let status = made.state.stages.get(stage).map_or("planned", |s| s.status.word());
                return Err(ReferenceError::NothingYet { run: run(), stage: stage.to_owned(), status });
            }
        },
    };
    let Some(output) = task.port(port) else {
        if task.ports().is_empty() {
            let status = made.state.stages.get(stage).map_or("planned", |s| s.status.word());
            return Err(ReferenceError::NothingYet { run: run(), stage: stage.to_owned(), status });
        }
        let known = task.ports().into_iter().map(str::to_owned).collect();
        return Err(ReferenceError::UnknownPort { run: run(), stage: stage.to_owned(), port: port.to_owned(), known });
    };
    select_artifact(&output, is_done, stage, port, label)
}

/// Selects an artifact of `output`. A list without a label means its only item, once its stage
/// `is_done`.
fn select_artifact(
    output: &Output,
    is_done: bool,
    stage: &str,
    port: &str,
    label: Option<&str>,
) -> Result<ArtifactId, ReferenceError> {
    let (stage, port) = (stage.to_owned(), port.to_owned());
    match (output, label) {
        (Output::Single(artifact), None) => Ok(*artifact),
        (Output::Single(_), Some(_)) => Err(ReferenceError::NoList { stage, port }),
        (Output::List(items), None) if items.len() == 1 && is_done => Ok(items[0].digest),
        (Output::List(items), label) => {
            let labels = || items.iter().map(|item| item.label.clone()).collect();
            let Some(label) = label else { return Err(ReferenceError::WhichLabel { stage, port, labels: labels() }) };
            let named = items.iter().find(|item| item.label == label);
            let by_place: Option<&ListItem> = match label {
                "first" => items.first(),
                "last" => items.last(),
                _ => None,
            };
            let label = label.to_owned();
            named.or(by_place).map(|item| item.digest).ok_or_else(|| ReferenceError::UnknownLabel {
                stage,
                port,
                label,
                labels: labels(),
            })
        }
    }
}
