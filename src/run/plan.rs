//! [`plan`]: what a run would do, and why, told from the cache alone.

use std::collections::{BTreeMap, BTreeSet};

use olmo_stage::Digest;
use serde::Serialize;
use serde_json::Value;

use super::board::{self, Board, Inputs};
use super::error::RunError;
use super::event::{Place, RunEvent};
use super::record;
use super::sources::Sources;
use crate::exec::attempt::{Items, Work};
use crate::key::{self, FieldChange, KeyRecord};
use crate::spec::Resolved;
use crate::store::{ActionState, Store};

/// How many runs are searched for what a stage did last.
const RUNS_SEARCHED: usize = 64;

/// What a run would do with one stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StagePlan {
    pub name: String,
    /// The contract's name.
    pub uses: String,
    pub state: PlanState,
    /// One sentence for a person.
    pub reason: String,
    /// Of the stage; of a `for_each` stage see `items`.
    pub key: Option<Digest>,
    /// Stages that make its inputs, and that run first.
    pub waits_for: Vec<String>,
    /// Of a `for_each` stage, as far as its list is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ItemPlan>,
}

/// What a run would do with one item of a `for_each` stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemPlan {
    pub label: String,
    pub state: PlanState,
    pub reason: String,
    pub key: Digest,
}

/// What would be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// The result is there.
    Hit,
    /// It depends on what the stages before it make.
    Waits,
    /// It would go on where an earlier attempt stopped.
    Continue,
    Run,
}

/// What a run of `resolved` would do, stage by stage in their order.
pub fn plan(resolved: &Resolved, targets: &[String], store: &Store) -> Result<Vec<StagePlan>, RunError> {
    let names = board::order(resolved, targets)?;
    let sources = Sources::read(resolved, &names, store)?;
    plan_with(resolved, &names, &sources, store)
}

/// As [`plan`], with the stages in order and their sources read.
pub fn plan_with(
    resolved: &Resolved,
    names: &[String],
    sources: &Sources,
    store: &Store,
) -> Result<Vec<StagePlan>, RunError> {
    let mut board = Board::new(resolved, names, sources);
    let mut last = None;
    let mut plans = Vec::new();
    for stage in 0..board.stages.len() {
        board.spread(stage);
        let list_open = board.stages[stage].spec.for_each.as_ref().filter(|list| !board.items(list).1);
        let mut waits: BTreeSet<String> = list_open.iter().map(|list| list.stage.clone()).collect();
        let mut items = Vec::new();
        for index in board.stages[stage].instances.clone() {
            let place = board.place(index);
            let inputs = match board.inputs(index, store) {
                Ok(Inputs::Ready(inputs)) => inputs,
                Ok(Inputs::Wait(stages)) => {
                    waits.extend(stages);
                    continue;
                }
                Ok(Inputs::Never(name)) => {
                    waits.insert(name);
                    continue;
                }
                // Its maker will find out, and run again.
                Err(damaged) => {
                    waits.extend(damaged.maker.map(|m| m.stage));
                    continue;
                }
            };
            let record = board.key(index, &inputs)?;
            let key = record.digest();
            let action = store.action_state(key)?;
            let (state, reason) = match &action {
                ActionState::Hit(_) => (PlanState::Hit, "the result is there".to_owned()),
                ActionState::Incomplete { artifact, .. } => {
                    (PlanState::Run, format!("its result {} is no longer whole in the store", artifact.short()))
                }
                ActionState::Damaged { why } => (PlanState::Run, format!("the note of its result is damaged: {why}")),
                ActionState::Absent => {
                    let command = board.stages[stage].spec.description.contract.command.is_some();
                    match unfinished(store, key).filter(|_| !command) {
                        Some(reason) => (PlanState::Continue, reason),
                        None => {
                            let last = last.get_or_insert_with(|| last_keys(store, &resolved.experiment));
                            (PlanState::Run, why_new(store, last.get(&place), key, &record))
                        }
                    }
                }
            };
            if let ActionState::Hit(action) = action {
                board.finish(index, action.outputs);
            }
            items.push((place.item, ItemPlan { label: String::new(), state, reason, key }));
        }
        board.close(stage);
        plans.push(sum_up(&board.stages[stage], items, waits));
    }
    Ok(plans)
}

