//! Running an experiment: what is to be done ([`plan()`]), doing it ([`run`], [`resume`]), and the
//! record of what was done ([`RunState`], in `runs-v1/ID/`).
//!
//! Failpoints ([`olmo_stage::failpoint()`]): `run.started` (the record is there, nothing runs yet),
//! `run.stage_started` (a stage's process was started), `run.item_committed` (a list item is in
//! the store and noted), `run.stage_committed` (a stage's outputs and action are in the store),
//! `run.finished` (all stages are done, the results are not yet under their names).

mod board;
mod error;
mod event;
mod explain;
mod job;
mod plan;
mod record;
mod resources;
mod results;
mod scheduler;
mod signals;
mod sources;
mod state;

pub use error::RunError;
pub use event::{Place, Record, RunEvent, RunOutcome, Used};
pub use explain::Changed;
pub use plan::{ItemPlan, PlanState, StagePlan, plan};
pub use record::{RunId, find, log_path, read_events};
pub use resources::{Grant, Machine};
pub use sources::{Change, Sources};
pub use state::{InstanceState, RunState, RunStatus, StageState, Status, folder, list, logs, show};

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use olmo_stage::{Digest, Failure, failpoint};

use crate::exec::Worker;
use crate::spec::Resolved;
use crate::store::{Action, Store, StoreError};

use board::Board;
use record::RunRecord;
use scheduler::{Ending, Scheduler};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only these stages and what they need; all, if there is none.
    pub targets: Vec<String>,
    /// Stages whose unfinished work is thrown away.
    pub fresh: Vec<String>,
    /// When a stage fails, what runs is stopped and nothing more begins; else all goes on that
    /// does not need it.
    pub fail_fast: bool,
    /// How long stages may take to save their state after a signal.
    pub grace: Duration,
    /// Where `olmo-worker` is.
    pub worker: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            fresh: Vec::new(),
            fail_fast: false,
            grace: Duration::from_secs(30),
            worker: Worker::place(),
        }
    }
}

/// Sees every event as it happens, progress and metrics at full rate.
pub trait Watch {
    fn event(&mut self, event: &RunEvent);
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub id: RunId,
    pub outcome: RunOutcome,
    /// Why stages failed.
    pub failures: Vec<StageFailure>,
    /// Where the named results lie, if all stages are done.
    pub results: BTreeMap<String, PathBuf>,
}

/// A stage that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct StageFailure {
    pub place: Place,
    pub failure: Failure,
}

/// Runs the experiment `resolved`: what is in the store already is not run again.
pub fn run(store: &Store, resolved: &Resolved, options: &Options, watch: &mut dyn Watch) -> Result<Report, RunError> {
    let names = board::order(resolved, &options.targets)?;
    for name in &options.fresh {
        board::named(resolved, name)?;
    }
    let machine = check_resources(resolved, &names)?;
    let sources = Sources::read(resolved, &names, store)?;
    let hits = check_worker(store, resolved, &names, &sources, options)?;
    let record = RunRecord::create(store, resolved, &options.targets, &sources)?;
    go(store, resolved, &names, &sources, hits, record, machine, false, options, watch)
}

/// Goes on with the run whose name begins with `text`, from what its record holds: no
/// experiment file is read. Stops if a source changed since.
pub fn resume(store: &Store, text: &str, options: &Options, watch: &mut dyn Watch) -> Result<Report, RunError> {
    let id = find(store, text)?;
    let (record, recorded) = RunRecord::reopen(store, &id)?;
    let resolved = &recorded.resolved;
    let names = board::order(resolved, &recorded.targets)?;
    let machine = check_resources(resolved, &names)?;
    let sources = Sources::read(resolved, &names, store)?;
    let changes = recorded.sources.changes(&sources, store);
    if !changes.is_empty() {
        return Err(RunError::SourcesChanged { id: id.to_string(), changes });
    }
    let hits = check_worker(store, resolved, &names, &sources, options)?;
    go(store, resolved, &names, &sources, hits, record, machine, true, options, watch)
}

