//! [`History`]: the keys that the stages of an experiment had in earlier runs. It compares a new
//! key with them to explain why a stage has to run again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use olmo_base::{ActionKey, ArtifactId, Digest};
use serde::Serialize;
use serde_json::Value;

use crate::key::{self, FieldChange, KeyRecord};
use crate::run::cache::Cache;
use crate::run::event::{Place, RunEvent};
use crate::run::plan::board::Input;
use crate::run::record;
use crate::run::sources::local;
use crate::store::Store;

/// How many recent runs are searched for those of the experiment.
const RUNS_SEARCHED: usize = 64;
/// How many runs of the experiment are compared.
const RUNS_COMPARED: usize = 8;
/// How many changes a reason lists.
const MAX_LISTED: usize = 4;

/// A field in which a key differs from an earlier one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    /// Path as in [`FieldChange`]: `params.optimizer.learning_rate`, `inputs.data`,
    /// `command.files."run.sh"`.
    pub field: String,
    /// `None` if the field was absent, which for a param means that it had its default.
    pub old: Option<Value>,
    /// `None` if the field is now absent.
    pub new: Option<Value>,
    /// The stage that makes this input, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
    /// For an input: the files in it that changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

impl fmt::Display for Changed {
    /// `params.lr changed: 0.001 -> 0.002`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = if self.field.starts_with("params.") { "its default" } else { "nothing" };
        let show = |value: &Option<Value>| match value {
            None => default.to_owned(),
            // The first digits of a digest are enough for a reader.
            Some(Value::String(text)) if Digest::from_hex(text).is_ok() => text[..12].to_owned(),
            Some(value) => {
                let text = value.to_string();
                match text.char_indices().nth(60) {
                    Some((at, _)) => format!("{}…", &text[..at]),
                    None => text,
                }
            }
        };
        write!(f, "{} changed: {} -> {}", self.field, show(&self.old), show(&self.new))?;
        match self.files.as_slice() {
            [] => {}
            [file] => write!(f, " ({file})")?,
            [file, rest @ ..] => write!(f, " ({file} and {} more)", rest.len())?,
        }
        if let Some(stage) = &self.made_by {
            write!(f, " (made by `{stage}`)")?;
        }
        Ok(())
    }
}

/// The earlier keys of an experiment's stages. Reads no record until the first question.
pub(super) struct History<'s> {
    store: &'s Store,
    experiment: String,
    keys: Option<BTreeMap<Place, Vec<ActionKey>>>,
}

impl<'s> History<'s> {
    pub(super) fn new(store: &'s Store, experiment: &str) -> Self {
        Self { store, experiment: experiment.to_owned(), keys: None }
    }

    /// Explains in one sentence why `key`, the key of record `new`, has no result. Also returns how
    /// it differs from the most similar earlier key of the same stage.
    pub(super) fn why_new(
        &mut self,
        place: &Place,
        key: ActionKey,
        new: &KeyRecord,
        inputs: &BTreeMap<String, Vec<Input>>,
    ) -> (String, Vec<Changed>) {
        let earlier = self.earlier(place);
        if earlier.is_empty() {
            return ("no earlier result".into(), Vec::new());
        }
        if earlier.contains(&key) {
            return ("its earlier result is gone from the store".into(), Vec::new());
        }
        let Some(changes) = self.nearest(&earlier, new, &BTreeSet::new()) else {
            return ("the inputs of its earlier results are no longer known".into(), Vec::new());
        };
        let changes: Vec<Changed> = changes.into_iter().map(|change| self.explain_change(change, inputs)).collect();
        let mut texts: Vec<String> = changes.iter().take(MAX_LISTED).map(Changed::to_string).collect();
        if changes.len() > MAX_LISTED {
            texts.push(format!("and {} more", changes.len() - MAX_LISTED));
        }
        (texts.join("; "), changes)
    }

    /// How the record `new`, whose inputs `ports` are not known yet, differs from the most similar
    /// earlier one. Returns `None` if there is no earlier one.
    pub(super) fn changes_except(
        &mut self,
        place: &Place,
        new: &KeyRecord,
        ports: &BTreeSet<String>,
        inputs: &BTreeMap<String, Vec<Input>>,
    ) -> Option<Vec<Changed>> {
        let earlier = self.earlier(place);
        let changes = self.nearest(&earlier, new, ports)?;
        Some(changes.into_iter().map(|change| self.explain_change(change, inputs)).collect())
    }

