//! Runs an experiment: plans it, records it, and schedules its stages ([`run`], [`resume`]).
//!
//! Failpoints ([`olmo_base::failpoint()`]):
//! - `run.started`: the record exists, and nothing runs yet.
//! - `run.stage_started`: a stage's process was started.
//! - `run.item_committed`: a list item is in the store and recorded.
//! - `run.stage_committed`: a stage's outputs and action are in the store.
//! - `run.finished`: all stages are done, but the results are not exported yet.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use olmo_base::{ActionKey, failpoint};
use olmo_stage::MessageLevel;
use olmo_stage::compute::Device;
use olmo_stage::rules::Level;

use crate::exec::attempt::{Work, kill_leftovers};
use crate::exec::backend::{stage_compute, worker_path};
use crate::exec::{ExecError, Worker};
use crate::run::api::{Options, Report, Sourcing, StageFinding, Watch};
use crate::run::cache::{Cache, Outputs};
use crate::run::error::RunError;
use crate::run::event::{Place, RunEvent, RunOutcome};
use crate::run::plan::board::{self, Board};
use crate::run::plan::{self, Found, Missing, Selected};
use crate::run::record::{RunRecord, find};
use crate::run::results::{self, Exported};
use crate::run::schedule::{Ending, ForcedStages, Scheduler, signals};
use crate::run::sources::{Sources, remote};
use crate::spec::Resolved;
use crate::store::Store;

/// Runs the experiment `resolved`. Stages with a cached result do not run again.
pub fn run(store: &Store, resolved: &Resolved, options: &Options, watch: &mut dyn Watch) -> Result<Report, RunError> {
    for name in options.fresh.iter().chain(&options.force) {
        board::stages_named(resolved, name)?;
    }
    let selected = options.selection.choose(resolved)?;
    check_resources(resolved, &selected.names, options)?;
    results::check(resolved, &selected.names, store)?;
    let lock = options.sourcing.read()?;
    // From here on, the store holds objects that no record refers to yet.
    let beginning = store.begin_run()?;
    let mut sources = Sources::read(resolved, &selected.names, store, &lock.sources)?;
    let wanted = remote::uses(resolved, &selected.names);
    let unknown = wanted.iter().filter(|(source, _)| !sources.remote().contains_key(*source));
    let unknown = unknown.map(|(source, uses)| (source.clone(), uses.clone())).collect();
    remote::fetch_missing(store, &unknown, sources.remote_mut(), &options.sourcing, watch)?;
    let forced = ForcedStages {
        all: options.no_cache_read,
        stages: options.force.iter().flat_map(|name| resolved.named(name)).map(str::to_owned).collect(),
        except: selected.only_read.clone(),
    };
    let Found { hits, missing } = check_plan(store, resolved, &selected, &sources, &forced, options)?;
    fetch_for_missing(store, resolved, &selected, &missing, &forced, &mut sources, options, watch)?;
    let mut warnings = plan::findings_of(resolved, &missing, Some(store), options)?;
    warnings.retain(|found| found.finding.level != Level::Note);
    if warnings.iter().any(|found| found.finding.level == Level::Error) {
        return Err(RunError::Refused(warnings));
    }
    let record = RunRecord::create(store, resolved, &options.selection, &sources, beginning)?;
    let prepared =
        PreparedRun { resolved, names: &selected.names, sources: &sources, forced, warnings, resumed: false };
    execute(store, &prepared, hits, record, options, watch)
}

/// Resumes the run whose ID starts with `text` from its record, without reading the experiment's
/// file. Fails if a source has changed since.
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
    fetch_for_missing(store, resolved, &selected, &missing, &forced, &mut sources, options, watch)?;
    let (names, warnings) = (&selected.names, Vec::new());
    let prepared = PreparedRun { resolved, names, sources: &sources, forced, warnings, resumed: true };
    execute(store, &prepared, hits, record, options, watch)
}

/// Fetches the remote sources of the stages that will run. A cache hit needs none of its sources.
#[expect(clippy::too_many_arguments, reason = "the experiment, the selection and the options are separate")]
fn fetch_for_missing(
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
    remote::fetch_missing(store, &remote::uses(resolved, names), sources.remote_mut(), &options.sourcing, watch)
}

