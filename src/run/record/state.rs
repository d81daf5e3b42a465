//! [`RunState`]: the state and progress of a run, computed as a fold over its events. Used by `runs
//! list`, `runs show` and anyone who watches a run from another terminal. It is never stored.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use olmo_base::ActionKey;
use olmo_stage::Failure;
use serde::Serialize;

use crate::run::api::RunId;
use crate::run::error::RunError;
use crate::run::event::{Place, Record, RunEvent, RunOutcome, Used};
use crate::run::record::folder as record;
use crate::spec::OrderedMap;
use crate::store::{Output, Store};

/// The state of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunState {
    pub id: RunId,
    pub experiment: String,
    pub status: RunStatus,
    /// Describes the damage in its record, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// PID of the engine that works on the run, or last did.
    pub pid: Option<u32>,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// Time of the last event in milliseconds since 1970, once the run has ended.
    pub ended_ms: Option<u64>,
    /// Stages by name, in dependency order.
    pub stages: OrderedMap<StageState>,
    /// Named results, once the run has succeeded.
    pub results: BTreeMap<String, PathBuf>,
}

/// The status of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Running,
    Succeeded,
    Failed,
    /// Stopped by a signal, or its engine died; `resume` continues it.
    Interrupted,
    /// Its record is damaged, so it is unknown how the run ended.
    Damaged,
}

impl RunStatus {
    /// The status as a word.
    pub fn word(self) -> &'static str {
        match self {
            RunStatus::Running => "running",
            RunStatus::Succeeded => "succeeded",
            RunStatus::Failed => "failed",
            RunStatus::Interrupted => "interrupted",
            RunStatus::Damaged => "damaged",
        }
    }
}

/// The state of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageState {
    pub status: Status,
    /// For a `for_each` stage, one instance for each item so far. Otherwise at most one.
    pub instances: Vec<InstanceState>,
}

/// The state of a stage without `for_each`, or of one item of a `for_each` stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceState {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    pub status: Status,
    pub key: Option<ActionKey>,
    pub attempt: Option<u32>,
    /// How many processes were started for it in this run.
    pub started: u32,
    /// How often it failed and was retried.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// The latest recorded (done, total, unit).
    pub progress: Option<(u64, u64, String)>,
    /// Labels of the items in its list ports so far.
    pub items: Vec<String>,
    pub outputs: BTreeMap<String, Output>,
    pub used: Option<Used>,
    pub failure: Option<Failure>,
    /// The last lines that it printed before it failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// The failed stage because of which it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// The status of an instance, or of a stage with all its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Cached,
    Finished,
    Planned,
    /// Another process works on it or holds resources that it needs, or it failed and will be
    /// retried.
    Waiting,
    Running,
    Skipped,
    Interrupted,
    Failed,
}

impl Status {
    /// The status as a word.
    pub fn word(self) -> &'static str {
        match self {
            Status::Cached => "cached",
            Status::Finished => "finished",
            Status::Planned => "planned",
            Status::Waiting => "waiting",
            Status::Running => "running",
            Status::Skipped => "skipped",
            Status::Interrupted => "interrupted",
            Status::Failed => "failed",
        }
    }

    /// Whether the result is available.
    pub fn is_done(self) -> bool {
        matches!(self, Status::Cached | Status::Finished)
    }
}

impl RunState {
    /// Computes the state after `records`. `active` says whether an engine currently works on the
    /// run.
    pub fn fold(id: RunId, records: &[Record], active: bool) -> Self {
        let mut state = Self {
            id,
            experiment: String::new(),
            status: RunStatus::Interrupted,
            damage: None,
            pid: None,
            started_ms: records.first().map_or(0, |r| r.at),
            ended_ms: None,
            stages: OrderedMap::default(),
            results: BTreeMap::new(),
        };
        let mut outcome = None;
        let mut index = Index::default();
        for record in records {
            outcome = state.apply(&record.event, outcome, &mut index);
        }
        state.status = match outcome {
            _ if active && outcome.is_none() => RunStatus::Running,
            Some(RunOutcome::Succeeded) => RunStatus::Succeeded,
            Some(RunOutcome::Failed) => RunStatus::Failed,
            Some(RunOutcome::Interrupted { .. }) | None => RunStatus::Interrupted,
        };
        if state.status != RunStatus::Running {
            state.ended_ms = records.last().map(|r| r.at);
            state.halt();
        }
        let names: Vec<String> = state.stages.keys().map(str::to_owned).collect();
        for name in names {
            if let Some(stage) = state.stages.get_mut(&name) {
                stage.status = stage.instances.iter().map(|i| i.status).max().unwrap_or(stage.status);
            }
        }
        state
    }

