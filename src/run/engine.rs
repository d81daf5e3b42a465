//! Runs an experiment: plans it, records it, and schedules its stages ([`run`], [`resume`]).
//!
//! Failpoints ([`olmo_base::failpoint()`]): `run.started` (the record is there, nothing runs yet),
//! `run.stage_started` (a stage's process was started), `run.item_committed` (a list item is in
//! the store and noted), `run.stage_committed` (a stage's outputs and action are in the store),
//! `run.finished` (all stages are done, the results are not yet under their names).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use olmo_base::{Digest, failpoint};
use olmo_stage::MessageLevel;
use olmo_stage::compute::Device;
use olmo_stage::rules::Level;

use crate::exec::attempt::{Work, end_leftovers};
use crate::exec::backend::{stage_compute, worker_path};
use crate::exec::{ExecError, Worker};
use crate::run::api::{Options, Report, Sourcing, StageFinding, Watch};
use crate::run::cache::{Cache, Outputs};
use crate::run::error::RunError;
use crate::run::event::{Place, RunEvent, RunOutcome};
use crate::run::job::is_damage;
use crate::run::plan::board::{self, Board};
use crate::run::plan::{self, Found, Missing, Selected};
use crate::run::record::{RunRecord, find};
use crate::run::results::{self, Exported};
use crate::run::schedule::{Ending, ForcedStages, Scheduler, signals};
use crate::run::sources::{Sources, remote};
use crate::spec::Resolved;
use crate::store::Store;

/// Runs the experiment `resolved`: what is in the store already is not run again.
pub fn run(store: &Store, resolved: &Resolved, options: &Options, watch: &mut dyn Watch) -> Result<Report, RunError> {
    for name in options.fresh.iter().chain(&options.force) {
        board::named(resolved, name)?;
    }
    let selected = options.selection.choose(resolved)?;
    check_resources(resolved, &selected.names, options)?;
    results::check(resolved, &selected.names, store)?;
    let lock = options.sourcing.read()?;
    // From here on the store holds what no record names yet.
    let beginning = store.begin_run()?;
    let mut sources = Sources::read(resolved, &selected.names, store, &lock.sources)?;
    let wanted = remote::uses(resolved, &selected.names);
    let unknown = wanted.iter().filter(|(source, _)| !sources.remote().contains_key(*source));
    let unknown = unknown.map(|(source, uses)| (source.clone(), uses.clone())).collect();
    remote::bring(store, &unknown, sources.remote_mut(), &options.sourcing, watch)?;
    let forced = ForcedStages {
        all: options.no_cache_read,
        stages: options.force.iter().flat_map(|name| resolved.named(name)).map(str::to_owned).collect(),
        except: selected.only_read.clone(),
    };
    let Found { hits, missing } = check_plan(store, resolved, &selected, &sources, &forced, options)?;
    bring_for(store, resolved, &selected, &missing, &forced, &mut sources, options, watch)?;
    let mut warnings = plan::findings_of(resolved, &missing, Some(store), options)?;
    warnings.retain(|found| found.finding.level != Level::Note);
    if warnings.iter().any(|found| found.finding.level == Level::Error) {
        return Err(RunError::Refused(warnings));
    }
    let record = RunRecord::create(store, resolved, &options.selection, &sources, beginning)?;
    let todo = Todo { resolved, names: &selected.names, sources: &sources, forced, warnings, resumed: false };
    go(store, &todo, hits, record, options, watch)
}

/// Goes on with the run whose name begins with `text`, from what its record holds: no
/// experiment file is read. Stops if a source changed since.
pub fn resume(store: &Store, text: &str, options: &Options, watch: &mut dyn Watch) -> Result<Report, RunError> {
    let id = find(store, text)?;
    let (record, recorded) = RunRecord::reopen(store, &id)?;
    let resolved = &recorded.resolved;
    let selected = recorded.selection().choose(resolved)?;
    check_resources(resolved, &selected.names, options)?;
    results::check(resolved, &selected.names, store)?;
    let mut sources = Sources::read(resolved, &selected.names, store, recorded.sources.remote())?;
    let changes = recorded.sources.changes(&sources, store);
    if !changes.is_empty() {
        return Err(RunError::SourcesChanged { id: id.to_string(), changes });
    }
    let forced = ForcedStages::default();
    let Found { hits, missing } = check_plan(store, resolved, &selected, &sources, &forced, options)?;
    bring_for(store, resolved, &selected, &missing, &forced, &mut sources, options, watch)?;
    let (names, warnings) = (&selected.names, Vec::new());
    let todo = Todo { resolved, names, sources: &sources, forced, warnings, resumed: true };
    go(store, &todo, hits, record, options, watch)
}

