//! [`Collection`]: what may leave a store, and what keeps the rest.
//!
//! A finished stage is a line of a cache: it stays until a budget of bytes or of age says that
//! it is to go, the one longest not used first. What roots keep never goes, whatever the budget.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use olmo_base::Digest;
use olmo_stage::PortType;
use serde::Serialize;

use crate::artifacts::made::RunMade;
use crate::artifacts::reference::{Horizon, dated_in_the_future};
use crate::artifacts::usage::bytes_below;
use crate::exec::attempt::Work;
use crate::exec::item_list::Items;
use crate::run::{self, RunError, RunId, RunStatus};
use crate::store::{Action, Manifest, Output, Store, StoreError, SweepPlan, Swept};

/// Quarantined files and remembered digests of sources go when they are this old.
const REMAINS: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is to stay and what is to go.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Finished stages go, the longest unused first, until the objects take at most this.
    pub max_bytes: Option<u64>,
    /// Finished stages go that were not used for this long; so does unfinished work that no run
    /// in the store would go on with.
    pub max_age: Option<Duration>,
    /// Of each list of checkpoints that a run in the store has made, so many last ones stay.
    pub keep_checkpoints: usize,
    /// Of each experiment, the named results of so many newest successful runs stay.
    pub keep_results: usize,
    /// What was made or used in this time stays.
    pub grace: Duration,
    /// While an engine works on a run, at least this holds for `grace`: what it looked at and has
    /// not noted yet.
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

/// Why something stays. The order is that of the account: a byte counts for its first reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// A run that goes on made or uses it.
    Running,
    /// A run that stopped before its end would go on with it.
    Unfinished,
    Tagged,
    Pinned,
    /// One of the last checkpoints of a run.
    Checkpoint,
    /// A named result of a new run.
    Result,
    /// A run whose record cannot be read might name it.
    Unread,
    /// Made or used a short time ago.
    Recent,
    /// A finished stage within the budget.
    Cache,
}

impl Root {
    /// As a person reads it.
    pub fn words(self) -> &'static str {
        match self {
            Root::Running => "runs that go on",
            Root::Unfinished => "runs that can be resumed",
            Root::Tagged => "tags",
            Root::Pinned => "pins",
            Root::Checkpoint => "last checkpoints",
            Root::Result => "newest results",
            Root::Unread => "records that are unreadable",
            Root::Recent => "used lately",
            Root::Cache => "cache within budget",
        }
    }
}

/// Bytes and artifacts that stay for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    pub artifacts: usize,
    /// Of the objects that stay for no earlier reason.
    pub bytes: u64,
}

/// What a collection found.
#[derive(Clone, Debug)]
pub struct Collection {
    /// What stays, by reason.
    pub kept: BTreeMap<Root, Share>,
    /// Finished stages that go: key, stage, and when each was last used (nanoseconds since 1970).
    pub actions: Vec<(Digest, String, i64)>,
    /// How many artifacts go.
    pub artifacts: usize,
    /// The objects that go, and their bytes.
    pub objects: (usize, u64),
    /// Folders of unfinished work that go, with their bytes.
    pub work: Vec<(PathBuf, u64)>,
    /// Bytes of old quarantined files and the like that go.
    pub remains: u64,
    /// The roots alone take more than the budget: so much.
    pub over_budget: Option<u64>,
    /// Notes for the user: unreadable records, runs dated in the future.
    pub notes: Vec<String>,
    plan: SweepPlan,
    remains_cutoff: i64,
}

/// A finished stage on the scales.
struct Candidate {
    key: Digest,
    stage: String,
    used: i64,
    artifacts: Vec<Digest>,
    inputs: Vec<Digest>,
}

/// Everything that the decision needs to know about a store.
struct Look<'s> {
    store: &'s Store,
    manifests: BTreeMap<Digest, Manifest>,
    /// Artifact -> the reasons why it stays.
    rooted: BTreeMap<Digest, BTreeSet<Root>>,
    /// Keys that stay.
    keys: BTreeSet<Digest>,
    running: bool,
    notes: Vec<String>,
}

