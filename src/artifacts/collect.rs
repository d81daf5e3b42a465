//! [`Collection`]: garbage collection of a store.
//!
//! A finished stage is a cache entry: it stays until it exceeds a budget of bytes or of age, and
//! the least recently used one is removed first. Whatever a root keeps is never removed, regardless
//! of the budget.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use olmo_base::{ActionKey, ArtifactId, ObjectId};
use olmo_stage::PortType;
use serde::Serialize;

use crate::artifacts::made::RunOutputs;
use crate::artifacts::usage::bytes_below;
use crate::exec::attempt::Work;
use crate::exec::item_list::Items;
use crate::run::{self, Horizon, RunError, RunId, RunStatus, dated_in_the_future};
use crate::store::{Action, Manifest, Output, Store, StoreError, SweepPlan, Swept};

/// Age at which quarantined files and remembered digests of sources are removed.
const MAX_REMAINS_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Decides what is kept and what is removed.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Removes the least recently used finished stages until the objects take at most this many
    /// bytes.
    pub max_bytes: Option<u64>,
    /// Removes finished stages that were not used for this long, and unfinished work that no run in
    /// the store would continue.
    pub max_age: Option<Duration>,
    /// How many checkpoints at the end of each list are kept, for all runs in the store.
    pub keep_checkpoints: usize,
    /// For how many of the newest successful runs of each experiment the named results are kept.
    pub keep_results: usize,
    /// Keeps everything that was made or used within this time.
    pub grace: Duration,
    /// Minimum for `grace` while an engine works on a run. It protects artifacts that the engine
    /// has looked up but not recorded yet.
    pub engine_grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_bytes: None,
            max_age: None,
            keep_checkpoints: 1,
            keep_results: 1,
            grace: Duration::from_secs(3600),
            engine_grace: Duration::from_secs(20 * 60),
        }
    }
}

/// The reason why an artifact is kept. A byte is counted for the first of its reasons, in this
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// A running run made or uses it.
    Running,
    /// A run that stopped before its end would continue with it.
    Unfinished,
    Tagged,
    Pinned,
    /// One of the last checkpoints of a run.
    Checkpoint,
    /// A named result of a new run.
    Result,
    /// A run whose record cannot be read might refer to it.
    Unread,
    /// It was made or used recently.
    Recent,
    /// It belongs to a finished stage within the budget.
    Cache,
}

impl Root {
    /// The reason as shown to the user.
    pub fn words(self) -> &'static str {
        match self {
            Root::Running => "running runs",
            Root::Unfinished => "resumable runs",
            Root::Tagged => "tags",
            Root::Pinned => "pins",
            Root::Checkpoint => "last checkpoints",
            Root::Result => "newest results",
            Root::Unread => "unreadable records",
            Root::Recent => "recently used",
            Root::Cache => "cache within budget",
        }
    }
}

/// Bytes and artifacts that are kept for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    pub artifacts: usize,
    /// Bytes of the objects that are not kept for an earlier reason.
    pub bytes: u64,
}

/// A planned collection.
#[derive(Clone, Debug)]
pub struct Collection {
    /// What is kept, by reason.
    pub kept: BTreeMap<Root, Share>,
    /// Finished stages to remove: key, stage, and time of last use in nanoseconds since 1970.
    pub actions: Vec<(ActionKey, String, i64)>,
    /// Number of artifacts to remove.
    pub artifacts: usize,
    /// Number of objects to remove, and their bytes.
    pub objects: (usize, u64),
    /// Folders of unfinished work to remove, with their bytes.
    pub work: Vec<(PathBuf, u64)>,
    /// Bytes of old quarantined files and similar remains to remove.
    pub remains: u64,
    /// Bytes by which the roots alone exceed the budget, if they do.
    pub over_budget: Option<u64>,
    /// Notes for the user: unreadable records, runs dated in the future.
    pub notes: Vec<String>,
    plan: SweepPlan,
    remains_cutoff: i64,
}