/// Brings the remote sources of the stages that are to run into the store: a hit needs none.
#[expect(clippy::too_many_arguments, reason = "what a run is about, and how")]
fn bring_for(
    store: &Store,
    resolved: &Resolved,
    selected: &Selected,
    missing: &[Missing],
    forced: &ForcedStages,
    sources: &mut Sources,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<(), RunError> {
    let missing: BTreeSet<&String> = missing.iter().map(|missing| &missing.name).collect();
    let names = selected.names.iter().filter(|name| missing.contains(name) || forced.contains(name));
    remote::bring(store, &remote::uses(resolved, names), sources.remote_mut(), &options.sourcing, watch)
}

/// Finds out what all remote sources of `resolved` are, brings them into the store and writes the lock; with `update`, also of
/// those that are locked already. Returns the sources that are new in the lock, or changed.
pub fn lock(
    store: &Store,
    resolved: &Resolved,
    update: bool,
    sourcing: &Sourcing,
    watch: &mut dyn Watch,
) -> Result<BTreeSet<String>, RunError> {
    let names: Vec<String> = resolved.stages.keys().map(str::to_owned).collect();
    let wanted = remote::uses(resolved, &names);
    if update {
        return remote::update(store, &wanted, sourcing, watch);
    }
    let mut known = sourcing.read()?.sources;
    let fresh = wanted.keys().filter(|source| !known.contains_key(*source)).cloned().collect();
    remote::bring(store, &wanted, &mut known, sourcing, watch)?;
    Ok(fresh)
}

/// Checks that every stage fits on the executor.
fn check_resources(resolved: &Resolved, names: &[String], options: &Options) -> Result<(), RunError> {
    let stages = names.iter().filter_map(|name| Some((name.as_str(), resolved.stages.get(name)?.resources)));
    Ok(options.executor.check(&stages.collect::<Vec<_>>())?)
}

/// Before anything runs: that the worker holds the stages that may run, as the experiment means
/// them, and that what is only read is there. Returns what is there already, so that it need not
/// be looked up again.
fn check_plan(
    store: &Store,
    resolved: &Resolved,
    selected: &Selected,
    sources: &Sources,
    forced: &ForcedStages,
    options: &Options,
) -> Result<Found, RunError> {
    let found = plan::find(resolved, &selected.names, sources, store)?;
    if let Some(Missing { name, .. }) = found.missing.iter().find(|missing| selected.only_read.contains(&missing.name))
    {
        return Err(selected.not_before(name));
    }
    let mut workers: BTreeMap<PathBuf, Worker> = BTreeMap::new();
    let missing: BTreeSet<&String> = found.missing.iter().map(|missing| &missing.name).collect();
    for name in selected.names.iter().filter(|name| missing.contains(name) || forced.contains(name)) {
        let Some(stage) = resolved.stages.get(name) else { continue };
        if stage.description.contract.command.is_some() {
            continue;
        }
        let compute = stage_compute(stage);
        if compute.device == Device::Cuda && stage.resources.gpus == 0 {
            return Err(ExecError::NoGpuAsked { stage: name.clone() }.into());
        }
        let worker = match workers.entry(worker_path(compute, &options.worker)) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let found = Worker::find(place.key()).map_err(|error| match error {
                    ExecError::WorkerMissing(path) => ExecError::missing(path, compute),
                    other => other,
                })?;
                place.insert(found)
            }
        };
        if compute.device == Device::Cuda && !worker.backends().contains_key(compute.name()) {
            return Err(ExecError::BackendLacks { path: worker.path().to_owned(), compute }.into());
        }
        worker.check(&stage.uses, &stage.description)?;
    }
    Ok(found)
}