impl Look<'_> {
    fn root(&mut self, root: Root, artifacts: impl IntoIterator<Item = Digest>) {
        for artifact in artifacts {
            self.rooted.entry(artifact).or_default().insert(root);
        }
    }

    /// Adds a note: the record of run `id` cannot be read, so `what` is kept.
    fn unread(&mut self, id: &RunId, what: &str, error: &RunError) {
        self.notes.push(format!("{error}: {what} stays for it; `olmo-pipe runs rm {id}` removes the record"));
    }

    /// Objects of an artifact with their sizes; none for a local source.
    fn objects(&self, artifact: Digest) -> impl Iterator<Item = (Digest, u64)> + '_ {
        let files = self.manifests.get(&artifact).into_iter().flat_map(|m| m.files.values());
        files.filter(|e| e.source.is_none()).map(|e| (e.digest, e.size))
    }
}

impl Collection {
    /// Decides, and changes nothing.
    pub fn plan(store: &Store, policy: &Policy) -> Result<Self, RunError> {
        let now = nanoseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let mut candidates = candidates(store)?;
        let mut look = look(store, policy, &candidates)?;
        let grace = if look.running { policy.grace.max(policy.engine_grace) } else { policy.grace };
        let cutoff = now.saturating_sub(nanoseconds(grace));
        let recent = |used: i64| used >= cutoff;
        for candidate in candidates.iter().filter(|c| recent(c.used)) {
            look.keys.insert(candidate.key);
            look.root(Root::Recent, candidate.artifacts.iter().copied());
        }
        let fresh: Vec<Digest> =
            look.manifests.keys().copied().filter(|a| store.artifact_used(*a).is_none_or(recent)).collect();
        look.root(Root::Recent, fresh);
        // What is rooted anyway costs nothing as a line of the cache.
        let free = |look: &Look, c: &Candidate| c.artifacts.iter().all(|a| look.rooted.contains_key(a));
        candidates.sort_by_key(|c| (c.used, c.key));
        let (mut stay, mut go): (Vec<&Candidate>, Vec<&Candidate>) = candidates.iter().partition(|c| {
            let too_old = policy.max_age.is_some_and(|age| c.used < now.saturating_sub(nanoseconds(age)));
            look.keys.contains(&c.key) || free(&look, c) || !too_old
        });
        let mut over_budget = None;
        if let Some(budget) = policy.max_bytes {
            over_budget = shrink(&look, budget, &mut stay, &mut go, &|c| look.keys.contains(&c.key) || free(&look, c));
        }
        for candidate in &stay {
            look.root(Root::Cache, candidate.artifacts.iter().copied());
        }
        let mut kept: BTreeMap<Root, Share> = BTreeMap::new();
        let mut live_objects: BTreeSet<Digest> = BTreeSet::new();
        let mut by_root: BTreeMap<Root, Vec<Digest>> = BTreeMap::new();
        for (artifact, roots) in &look.rooted {
            if let Some(first) = roots.first().filter(|_| look.manifests.contains_key(artifact)) {
                by_root.entry(*first).or_default().push(*artifact);
            }
        }
        for (root, artifacts) in &by_root {
            let share = kept.entry(*root).or_default();
            share.artifacts = artifacts.len();
            for artifact in artifacts {
                let new = look.objects(*artifact).filter(|(object, _)| live_objects.insert(*object));
                share.bytes += new.map(|(_, size)| size).sum::<u64>();
            }
        }
        // An input of a stage that stays, which holds nothing of its own: it says where the
        // stage's result came from, and costs nothing.
        let inputs: BTreeSet<Digest> = stay.iter().flat_map(|c| c.inputs.iter().copied()).collect();
        let costs_nothing = |a: &Digest| look.objects(*a).all(|(object, _)| live_objects.contains(&object));
        let mut live: BTreeSet<Digest> = look.rooted.keys().copied().collect();
        live.extend(inputs.into_iter().filter(costs_nothing));
        let artifacts = look.manifests.keys().filter(|a| !live.contains(a)).count();
        let gone = store.objects()?.into_iter().filter(|(object, _)| {
            !live_objects.contains(object) && store.object_used(*object).is_some_and(|at| at < cutoff)
        });
        let objects = gone.fold((0, 0), |(n, bytes), (_, size)| (n + 1, bytes + size));
        let remains_cutoff = now.saturating_sub(nanoseconds(policy.max_age.map_or(REMAINS, |age| age.min(REMAINS))));
        let plan = SweepPlan {
            seen: candidates.iter().map(|c| c.key).collect(),
            actions: go.iter().map(|c| c.key).collect(),
            artifacts: live,
            cutoff,
        };
        let work = old_work(store, &look, policy, now, cutoff)?;
        go.sort_by_key(|c| (c.used, c.key));
        Ok(Self {
            kept,
            actions: go.iter().map(|c| (c.key, c.stage.clone(), c.used)).collect(),
            artifacts,
            objects,
            work,
            remains: store.sweep_remains(remains_cutoff, false)?,
            over_budget,
            notes: look.notes,
            plan,
            remains_cutoff,
        })
    }

