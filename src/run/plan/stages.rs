//! [`plan`]: what a run would do, and why. It reads only the cache and the records of earlier runs,
//! and starts nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use olmo_base::ActionKey;
use olmo_remote::Lock;
use serde::Serialize;

use crate::exec::attempt::Work;
use crate::exec::item_list::Items;
use crate::key::KeyRecord;
use crate::run::api::Selection;
use crate::run::cache::{Cache, Lookup, Outputs};
use crate::run::error::RunError;
use crate::run::event::Place;
use crate::run::plan::board::{Board, Input, Inputs, Pending};
use crate::run::plan::explain::{Changed, History};
use crate::run::sources::Sources;
use crate::spec::{Binding, PortRef, Resolved};
use crate::store::Store;

/// What a run would do with one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StagePlan {
    pub name: String,
    /// The contract's name.
    pub uses: String,
    pub state: PlanState,
    /// Why, as one sentence for the user.
    pub reason: String,
    /// Cache key of the stage. Always `None` for a `for_each` stage, whose `items` have the keys.
    pub key: Option<ActionKey>,
    /// How its key differs from the most similar earlier one, as far as is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Changed>,
    /// Stages that make its inputs and run first.
    pub waits_for: Vec<String>,
    /// Items of a `for_each` stage, as far as its list is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ItemPlan>,
}

/// What a run would do with one item of a `for_each` stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemPlan {
    pub label: String,
    pub state: PlanState,
    pub reason: String,
    pub key: ActionKey,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Changed>,
}

/// What a run would do with a stage or an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// The result is cached.
    Hit,
    /// Another process is making the result, which will be shared.
    Shared,
    /// It waits for its dependencies to run. If their outputs do not change, it is a cache hit.
    CutOffPossible,
    /// It waits for its dependencies to run, and then runs itself.
    Waits,
    /// It would continue where an earlier attempt stopped.
    Continue,
    Run,
}

impl PlanState {
    /// The state as shown to the user.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Shared => "shared",
            Self::CutOffPossible => "cut-off?",
            Self::Waits => "waits",
            Self::Continue => "continue",
            Self::Run => "run",
        }
    }
}

/// Plans a run of `resolved`, whose remote sources are locked by `lock`: what it would do with each
/// stage, in dependency order.
///
/// # Errors
/// Whatever would keep a run from starting. This includes a stage that `selection` only reads and
/// that has no result.
pub fn plan(resolved: &Resolved, selection: &Selection, store: &Store, lock: &Lock) -> Result<Planned, RunError> {
    let selected = selection.choose(resolved)?;
    let sources = Sources::read(resolved, &selected.names, store, &lock.sources)?;
    let mut history = History::new(store, &resolved.experiment);
    let (mut plans, mut missing) = (Vec::with_capacity(selected.names.len()), Vec::new());
    look_up_stages(resolved, &selected.names, &sources, store, &mut |board, stage, instances, pending| {
        let inputs = instances.iter().find(|instance| !instance.is_hit()).map(|instance| &instance.inputs);
        if let Some(inputs) = pending.as_ref().map(|pending| &pending.known).or(inputs) {
            missing.push(Missing { name: board.stages[stage].name.clone(), inputs: inputs.clone() });
        }
        plans.push(explain_stage(board, stage, instances, pending, store, &mut history)?);
        Ok(())
    })?;
    if let Some(plan) = plans.iter().find(|p| p.state != PlanState::Hit && selected.only_read.contains(&p.name)) {
        return Err(selected.not_before(&plan.name));
    }
    Ok(Planned { stages: plans, missing })
}

/// The result of [`plan`].
pub struct Planned {
    pub stages: Vec<StagePlan>,
    /// The stages that have no result yet.
    pub missing: Vec<Missing>,
}

/// The part of a run's results that the store already has.
#[derive(Default)]
pub(crate) struct Found {
    /// The outputs of finished actions, by key. All of them are complete.
    pub hits: HashMap<ActionKey, Outputs>,
    /// The stages that have no complete result.
    pub missing: Vec<Missing>,
}

/// A stage that has no result yet.
pub struct Missing {
    pub name: String,
    /// What goes into it (of a `for_each` stage: into its first instance without a result), by
    /// port, as far as it is there.
    pub inputs: BTreeMap<String, Vec<Input>>,
}