/// A finished stage that may be removed.
struct Candidate {
    key: ActionKey,
    stage: String,
    used: i64,
    artifacts: Vec<ArtifactId>,
    inputs: Vec<ArtifactId>,
}

/// Everything about a store that the decision depends on.
struct Survey<'s> {
    store: &'s Store,
    manifests: BTreeMap<ArtifactId, Manifest>,
    /// The reasons to keep each artifact.
    rooted: BTreeMap<ArtifactId, BTreeSet<Root>>,
    /// Keys to keep.
    keys: BTreeSet<ActionKey>,
    running: bool,
    notes: Vec<String>,
}

impl Survey<'_> {
    fn keep(&mut self, root: Root, artifacts: impl IntoIterator<Item = ArtifactId>) {
        for artifact in artifacts {
            self.rooted.entry(artifact).or_default().insert(root);
        }
    }

    /// Adds a note that `what` is kept because the record of run `id` cannot be read.
    fn note_unreadable(&mut self, id: &RunId, what: &str, error: &RunError) {
        self.notes.push(format!("{error}; therefore {what} is kept until `olmo-pipe runs rm {id}` removes the record"));
    }

    /// The objects of an artifact with their sizes. Empty for a local source.
    fn objects(&self, artifact: ArtifactId) -> impl Iterator<Item = (ObjectId, u64)> + '_ {
        let files = self.manifests.get(&artifact).into_iter().flat_map(|m| m.files.values());
        files.filter(|e| e.source.is_none()).map(|e| (e.object(), e.size))
    }
}

impl Collection {
    /// Plans a collection without changing anything.
    pub fn plan(store: &Store, policy: &Policy) -> Result<Self, RunError> {
        let now = nanoseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let mut candidates = candidates(store)?;
        let mut survey = survey_store(store, policy, &candidates)?;
        let grace = if survey.running { policy.grace.max(policy.engine_grace) } else { policy.grace };
        let cutoff = now.saturating_sub(nanoseconds(grace));
        let recent = |used: i64| used >= cutoff;
        for candidate in candidates.iter().filter(|c| recent(c.used)) {
            survey.keys.insert(candidate.key);
            survey.keep(Root::Recent, candidate.artifacts.iter().copied());
        }
        let fresh: Vec<ArtifactId> =
            survey.manifests.keys().copied().filter(|a| store.artifact_used(*a).is_none_or(recent)).collect();
        survey.keep(Root::Recent, fresh);
        // A stage whose artifacts are all kept by roots costs nothing as a cache entry.
        let free = |survey: &Survey, c: &Candidate| c.artifacts.iter().all(|a| survey.rooted.contains_key(a));
        candidates.sort_by_key(|c| (c.used, c.key));
        let (mut stay, mut go): (Vec<&Candidate>, Vec<&Candidate>) = candidates.iter().partition(|c| {
            let too_old = policy.max_age.is_some_and(|age| c.used < now.saturating_sub(nanoseconds(age)));
            survey.keys.contains(&c.key) || free(&survey, c) || !too_old
        });
        let mut over_budget = None;
        if let Some(budget) = policy.max_bytes {
            over_budget =
                shrink(&survey, budget, &mut stay, &mut go, &|c| survey.keys.contains(&c.key) || free(&survey, c));
        }
        for candidate in &stay {
            survey.keep(Root::Cache, candidate.artifacts.iter().copied());
        }
        let mut kept: BTreeMap<Root, Share> = BTreeMap::new();
        let mut live_objects: BTreeSet<ObjectId> = BTreeSet::new();
        let mut by_root: BTreeMap<Root, Vec<ArtifactId>> = BTreeMap::new();
        for (artifact, roots) in &survey.rooted {
            if let Some(first) = roots.first().filter(|_| survey.manifests.contains_key(artifact)) {
                by_root.entry(*first).or_default().push(*artifact);
            }
        }
        for (root, artifacts) in &by_root {
            let share = kept.entry(*root).or_default();
            share.artifacts = artifacts.len();
            for artifact in artifacts {
                let new = survey.objects(*artifact).filter(|(object, _)| live_objects.insert(*object));
                share.bytes += new.map(|(_, size)| size).sum::<u64>();
            }
        }
        // Keep the inputs of kept stages if all their objects are kept anyway: they document where
        // a result came from, and cost nothing.
        let inputs: BTreeSet<ArtifactId> = stay.iter().flat_map(|c| c.inputs.iter().copied()).collect();
        let costs_nothing = |a: &ArtifactId| survey.objects(*a).all(|(object, _)| live_objects.contains(&object));
        let mut live: BTreeSet<ArtifactId> = survey.rooted.keys().copied().collect();
        live.extend(inputs.into_iter().filter(costs_nothing));
        let artifacts = survey.manifests.keys().filter(|a| !live.contains(a)).count();
        let gone = store.objects()?.into_iter().filter(|(object, _)| {
            !live_objects.contains(object) && store.object_used(*object).is_some_and(|at| at < cutoff)
        });
        let objects = gone.fold((0, 0), |(n, bytes), (_, size)| (n + 1, bytes + size));
        let remains_cutoff =
            now.saturating_sub(nanoseconds(policy.max_age.map_or(MAX_REMAINS_AGE, |age| age.min(MAX_REMAINS_AGE))));
        let plan = SweepPlan {
            seen: candidates.iter().map(|c| c.key).collect(),
            actions: go.iter().map(|c| c.key).collect(),
            artifacts: live,
            cutoff,
        };
        let work = old_work(store, &survey, policy, now, cutoff)?;
        go.sort_by_key(|c| (c.used, c.key));
        Ok(Self {
            kept,
            actions: go.iter().map(|c| (c.key, c.stage.clone(), c.used)).collect(),
            artifacts,
            objects,
            work,
            remains: store.sweep_remains(remains_cutoff, false)?,
            over_budget,
            notes: survey.notes,
            plan,
            remains_cutoff,
        })
    }