    /// Does it. What was used since [`Collection::plan`] stays.
    pub fn carry_out(&self, store: &Store) -> Result<Swept, RunError> {
        let swept = store.sweep(&self.plan)?;
        for (folder, _) in &self.work {
            let key = folder.file_name().and_then(|n| n.to_str()).and_then(|n| Digest::from_hex(n).ok());
            let Some(key) = key else { continue };
            // Somebody works on it again: it is of use.
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

/// A run and what it made, or why its events cannot be read.
type Recorded = (RunId, Result<RunMade, RunError>);

/// Reads what the runs in the store made, the oldest first. Runs dated in the future come before
/// all others.
fn runs(store: &Store) -> Result<Vec<Recorded>, RunError> {
    let mut ids = run::all(store)?;
    let horizon = Horizon::now();
    ids.sort_by_key(|id| (!horizon.is_beyond(id), id.clone()));
    let read = |id: &RunId| {
        let made = RunMade::of(store, id)?;
        match &made.state.damage {
            Some(why) => Err(RunError::RunDamaged { id: id.to_string(), why: why.clone() }),
            None => Ok(made),
        }
    };
    Ok(ids.into_iter().map(|id| (id.clone(), read(&id))).collect())
}

/// Reads the store, and finds what roots keep. `candidates` are its finished stages.
fn look<'s>(store: &'s Store, policy: &Policy, candidates: &[Candidate]) -> Result<Look<'s>, RunError> {
    let mut look = Look {
        store,
        manifests: BTreeMap::new(),
        rooted: BTreeMap::new(),
        keys: BTreeSet::new(),
        running: false,
        notes: Vec::new(),
    };
    // Before the runs: one that begins after this look makes only what is young.
    look.running = store.is_run_beginning();
    // Runs first: what a run notes after this is young.
    let runs = runs(store)?;
    for id in dated_in_the_future(store)? {
        look.notes.push(format!(
            "run {id} is dated in the future and does not count as the newest; `olmo-pipe runs rm {id}` removes its record"
        ));
    }
    for info in store.artifacts()?.flatten() {
        if let Ok(manifest) = store.manifest(info.digest) {
            look.manifests.insert(info.digest, manifest);
        }
    }
    let tags: Vec<Digest> = store.tags()?.into_iter().map(|tag| tag.artifact).collect();
    look.root(Root::Tagged, tags);
    look.root(Root::Pinned, store.pins()?);
    let mut results: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, made) in runs.iter().rev() {
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                // It may have made, or go on with, anything.
                let all: Vec<Digest> = look.manifests.keys().copied().collect();
                look.root(Root::Unread, all);
                look.keys.extend(candidates.iter().map(|candidate| candidate.key));
                look.unread(id, "everything", error);
                continue;
            }
        };
        let resumable = made.state.status != RunStatus::Succeeded;
        if resumable {
            let root = if made.state.status == RunStatus::Running { Root::Running } else { Root::Unfinished };
            look.running |= root == Root::Running;
            look.root(root, made.artifacts());
            look.keys.extend(made.pieces.iter().filter_map(|piece| piece.key));
        }
        if made.state.experiment.is_empty() {
            // It has told nothing yet, or its engine was killed before it did.
            continue;
        }
        let recorded = run::read_recorded_as_written(&run::folder(store, id), id);
        match (resumable, &recorded) {
            (true, Ok(recorded)) => {
                let root = if made.state.status == RunStatus::Running { Root::Running } else { Root::Unfinished };
                look.root(root, recorded.sources.artifacts());
                look.root(root, recorded.sources.remote_artifacts(&recorded.resolved));
            }
            (true, Err(error)) => {
                let by_stages: BTreeSet<Digest> = candidates.iter().flat_map(|c| c.artifacts.iter().copied()).collect();
                let sources: Vec<Digest> =
                    look.manifests.keys().copied().filter(|artifact| !by_stages.contains(artifact)).collect();
                look.root(Root::Unread, sources);
                look.unread(id, "every artifact that no stage made", error);
            }
            (false, _) => {}
        }
        for output in made.pieces.iter().flat_map(|piece| piece.ports().into_iter().filter_map(|p| piece.port(p))) {
            let Output::List(items) = output else { continue };
            let is_checkpoint =
                |a: &Digest| look.manifests.get(a).is_some_and(|m| m.artifact_type == PortType::Checkpoint);
            let last: Vec<Digest> =
                items.iter().rev().map(|i| i.digest).filter(is_checkpoint).take(policy.keep_checkpoints).collect();
            look.root(Root::Checkpoint, last);
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
                    let pieces = made.pieces.iter().filter(|piece| piece.place.stage == port.stage);
                    let outputs = pieces.filter_map(|p| p.port(&port.port));
                    let outputs: Vec<Digest> = outputs.flat_map(|o| o.artifacts().collect::<Vec<_>>()).collect();
                    look.root(Root::Result, outputs);
                }
            }
            Err(error) => {
                look.root(Root::Unread, made.artifacts());
                look.unread(id, "all that it made or used", error);
            }
        }
    }
    // Items of unfinished work, even if no run record refers to it anymore.
    for key in store.work_keys()? {
        let mut items = Items::default();
        let noted = Work::at(store.work(key)).item_records().map(|contents| contents.records);
        for record in noted.unwrap_or_default() {
            items.apply(&record);
        }
        let artifacts: Vec<Digest> =
            items.iter().flat_map(|(_, list)| list.iter().map(|(_, digest)| *digest)).collect();
        look.root(Root::Unfinished, artifacts);
    }
    Ok(look)
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