fn sum_up(stage: &board::Stage, items: Vec<(Option<String>, ItemPlan)>, waits: BTreeSet<String>) -> StagePlan {
    let (name, uses) = (stage.name.clone(), stage.spec.uses.clone());
    let waits_for: Vec<String> = waits.into_iter().collect();
    let waiting = || {
        let those = waits_for.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
        (PlanState::Waits, format!("its inputs are made by {those} first"))
    };
    if stage.spec.for_each.is_none() {
        let (state, reason, key) = match items.into_iter().next() {
            Some((_, item)) => (item.state, item.reason, Some(item.key)),
            None => {
                let (state, reason) = waiting();
                (state, reason, None)
            }
        };
        return StagePlan { name, uses, state, reason, key, waits_for, items: Vec::new() };
    }
    let items: Vec<ItemPlan> =
        items.into_iter().map(|(label, plan)| ItemPlan { label: label.unwrap_or_default(), ..plan }).collect();
    let missing: Vec<&ItemPlan> = items.iter().filter(|i| i.state != PlanState::Hit).collect();
    let (state, reason) = match missing.first() {
        _ if !waits_for.is_empty() => waiting(),
        None => (PlanState::Hit, format!("the results of all {} items are there", items.len())),
        Some(first) => {
            let state = missing.iter().map(|i| i.state).max().unwrap_or(PlanState::Run);
            (
                state,
                format!("{} of {} items have no result; {}: {}", missing.len(), items.len(), first.label, first.reason),
            )
        }
    };
    StagePlan { name, uses, state, reason, key: None, waits_for, items }
}

/// What unfinished work there is for `key`; `None` if there is nothing to continue.
fn unfinished(store: &Store, key: Digest) -> Option<String> {
    let work = Work::at(store.work(key));
    if !work.begun() {
        return None;
    }
    let mut items = Items::default();
    work.item_records().ok()?.iter().for_each(|record| items.apply(record));
    let last = items.iter().filter_map(|(_, list)| list.last()).map(|(label, _)| label.clone()).next();
    Some(match last {
        Some(label) => format!("an earlier attempt stopped after {label}; it goes on there"),
        None => "an earlier attempt did not end; it goes on where that saved its state".into(),
    })
}

/// The keys that the stages of `experiment` had last, by place: from the newest runs.
fn last_keys(store: &Store, experiment: &str) -> BTreeMap<Place, Vec<Digest>> {
    let mut keys: BTreeMap<Place, Vec<Digest>> = BTreeMap::new();
    let runs = record::all(store).unwrap_or_default();
    for id in runs.iter().rev().take(RUNS_SEARCHED) {
        // A record that cannot be read explains nothing, and stops nobody.
        let records = record::read_events(&store.runs_dir().join(id.as_str())).unwrap_or_default();
        let this =
            records.iter().any(|r| matches!(&r.event, RunEvent::Opened { experiment: e, .. } if e == experiment));
        if !this {
            continue;
        }
        for record in records.iter().rev() {
            if let RunEvent::Cached { place, key, .. } | RunEvent::Finished { place, key, .. } = &record.event {
                keys.entry(place.clone()).or_default().push(*key);
            }
        }
    }
    keys
}

/// Why the key `key` has no result: what changed since the newest result of the same stage.
fn why_new(store: &Store, last: Option<&Vec<Digest>>, key: Digest, record: &KeyRecord) -> String {
    let Some(last) = last.and_then(|keys| keys.first()) else { return "no earlier result".into() };
    if *last == key {
        return "its earlier result is gone from the store".into();
    }
    match store.action_state(*last) {
        Ok(ActionState::Hit(action) | ActionState::Incomplete { action, .. }) => {
            let changes = key::diff(&action.key, record);
            const SHOWN: usize = 4;
            let mut texts: Vec<String> = changes.iter().take(SHOWN).map(describe).collect();
            if changes.len() > SHOWN {
                texts.push(format!("and {} more", changes.len() - SHOWN));
            }
            texts.join("; ")
        }
        _ => "what it was made of before is no longer known".into(),
    }
}

fn describe(change: &FieldChange) -> String {
    let default = if change.path.starts_with("params.") { "its default" } else { "nothing" };
    let show = |value: &Option<Value>| match value {
        None => default.to_owned(),
        // Digests: the first digits are enough for a person.
        Some(Value::String(text)) if Digest::from_hex(text).is_ok() => text[..12].to_owned(),
        Some(value) => {
            let text = value.to_string();
            match text.char_indices().nth(60) {
                Some((at, _)) => format!("{}…", &text[..at]),
                None => text,
            }
        }
    };
    format!("{} changed: {} -> {}", change.path, show(&change.old), show(&change.new))
}