/// Shows and records a warning about the results.
fn warn_of_results(text: String, record: &mut RunRecord, watch: &mut dyn Watch) -> Result<(), RunError> {
    let place = Place { stage: "results".into(), item: None };
    let event = RunEvent::Message { place, level: MessageLevel::Warning, text };
    watch.event(&event);
    record.append(&event)
}

/// How often a run begins again because a result was damaged in the store.
const ROUNDS: u32 = 3;

/// What a run is about.
struct Todo<'r> {
    resolved: &'r Resolved,
    names: &'r [String],
    sources: &'r Sources,
    forced: ForcedStages,
    /// What stages say that stops nothing.
    warnings: Vec<StageFinding>,
    resumed: bool,
}

fn go(
    store: &Store,
    todo: &Todo<'_>,
    mut hits: HashMap<Digest, Outputs>,
    mut record: RunRecord,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Report, RunError> {
    let Todo { resolved, names, sources, .. } = *todo;
    let id = record.id.clone();
    // What engines left that were killed together with their supervisors occupies what this one needs.
    if let Ok(keys) = store.work_keys() {
        let works: Vec<Work> = keys.into_iter().map(|key| Work::at(store.work(key))).collect();
        end_leftovers(&works);
    }
    let opened = RunEvent::Opened {
        experiment: resolved.experiment.clone(),
        pid: std::process::id(),
        resumed: todo.resumed,
        stages: names.to_vec(),
    };
    record.append(&opened)?;
    record.sync()?;
    watch.begins(&id);
    watch.event(&opened);
    for StageFinding { stage, finding } in &todo.warnings {
        let (place, text) = (Place { stage: stage.clone(), item: None }, finding.message.clone());
        let event = RunEvent::Message { place, level: MessageLevel::Warning, text };
        watch.event(&event);
        record.append(&event)?;
    }
    failpoint("run.started");
    let mut exported = Exported::default();
    let mut rounds = 0;
    let ending = loop {
        let mut board = Board::new(resolved, names, sources);
        // Known of the first round alone: a later one begins since something was found damaged,
        // and makes that again, nothing else.
        let hits = std::mem::take(&mut hits);
        let forced = if rounds == 0 { todo.forced.clone() } else { ForcedStages::default() };
        let cache = Cache::new(store).with_verified(hits);
        let scheduler = Scheduler::new(&mut board, resolved, cache, &mut record, options, forced, watch);
        let signals = signals::Watcher::start(scheduler.sender())?;
        let ending = scheduler.run()?;
        if !ending.complete {
            // The trials of a sweep stand for themselves: what is done of them is given out.
            if ending.signal.is_none() && !resolved.trials.is_empty() {
                exported = results::export(resolved, &board, store, &id)?;
            }
            break ending;
        }
        failpoint("run.finished");
        signals.end_at_once();
        rounds += 1;
        match results::export(resolved, &board, store, &id) {
            Ok(all) => {
                exported = all;
                break ending;
            }
            // A result is damaged, and in quarantine now: what made it is no hit any more.
            Err(RunError::Store(error)) if rounds < ROUNDS && is_damage(&error) => {
                warn_of_results(format!("{error}; it is made again"), &mut record, watch)?;
            }
            Err(error) => return Err(error),
        }
    };
    let Exported { results, notices } = exported;
    notices.into_iter().try_for_each(|notice| warn_of_results(notice, &mut record, watch))?;
    let Ending { signal, failures, complete } = ending;
    let outcome = match signal {
        _ if complete && failures.is_empty() => RunOutcome::Succeeded,
        Some(signal) => RunOutcome::Interrupted { signal },
        None => RunOutcome::Failed,
    };
    let closed = RunEvent::Closed { outcome, results: results.clone() };
    watch.event(&closed);
    record.append(&closed)?;
    record.sync()?;
    Ok(Report { id, outcome, failures, results })
}