    /// Executes the plan. Anything used since [`Collection::plan`] is kept.
    pub fn execute(&self, store: &Store) -> Result<Swept, RunError> {
        let swept = store.sweep(&self.plan)?;
        for (folder, _) in &self.work {
            let key = folder.file_name().and_then(|n| n.to_str()).and_then(|n| ActionKey::from_hex(n).ok());
            let Some(key) = key else { continue };
            // A process has resumed this work.
            let Some(_lock) = store.lock_key(key)? else { continue };
            Work::at(folder.clone()).discard()?;
        }
        store.sweep_remains(self.remains_cutoff, true)?;
        Ok(swept)
    }
}

fn nanoseconds(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// A run with its outputs, or the reason why its events cannot be read.
type Recorded = (RunId, Result<RunOutputs, RunError>);

/// Reads the outputs of the runs in the store, oldest first. Runs dated in the future come before
/// all others.
fn runs(store: &Store) -> Result<Vec<Recorded>, RunError> {
    let mut ids = run::all(store)?;
    let horizon = Horizon::now();
    ids.sort_by_key(|id| (!horizon.is_beyond(id), id.clone()));
    let read = |id: &RunId| {
        let made = RunOutputs::read(store, id)?;
        match &made.state.damage {
            Some(why) => Err(RunError::RunDamaged { id: id.to_string(), why: why.clone() }),
            None => Ok(made),
        }
    };
    Ok(ids.into_iter().map(|id| (id.clone(), read(&id))).collect())
}

/// Reads the store, and finds what the roots keep. `candidates` are its finished stages.
fn survey_store<'s>(store: &'s Store, policy: &Policy, candidates: &[Candidate]) -> Result<Survey<'s>, RunError> {
    let mut survey = Survey {
        store,
        manifests: BTreeMap::new(),
        rooted: BTreeMap::new(),
        keys: BTreeSet::new(),
        running: false,
        notes: Vec::new(),
    };
    // Checked before the runs are read: a run that starts later makes only recent artifacts.
    survey.running = store.is_run_beginning();
    // Runs are read first: anything that a run records later is recent.
    let runs = runs(store)?;
    for id in dated_in_the_future(store)? {
        survey.notes.push(format!(
            "run {id} is dated in the future and does not count as the newest; `olmo-pipe runs rm {id}` removes its record"
        ));
    }
    for info in store.artifacts()?.flatten() {
        if let Ok(manifest) = store.manifest(info.digest) {
            survey.manifests.insert(info.digest, manifest);
        }
    }
    let tags: Vec<ArtifactId> = store.tags()?.into_iter().map(|tag| tag.artifact).collect();
    survey.keep(Root::Tagged, tags);
    survey.keep(Root::Pinned, store.pins()?);
    let mut results: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, made) in runs.iter().rev() {
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                // The run may have made or may continue with anything.
                let all: Vec<ArtifactId> = survey.manifests.keys().copied().collect();
                survey.keep(Root::Unread, all);
                survey.keys.extend(candidates.iter().map(|candidate| candidate.key));
                survey.note_unreadable(id, "everything", error);
                continue;
            }
        };
        let resumable = made.state.status != RunStatus::Succeeded;
        if resumable {
            let root = if made.state.status == RunStatus::Running { Root::Running } else { Root::Unfinished };
            survey.running |= root == Root::Running;
            survey.keep(root, made.artifacts());
            survey.keys.extend(made.tasks.iter().filter_map(|task| task.key));
        }
        if made.state.experiment.is_empty() {
            // The run has not recorded anything yet, or its engine was killed before it did.
            continue;
        }
        let recorded = run::read_recorded_as_written(&run::folder(store, id), id);
        match (resumable, &recorded) {
            (true, Ok(recorded)) => {
                let root = if made.state.status == RunStatus::Running { Root::Running } else { Root::Unfinished };
                survey.keep(root, recorded.sources.artifacts());
                survey.keep(root, recorded.sources.remote_artifacts(&recorded.resolved));
            }
            (true, Err(error)) => {
                let by_stages: BTreeSet<ArtifactId> =
                    candidates.iter().flat_map(|c| c.artifacts.iter().copied()).collect();
                let sources: Vec<ArtifactId> =
                    survey.manifests.keys().copied().filter(|artifact| !by_stages.contains(artifact)).collect();
                survey.keep(Root::Unread, sources);
                survey.note_unreadable(id, "every artifact that no stage made", error);
            }
            (false, _) => {}
        }
        for output in made.tasks.iter().flat_map(|task| task.ports().into_iter().filter_map(|p| task.port(p))) {
            let Output::List(items) = output else { continue };
            let is_checkpoint =
                |a: &ArtifactId| survey.manifests.get(a).is_some_and(|m| m.artifact_type == PortType::Checkpoint);
            let last: Vec<ArtifactId> =
                items.iter().rev().map(|i| i.digest).filter(is_checkpoint).take(policy.keep_checkpoints).collect();
            survey.keep(Root::Checkpoint, last);
        }
        if made.state.status != RunStatus::Succeeded {
            continue;
        }
        let count = results.entry(made.state.experiment.as_str()).or_insert(0);
        *count += 1;
        if *count > policy.keep_results {
            continue;
        }
        match &recorded {
            Ok(recorded) => {
                for port in recorded.resolved.outputs.values() {
                    let tasks = made.tasks.iter().filter(|task| task.place.stage == port.stage);
                    let outputs = tasks.filter_map(|p| p.port(&port.port));
                    let outputs: Vec<ArtifactId> = outputs.flat_map(|o| o.artifacts().collect::<Vec<_>>()).collect();
                    survey.keep(Root::Result, outputs);
                }
            }
            Err(error) => {
                survey.keep(Root::Unread, made.artifacts());
                survey.note_unreadable(id, "everything that it made or used", error);
            }
        }
    }
    // Items of unfinished work, even if no run record refers to it anymore.
    for key in store.work_keys()? {
        let mut items = Items::default();
        let recorded = Work::at(store.work(key)).item_records().map(|contents| contents.records);
        for record in recorded.unwrap_or_default() {
            items.apply(&record);
        }
        let artifacts: Vec<ArtifactId> =
            items.iter().flat_map(|(_, list)| list.iter().map(|(_, digest)| *digest)).collect();
        survey.keep(Root::Unfinished, artifacts);
    }
    Ok(survey)
}