    fn apply(&mut self, event: &RunEvent, outcome: Option<RunOutcome>, index: &mut Index) -> Option<RunOutcome> {
        match event {
            RunEvent::Opened { experiment, pid, stages, .. } => {
                self.experiment.clone_from(experiment);
                self.pid = Some(*pid);
                // The previous engine may have died at any point.
                let stage =
                    |name: &String| (name.clone(), StageState { status: Status::Planned, instances: Vec::new() });
                let old = std::mem::replace(&mut self.stages, stages.iter().map(stage).collect());
                for (name, old) in old.iter() {
                    if let Some(new) = self.stages.get_mut(name) {
                        // An instance that was skipped before it had a key carries no information.
                        let known = old.instances.iter().filter(|instance| instance.key.is_some());
                        new.instances.extend(known.map(InstanceState::planned_again));
                    }
                }
                *index = Index::new(&self.stages);
                return None;
            }
            RunEvent::Closed { outcome, results } => {
                self.results.clone_from(results);
                return Some(*outcome);
            }
            _ => {}
        }
        let Some(place) = event.place() else { return outcome };
        if matches!(event, RunEvent::Skipped { place: Place { item: None, .. }, .. }) {
            // A `for_each` stage that will get no more items.
            if let Some(stage) = self.stages.get_mut(&place.stage).filter(|s| !s.instances.is_empty()) {
                let open = stage.instances.iter_mut().filter(|i| !i.status.is_done());
                open.for_each(|i| i.apply(event, &mut HashSet::new()));
            }
        }
        if let Some(stage) = self.stages.get_mut(&place.stage) {
            let (at, labels) = index.0.entry(place.clone()).or_insert_with(|| {
                stage.instances.push(InstanceState::new(place.item.clone()));
                (stage.instances.len() - 1, HashSet::new())
            });
            stage.instances[*at].apply(event, labels);
        }
        outcome
    }

    /// Marks the instances that were running when the engine ended as interrupted.
    fn halt(&mut self) {
        let names: Vec<String> = self.stages.keys().map(str::to_owned).collect();
        for name in names {
            let Some(stage) = self.stages.get_mut(&name) else { continue };
            for instance in &mut stage.instances {
                if matches!(instance.status, Status::Running | Status::Waiting) {
                    instance.status = Status::Interrupted;
                }
            }
        }
    }

    /// How many stages have each status.
    pub fn counts(&self) -> BTreeMap<Status, usize> {
        let mut counts = BTreeMap::new();
        for stage in self.stages.values() {
            *counts.entry(stage.status).or_insert(0) += 1;
        }
        counts
    }
}

/// For each place, the index of its instance in the stage, and the labels of its list items.
#[derive(Default)]
struct Index(HashMap<Place, (usize, HashSet<String>)>);