/// Finds the cached results of the stages `names`.
pub(crate) fn find(resolved: &Resolved, names: &[String], sources: &Sources, store: &Store) -> Result<Found, RunError> {
    let mut found = Found::default();
    look_up_stages(resolved, names, sources, store, &mut |board, stage, instances, pending| {
        let mut missing = pending.map(|pending| pending.known);
        for instance in instances {
            match instance.state {
                Lookup::Hit(outputs) => drop(found.hits.insert(instance.key, outputs)),
                _ => drop(missing.get_or_insert(instance.inputs)),
            }
        }
        if let Some(inputs) = missing {
            let name = board.stages[stage].name.clone();
            found.missing.push(Missing { name, inputs });
        }
        Ok(())
    })?;
    Ok(found)
}

/// An instance whose inputs are known, with the result of looking up its key.
struct Instance {
    index: usize,
    inputs: BTreeMap<String, Vec<Input>>,
    record: KeyRecord,
    key: ActionKey,
    state: Lookup,
}

impl Instance {
    fn is_hit(&self) -> bool {
        matches!(self.state, Lookup::Hit(_))
    }
}

type Visit<'v> = dyn FnMut(&Board, usize, Vec<Instance>, Option<Pending>) -> Result<(), RunError> + 'v;

/// Looks up all stages in dependency order. `visit` is called for each stage with the instances
/// whose inputs are known, and with what the remaining instances wait for.
fn look_up_stages(
    resolved: &Resolved,
    names: &[String],
    sources: &Sources,
    store: &Store,
    visit: &mut Visit<'_>,
) -> Result<(), RunError> {
    let mut board = Board::new(resolved, names, sources);
    let cache = Cache::new(store);
    for stage in 0..board.stages.len() {
        board.expand(stage);
        let mut pending: Option<Pending> = None;
        let mut wait = |more: Pending| match &mut pending {
            Some(known) => {
                known.stages.extend(more.stages);
                known.remote.extend(more.remote);
                known.ports.extend(more.ports);
            }
            None => pending = Some(more),
        };
        let spec = board.stages[stage].spec;
        if let Some(list) = spec.for_each.as_ref().filter(|list| !board.is_closed(list)) {
            wait(pending_items(&board, stage, list, store));
        }
        let mut instances = Vec::new();
        for index in board.stages[stage].tasks.clone() {
            let unknown = |stages: BTreeSet<String>| {
                let ports = spec.inputs.keys().cloned().collect();
                Pending { stages, remote: BTreeSet::new(), ports, known: BTreeMap::new() }
            };
            let inputs = match board.inputs(index, store) {
                Ok(Inputs::Ready(inputs)) => inputs,
                Ok(Inputs::Wait(pending)) => {
                    wait(pending);
                    continue;
                }
                Ok(Inputs::Never(name)) => {
                    wait(unknown(BTreeSet::from([name])));
                    continue;
                }
                // The maker of the input will find the damage and run again.
                Err(damaged) => {
                    wait(unknown(damaged.maker.into_iter().map(|m| m.stage).collect()));
                    continue;
                }
            };
            let record = board.key(index, &inputs)?;
            let key = record.digest();
            let state = cache.lookup(key)?;
            if let Lookup::Hit(outputs) = &state {
                board.finish(index, outputs.clone());
            }
            instances.push(Instance { index, inputs, record, key, state });
        }
        board.close(stage);
        visit(&board, stage, instances, pending)?;
    }
    Ok(())
}

/// What the items of `for_each` stage `stage` that are not in `list` yet wait for. The inputs that
/// all items share may be known.
fn pending_items(board: &Board, stage: usize, list: &PortRef, store: &Store) -> Pending {
    let inputs = &board.stages[stage].spec.inputs;
    let is_item = |bound: &Vec<Binding>| bound.contains(&Binding::Item);
    let mut pending = match board.shared_inputs(stage, store) {
        Ok(Inputs::Ready(known)) => {
            Pending { stages: BTreeSet::new(), remote: BTreeSet::new(), ports: BTreeSet::new(), known }
        }
        Ok(Inputs::Wait(pending)) => pending,
        Ok(Inputs::Never(_)) | Err(_) => Pending {
            stages: BTreeSet::new(),
            remote: BTreeSet::new(),
            ports: inputs.keys().cloned().collect(),
            known: BTreeMap::new(),
        },
    };
    pending.stages.insert(list.stage.clone());
    pending.ports.extend(inputs.iter().filter(|(_, bound)| is_item(bound)).map(|(port, _)| port.clone()));
    pending.known.retain(|port, _| !inputs.get(port).is_some_and(is_item));
    pending
}