fn candidates(store: &Store) -> Result<Vec<Candidate>, StoreError> {
    let mut candidates = Vec::new();
    for key in store.action_keys()? {
        let (Some(used), Some(action)) = (store.action_used(key), store.recorded_action(key)) else { continue };
        let Action { key: record, outputs, .. } = action;
        candidates.push(Candidate {
            key,
            stage: record.stage,
            used,
            artifacts: outputs.values().flat_map(Output::artifacts).collect(),
            inputs: record.inputs.values().flatten().map(|input| input.digest).collect(),
        });
    }
    Ok(candidates)
}

/// Moves candidates from `stay` to `go`, least recently used first, until the objects that stay fit
/// into `budget`. If they never fit, returns by how many bytes they exceed it.
fn shrink<'c>(
    survey: &Survey,
    budget: u64,
    stay: &mut Vec<&'c Candidate>,
    go: &mut Vec<&'c Candidate>,
    keeps: &dyn Fn(&Candidate) -> bool,
) -> Option<u64> {
    // How many artifacts hold each object.
    let mut holders: BTreeMap<ObjectId, usize> = BTreeMap::new();
    let mut total = 0u64;
    let held = survey.rooted.keys().copied().chain(stay.iter().flat_map(|c| c.artifacts.iter().copied()));
    for (object, size) in held.flat_map(|a| survey.objects(a)) {
        let count = holders.entry(object).or_insert(0);
        *count += 1;
        total += if *count == 1 { size } else { 0 };
    }
    let mut left = Vec::new();
    for candidate in stay.drain(..) {
        if total <= budget || keeps(candidate) {
            left.push(candidate);
            continue;
        }
        for (object, size) in candidate.artifacts.iter().flat_map(|a| survey.objects(*a)) {
            let Some(count) = holders.get_mut(&object) else { continue };
            *count -= 1;
            total -= if *count == 0 { size } else { 0 };
        }
        go.push(candidate);
    }
    *stay = left;
    (total > budget).then(|| total - budget)
}