fn check_resources(resolved: &Resolved, names: &[String]) -> Result<Machine, RunError> {
    let machine = Machine::here();
    for name in names {
        if let Some(stage) = resolved.stages.get(name) {
            machine.check(name, &stage.resources)?;
        }
    }
    Ok(machine)
}

/// Before anything runs: that the worker holds the stages that may run, as the experiment means them.
/// Returns what is there already, by key, so that it need not be looked up again.
fn check_worker(
    store: &Store,
    resolved: &Resolved,
    names: &[String],
    sources: &Sources,
    options: &Options,
) -> Result<HashMap<Digest, Action>, RunError> {
    let found = plan::find(resolved, names, sources, store)?;
    let mut worker = None;
    for name in &found.missing {
        let Some(stage) = resolved.stages.get(name) else { continue };
        if stage.description.contract.command.is_some() {
            continue;
        }
        if worker.is_none() {
            worker = Some(Worker::find(&options.worker)?);
        }
        if let Some(worker) = &worker {
            worker.check(&stage.uses, &stage.description)?;
        }
    }
    Ok(found.hits)
}

/// How often a run begins again because a result was damaged in the store.
const ROUNDS: u32 = 3;

/// Whether an artifact is not whole any more, so that its maker is to run again.
fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Corrupt { .. }
            | StoreError::MissingObject { .. }
            | StoreError::DamagedManifest { .. }
            | StoreError::NoArtifact { .. }
    )
}

#[expect(clippy::too_many_arguments, reason = "the two doors above have made each of them, and nothing else does")]
fn go(
    store: &Store,
    resolved: &Resolved,
    names: &[String],
    sources: &Sources,
    mut hits: HashMap<Digest, Action>,
    mut record: RunRecord,
    machine: Machine,
    resumed: bool,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Report, RunError> {
    let id = record.id.clone();
    let opened = RunEvent::Opened {
        experiment: resolved.experiment.clone(),
        pid: std::process::id(),
        resumed,
        stages: names.to_vec(),
    };
    watch.event(&opened);
    record.append(&opened)?;
    failpoint("run.started");
    let mut results = BTreeMap::new();
    let mut rounds = 0;
    let ending = loop {
        let mut board = Board::new(resolved, names, sources);
        // Known of the first round alone: a later one begins since something was found damaged.
        let hits = std::mem::take(&mut hits);
        let scheduler =
            Scheduler::new(&mut board, resolved, store, &mut record, options, machine.clone(), watch).knowing(hits);
        let signals = signals::Watcher::start(scheduler.sender())?;
        let ending = scheduler.run()?;
        if !ending.complete {
            // The trials of a sweep stand for themselves: what is done of them is given out.
            if ending.signal.is_none() && !resolved.trials.is_empty() {
                results = results::export(resolved, &board, store)?;
            }
            break ending;
        }
        failpoint("run.finished");
        signals.end_at_once();
        rounds += 1;
        match results::export(resolved, &board, store) {
            Ok(exported) => {
                results = exported;
                break ending;
            }
            // A result is damaged, and in quarantine now: what made it is no hit any more.
            Err(RunError::Store(error)) if rounds < ROUNDS && is_damage(&error) => {
                let place = Place { stage: "results".into(), item: None };
                let event =
                    RunEvent::Message { place, level: "warning".into(), text: format!("{error}; it is made again") };
                watch.event(&event);
                record.append(&event)?;
            }
            Err(error) => return Err(error),
        }
    };
    let Ending { signal, failures, complete } = ending;
    let outcome = match signal {
        _ if complete => RunOutcome::Succeeded,
        Some(signal) => RunOutcome::Interrupted { signal },
        None => RunOutcome::Failed,
    };
    let closed = RunEvent::Closed { outcome, results: results.clone() };
    watch.event(&closed);
    record.append(&closed)?;
    Ok(Report { id, outcome, failures, results })
}