/// Moves candidates, the longest unused first, from `stay` to `go` until the objects of what
/// stays fit into `budget`. Returns how much more the rest takes if they never do.
fn shrink<'c>(
    look: &Look,
    budget: u64,
    stay: &mut Vec<&'c Candidate>,
    go: &mut Vec<&'c Candidate>,
    keeps: &dyn Fn(&Candidate) -> bool,
) -> Option<u64> {
    // Object -> how many holders it has.
    let mut holders: BTreeMap<Digest, usize> = BTreeMap::new();
    let mut total = 0u64;
    let held = look.rooted.keys().copied().chain(stay.iter().flat_map(|c| c.artifacts.iter().copied()));
    for (object, size) in held.flat_map(|a| look.objects(a)) {
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
        for (object, size) in candidate.artifacts.iter().flat_map(|a| look.objects(*a)) {
            let Some(count) = holders.get_mut(&object) else { continue };
            *count -= 1;
            total -= if *count == 0 { size } else { 0 };
        }
        go.push(candidate);
    }
    *stay = left;
    (total > budget).then(|| total - budget)
}

/// Unfinished work that is of no use: its stage has finished, or no run would go on with it and
/// nobody has touched it for the age that the policy names.
fn old_work(
    store: &Store,
    look: &Look,
    policy: &Policy,
    now: i64,
    cutoff: i64,
) -> Result<Vec<(PathBuf, u64)>, StoreError> {
    let mut old = Vec::new();
    for key in look.store.work_keys()? {
        let folder = store.work(key);
        let used = newest_below(&folder);
        if used >= cutoff || store.lock_holder(key).is_some() && store.lock_key(key)?.is_none() {
            continue;
        }
        // Not asked as a hit, which would make the action young.
        let finished = store
            .recorded_action(key)
            .is_some_and(|a| a.outputs.values().flat_map(Output::artifacts).all(|artifact| store.is_whole(artifact)));
        let too_old = policy.max_age.is_some_and(|age| used < now.saturating_sub(nanoseconds(age)));
        if finished || (too_old && !look.keys.contains(&key)) {
            old.push((folder.clone(), bytes_below(&folder)));
        }
    }
    Ok(old)
}

/// When anything in `folder` last changed: nanoseconds since 1970.
fn newest_below(folder: &std::path::Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
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