/// Finds useless unfinished work: its stage has finished, or no run would continue it and it was
/// not changed for `max_age`.
fn old_work(
    store: &Store,
    survey: &Survey,
    policy: &Policy,
    now: i64,
    cutoff: i64,
) -> Result<Vec<(PathBuf, u64)>, StoreError> {
    let mut old = Vec::new();
    for key in survey.store.work_keys()? {
        let folder = store.work(key);
        let used = newest_below(&folder);
        if used >= cutoff || store.lock_holder(key).is_some() && store.lock_key(key)?.is_none() {
            continue;
        }
        // Not looked up as a cache hit, which would mark the action as recently used.
        let finished = store
            .recorded_action(key)
            .is_some_and(|a| a.outputs.values().flat_map(Output::artifacts).all(|artifact| store.is_whole(artifact)));
        let too_old = policy.max_age.is_some_and(|age| used < now.saturating_sub(nanoseconds(age)));
        if finished || (too_old && !survey.keys.contains(&key)) {
            old.push((folder.clone(), bytes_below(&folder)));
        }
    }
    Ok(old)
}

/// Time of the last change in `folder`, in nanoseconds since 1970.
fn newest_below(folder: &std::path::Path) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    let (mut newest, mut open) = (0i64, vec![folder.to_owned()]);
    while let Some(place) = open.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&place) else { continue };
        let changed = metadata.mtime().max(metadata.ctime());
        newest = newest.max(changed.saturating_mul(1_000_000_000));
        if metadata.is_dir() {
            open.extend(std::fs::read_dir(&place).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    newest
}