/// Plans one stage and gives the reasons.
fn explain_stage(
    board: &Board,
    stage: usize,
    instances: Vec<Instance>,
    pending: Option<Pending>,
    store: &Store,
    history: &mut History,
) -> Result<StagePlan, RunError> {
    let spec = board.stages[stage].spec;
    let (name, uses) = (board.stages[stage].name.clone(), spec.uses.clone());
    let mut items = Vec::with_capacity(instances.len());
    for instance in instances {
        let place = board.place(instance.index);
        let command = spec.description.contract.command.is_some();
        let (state, reason, changes) = match &instance.state {
            Lookup::Hit(_) => (PlanState::Hit, "the result is cached".to_owned(), Vec::new()),
            _ if store.is_locked(instance.key) => {
                let text = "another process is making this result, which will be shared".to_owned();
                (PlanState::Shared, text, Vec::new())
            }
            Lookup::Incomplete { artifact } => {
                let text = format!("its result {} is no longer complete in the store", artifact.short());
                (PlanState::Run, text, Vec::new())
            }
            Lookup::Damaged { why } => {
                (PlanState::Run, format!("the cache entry of its result is damaged: {why}"), Vec::new())
            }
            Lookup::Absent => match describe_unfinished(store, instance.key).filter(|_| !command) {
                Some(reason) => (PlanState::Continue, reason, Vec::new()),
                None => {
                    let (reason, changes) = history.why_new(&place, instance.key, &instance.record, &instance.inputs);
                    (PlanState::Run, reason, changes)
                }
            },
        };
        let label = place.item.unwrap_or_default();
        items.push(ItemPlan { label, state, reason, key: instance.key, changes });
    }
    let waits_for: Vec<String> = pending.iter().flat_map(|p| p.stages.iter().cloned()).collect();
    let waiting = match &pending {
        None => None,
        Some(pending) if waits_for.is_empty() && !pending.remote.is_empty() => {
            let those = pending.remote.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
            Some((PlanState::Waits, format!("a run fetches and locks {those} first"), Vec::new()))
        }
        Some(pending) => {
            let place = Place { stage: name.clone(), item: None };
            let record = board.stage_key(stage, &pending.known)?;
            let those = waits_for.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
            Some(match history.changes_except(&place, &record, &pending.ports, &pending.known) {
                Some(changes) if changes.is_empty() => {
                    let text = format!("its inputs are made by {those} first; if they do not change, it is a hit");
                    (PlanState::CutOffPossible, text, changes)
                }
                known => {
                    let changes = known.unwrap_or_default();
                    let also = changes.first().map(|change| format!("; {change}")).unwrap_or_default();
                    (PlanState::Waits, format!("its inputs are made by {those} first{also}"), changes)
                }
            })
        }
    };
    let (key, items) = match spec.for_each {
        None => (items.first().map(|item| item.key), items),
        Some(_) => (None, items),
    };
    let (state, reason, changes) = match (waiting, &spec.for_each) {
        (Some(waiting), _) => waiting,
        (None, None) => match items.first() {
            Some(item) => (item.state, item.reason.clone(), item.changes.clone()),
            None => (PlanState::Waits, "its inputs are not known yet".to_owned(), Vec::new()),
        },
        (None, Some(_)) => {
            let missing: Vec<&ItemPlan> = items.iter().filter(|i| i.state != PlanState::Hit).collect();
            match missing.first() {
                None => (PlanState::Hit, format!("the results of all {} items are cached", items.len()), Vec::new()),
                Some(first) => {
                    let state = missing.iter().map(|i| i.state).max().unwrap_or(PlanState::Run);
                    let (count, all) = (missing.len(), items.len());
                    let text = format!("{count} of {all} items have no result; {}: {}", first.label, first.reason);
                    (state, text, Vec::new())
                }
            }
        }
    };
    let items = if spec.for_each.is_some() { items } else { Vec::new() };
    Ok(StagePlan { name, uses, state, reason, key, changes, waits_for, items })
}

/// Describes the unfinished work for `key`. Returns `None` if there is nothing to continue.
fn describe_unfinished(store: &Store, key: ActionKey) -> Option<String> {
    let work = Work::at(store.work(key));
    if !work.has_attempts() {
        return None;
    }
    let mut items = Items::default();
    work.item_records().ok()?.records.iter().for_each(|record| items.apply(record));
    let last = items.iter().filter_map(|(_, list)| list.last()).map(|(label, _)| label.clone()).next();
    Some(match last {
        Some(label) => format!("an earlier attempt stopped after {label}; it continues there"),
        None => "an earlier attempt did not finish; it continues from its last saved state".into(),
    })
}