/// Resolves all remote sources of `resolved` to exact versions, fetches them into the store and
/// writes the lock. With `update`, sources that are already locked are resolved again. Returns the
/// sources that were added to the lock or changed in it.
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
    remote::fetch_missing(store, &wanted, &mut known, sourcing, watch)?;
    Ok(fresh)
}

/// Checks that the executor has the resources that every stage requests.
fn check_resources(resolved: &Resolved, names: &[String], options: &Options) -> Result<(), RunError> {
    let stages = names.iter().filter_map(|name| Some((name.as_str(), resolved.stages.get(name)?.resources)));
    Ok(options.executor.check(&stages.collect::<Vec<_>>())?)
}

/// Checks, before anything runs, that the worker has the stages that may run, in the versions that
/// the experiment was resolved with, and that stages which are only read have results. Returns the
/// cached results, so that they need not be looked up again.
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
            return Err(ExecError::NoGpuRequested { stage: name.clone() }.into());
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
            return Err(ExecError::BackendNotBuilt { path: worker.path().to_owned(), compute }.into());
        }
        worker.check(&stage.uses, &stage.description)?;
    }
    Ok(found)
}

/// Reports and records a warning about the results.
fn warn_of_results(text: String, record: &mut RunRecord, watch: &mut dyn Watch) -> Result<(), RunError> {
    let place = Place { stage: "results".into(), item: None };
    let event = RunEvent::Message { place, level: MessageLevel::Warning, text };
    watch.event(&event);
    record.append(&event)
}

/// How often a run schedules its stages because a result turned out to be damaged in the store.
const MAX_ROUNDS: u32 = 3;

/// A run that has been planned and checked, ready to be executed.
struct PreparedRun<'r> {
    resolved: &'r Resolved,
    names: &'r [String],
    sources: &'r Sources,
    forced: ForcedStages,
    /// Findings that do not stop the run.
    warnings: Vec<StageFinding>,
    resumed: bool,
}

/// Opens the run's record, schedules its stages, and exports its results.
fn execute(
    store: &Store,
    prepared: &PreparedRun<'_>,
    mut hits: HashMap<ActionKey, Outputs>,
    mut record: RunRecord,
    options: &Options,
    watch: &mut dyn Watch,
) -> Result<Report, RunError> {
    let PreparedRun { resolved, names, sources, .. } = *prepared;
    let id = record.id.clone();
    // If an engine was killed together with its supervisors, its stages may still run and occupy
    // resources that this run needs.
    if let Ok(keys) = store.work_keys() {
        let works: Vec<Work> = keys.into_iter().map(|key| Work::at(store.work(key))).collect();
        kill_leftovers(&works);
    }
    let opened = RunEvent::Opened {
        experiment: resolved.experiment.clone(),
        pid: std::process::id(),
        resumed: prepared.resumed,
        stages: names.to_vec(),
    };
    record.append(&opened)?;
    record.sync()?;
    watch.run_started(&id);
    watch.event(&opened);
    for StageFinding { stage, finding } in &prepared.warnings {
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
        // The hits and the forced stages hold only in the first round. A later round runs because a
        // result was found damaged, and runs only what made that result.
        let hits = std::mem::take(&mut hits);
        let forced = if rounds == 0 { prepared.forced.clone() } else { ForcedStages::default() };
        let cache = Cache::new(store).with_verified(hits);
        let scheduler = Scheduler::new(&mut board, resolved, cache, &mut record, options, forced, watch);
        let signals = signals::Watcher::start(scheduler.sender())?;
        let ending = scheduler.run()?;
        if !ending.complete {
            // The trials of a sweep are independent, so finished ones are exported anyway.
            if ending.signal.is_none() && !resolved.trials.is_empty() {
                exported = results::export(resolved, &board, store, &id)?;
            }
            break ending;
        }
        failpoint("run.finished");
        signals.exit_on_signal();
        rounds += 1;
        match results::export(resolved, &board, store, &id) {
            Ok(all) => {
                exported = all;
                break ending;
            }
            // A result was damaged and is now in quarantine, so its stage is no longer a cache hit.
            Err(RunError::Store(error)) if rounds < MAX_ROUNDS && error.is_damage() => {
                warn_of_results(format!("{error}; its stage runs again"), &mut record, watch)?;
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