impl Index {
    fn new(stages: &OrderedMap<StageState>) -> Self {
        let mut places = HashMap::new();
        for (name, stage) in stages.iter() {
            for (at, instance) in stage.instances.iter().enumerate() {
                let place = Place { stage: name.to_owned(), item: instance.item.clone() };
                places.insert(place, (at, instance.items.iter().cloned().collect()));
            }
        }
        Self(places)
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl InstanceState {
    fn new(item: Option<String>) -> Self {
        Self {
            item,
            status: Status::Planned,
            key: None,
            attempt: None,
            started: 0,
            retries: 0,
            progress: None,
            items: Vec::new(),
            outputs: BTreeMap::new(),
            used: None,
            failure: None,
            log: Vec::new(),
            because: None,
        }
    }

    /// The state when a new engine takes over: keeps what is known, and plans the work again.
    fn planned_again(&self) -> Self {
        Self { status: Status::Planned, failure: None, log: Vec::new(), because: None, progress: None, ..self.clone() }
    }

    /// Applies an event. `labels` is the set of the labels in `items`.
    fn apply(&mut self, event: &RunEvent, labels: &mut HashSet<String>) {
        match event {
            RunEvent::Cached { key, outputs, .. } => {
                (self.status, self.key) = (Status::Cached, Some(*key));
                self.outputs.clone_from(outputs);
            }
            RunEvent::Waiting { key, .. } => (self.status, self.key) = (Status::Waiting, Some(*key)),
            RunEvent::Started { key, attempt, .. } => {
                (self.status, self.key, self.attempt) = (Status::Running, Some(*key), Some(*attempt));
                self.started += 1;
                self.failure = None;
            }
            RunEvent::Resumed { keep, .. } => {
                let keep: HashSet<&String> = keep.iter().collect();
                self.items.retain(|label| keep.contains(label));
                labels.retain(|label| keep.contains(label));
            }
            RunEvent::Item { label, .. } if labels.insert(label.clone()) => self.items.push(label.clone()),
            RunEvent::Progress { done, total, unit, .. } => self.progress = Some((*done, *total, unit.clone())),
            RunEvent::Finished { key, outputs, used, shared, .. } => {
                (self.status, self.key) = (Status::Finished, Some(*key));
                self.outputs.clone_from(outputs);
                self.used = (!shared).then_some(*used);
            }
            RunEvent::Failed { failure, log, .. } => {
                (self.status, self.failure) = (Status::Failed, Some(failure.clone()));
                self.log.clone_from(log);
            }
            RunEvent::Retrying { failure, .. } => {
                (self.status, self.failure) = (Status::Waiting, Some(failure.clone()));
                self.retries += 1;
            }
            RunEvent::Delayed { .. } => self.status = Status::Waiting,
            RunEvent::Skipped { because, .. } => {
                (self.status, self.because) = (Status::Skipped, Some(because.clone()));
            }
            RunEvent::Interrupted { .. } => self.status = Status::Interrupted,
            _ => {}
        }
    }
}

/// The current state of run `id`.
pub fn show(store: &Store, id: &RunId) -> Result<RunState, RunError> {
    let folder = folder(store, id);
    // The lock is checked first. If the run ends in between, its last event is still read below.
    let active = record::is_active(&folder);
    let events = record::read_events(&folder)?;
    let mut state = RunState::fold(id.clone(), &events.records, active);
    if let Some(damage) = events.damage {
        state.status = RunStatus::Damaged;
        state.damage = Some(format!("{}: {damage}", folder.join(record::EVENTS).display()));
    }
    Ok(state)
}

/// The states of all runs in the store, oldest first.
pub fn list(store: &Store) -> Result<Vec<RunState>, RunError> {
    record::all(store)?.iter().map(|id| show(store, id)).collect()
}

/// The folder of run `id`.
pub fn folder(store: &Store, id: &RunId) -> PathBuf {
    store.runs_dir().join(id.as_str())
}

/// The logs of the run in `folder`, sorted by name.
pub fn logs(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("logs")).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    logs.sort();
    logs
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::{ArtifactId, Digest};

    fn place(stage: &str, item: Option<&str>) -> Place {
        Place { stage: stage.into(), item: item.map(str::to_owned) }
    }

    fn opened(resumed: bool) -> RunEvent {
        let stages = ["data", "train", "eval"].map(str::to_owned).to_vec();
        RunEvent::Opened { experiment: "e".into(), pid: 7, resumed, stages }
    }

    fn started(stage: &str, item: Option<&str>) -> RunEvent {
        let place = place(stage, item);
        RunEvent::Started { place, key: ActionKey::new(Digest::of(b"k")), attempt: 1, continues: false, after: None }
    }

    fn finished(stage: &str, item: Option<&str>) -> RunEvent {
        let (place, outputs) = (place(stage, item), BTreeMap::new());
        RunEvent::Finished {
            place,
            key: ActionKey::new(Digest::of(b"k")),
            shared: false,
            outputs,
            used: Used::default(),
        }
    }

    fn fold(events: &[RunEvent], active: bool) -> RunState {
        let records: Vec<Record> =
            events.iter().enumerate().map(|(at, event)| Record { at: at as u64, event: event.clone() }).collect();
        RunState::fold(RunId::parse("20260131-235959-0f3a").unwrap(), &records, active)
    }

    fn statuses(state: &RunState) -> Vec<&'static str> {
        state.stages.values().map(|s| s.status.word()).collect()
    }