    /// The keys that the stage at `place` had, newest first. For a `for_each` stage as a whole, the
    /// keys of its items.
    fn earlier(&mut self, place: &Place) -> Vec<ActionKey> {
        let keys = self.keys.get_or_insert_with(|| last_keys(self.store, &self.experiment));
        match keys.get(place) {
            Some(keys) => keys.clone(),
            None if place.item.is_none() => {
                let after = keys.range(place.clone()..).take_while(|(other, _)| other.stage == place.stage);
                after.flat_map(|(_, keys)| keys.iter().copied()).take(RUNS_COMPARED).collect()
            }
            None => Vec::new(),
        }
    }

    /// The changes since the most similar of the `earlier` keys. If several are equally similar,
    /// the newest counts.
    fn nearest(&self, earlier: &[ActionKey], new: &KeyRecord, without: &BTreeSet<String>) -> Option<Vec<FieldChange>> {
        let mut best: Option<Vec<FieldChange>> = None;
        for key in earlier {
            let Ok(Some(action)) = Cache::new(self.store).action(*key) else { continue };
            let changes: Vec<FieldChange> = key::diff(&action.key, new)
                .into_iter()
                .filter(|c| input_port(&c.path).is_none_or(|p| !without.contains(p)))
                .collect();
            if best.as_ref().is_none_or(|best| changes.len() < best.len()) {
                best = Some(changes);
            }
        }
        best
    }

    /// Adds to a change the stage that made the input, or the files that changed in it.
    fn explain_change(&self, change: FieldChange, inputs: &BTreeMap<String, Vec<Input>>) -> Changed {
        let FieldChange { path: field, old, new } = change;
        let artifact = |value: &Option<Value>| value.as_ref().and_then(|v| ArtifactId::from_hex(v.as_str()?).ok());
        let (before, after) = (artifact(&old), artifact(&new));
        let input = input_port(&field)
            .and_then(|port| inputs.get(port))
            .and_then(|items| items.iter().find(|i| Some(i.digest) == after));
        let made_by = input.and_then(|input| input.maker.as_ref()).map(|maker| maker.stage.clone());
        // An input made by a stage is explained by naming the stage. Files are listed only for
        // sources, which a person edits.
        let files = match (input, before, after) {
            (Some(Input { maker: None, .. }), Some(before), Some(after)) => {
                local::changed_files(self.store, before, after)
            }
            _ => Vec::new(),
        };
        Changed { field, old, new, made_by, files }
    }
}

/// The input port in the path of a change, such as `inputs.data` or `inputs.from[step40]`.
fn input_port(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("inputs.")?;
    Some(rest.split(['[', '.']).next().unwrap_or(rest))
}

/// The latest keys of the stages of `experiment`, by place, newest first.
fn last_keys(store: &Store, experiment: &str) -> BTreeMap<Place, Vec<ActionKey>> {
    let mut keys: BTreeMap<Place, Vec<ActionKey>> = BTreeMap::new();
    let runs = record::all(store).unwrap_or_default();
    let mut compared = 0;
    for id in runs.iter().rev().take(RUNS_SEARCHED) {
        // A record that cannot be read is skipped: it explains nothing, but must not stop the plan.
        let records = record::read_events(&store.runs_dir().join(id.as_str())).map(|events| events.records);
        let records = records.unwrap_or_default();
        let this =
            records.iter().any(|r| matches!(&r.event, RunEvent::Opened { experiment: e, .. } if e == experiment));
        if !this {
            continue;
        }
        for record in records.iter().rev() {
            if let RunEvent::Cached { place, key, .. } | RunEvent::Finished { place, key, .. } = &record.event {
                let known = keys.entry(place.clone()).or_default();
                if !known.contains(key) {
                    known.push(*key);
                }
            }
        }
        compared += 1;
        if compared == RUNS_COMPARED {
            break;
        }
    }
    keys
}