    #[test]
    fn a_run_whose_engine_died_is_interrupted_and_so_is_what_it_was_doing() {
        let events = [opened(false), started("data", None), finished("data", None), started("train", None)];
        let live = fold(&events, true);
        assert_eq!((live.status, statuses(&live)), (RunStatus::Running, vec!["finished", "running", "planned"]));
        let dead = fold(&events, false);
        assert_eq!(
            (dead.status, statuses(&dead)),
            (RunStatus::Interrupted, vec!["finished", "interrupted", "planned"])
        );
    }

    #[test]
    fn a_resumed_run_plans_again_and_counts_what_was_started() {
        let mut events = vec![opened(false), started("data", None), finished("data", None), started("train", None)];
        events.extend([opened(true), started("train", None), finished("train", None)]);
        let closed = RunEvent::Closed { outcome: RunOutcome::Failed, results: BTreeMap::new() };
        let state = fold(&[events, vec![closed]].concat(), false);
        assert_eq!((state.status, statuses(&state)), (RunStatus::Failed, vec!["planned", "finished", "planned"]));
        assert_eq!(state.stages.get("train").unwrap().instances[0].started, 2);
        assert_eq!(state.stages.get("data").unwrap().instances[0].started, 1);
    }

    #[test]
    fn a_resumed_run_forgets_stages_that_were_skipped_before_they_had_a_key() {
        let skipped = RunEvent::Skipped { place: place("eval", None), because: "train".into() };
        let state = fold(&[opened(false), started("train", None), skipped.clone()], true);
        assert_eq!(state.stages.get("eval").unwrap().status, Status::Skipped);
        let again = [opened(false), skipped, opened(true), finished("eval", Some("step1"))];
        let state = fold(&again, true);
        let items: Vec<_> = state.stages.get("eval").unwrap().instances.iter().map(|i| i.item.clone()).collect();
        assert_eq!(items, [Some("step1".to_owned())]);
    }

    #[test]
    fn a_stage_is_as_bad_as_its_worst_item() {
        let failure = Failure { code: "a::b".into(), message: "m".into(), hint: None };
        let failed = RunEvent::Failed { place: place("eval", Some("b")), failure, log: vec!["x".into()] };
        let events = [opened(false), finished("eval", Some("a")), started("eval", Some("b")), failed];
        let state = fold(&events, true);
        let eval = state.stages.get("eval").unwrap();
        assert_eq!((eval.status, eval.instances.len()), (Status::Failed, 2));
        assert_eq!(eval.instances[1].log, ["x"]);
    }

    #[test]
    fn items_that_a_resumed_stage_gave_up_are_gone() {
        let item = |label: &str| RunEvent::Item {
            place: place("train", None),
            port: "p".into(),
            label: label.into(),
            artifact: ArtifactId::new(Digest::of(b"a")),
        };
        let resumed =
            RunEvent::Resumed { place: place("train", None), step: 1, port: "p".into(), keep: vec!["s1".into()] };
        let state = fold(&[opened(false), started("train", None), item("s1"), item("s2"), resumed, item("s2")], true);
        assert_eq!(state.stages.get("train").unwrap().instances[0].items, ["s1", "s2"]);
    }
}
