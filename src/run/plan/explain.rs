//! [`History`]: what the stages of an experiment did in earlier runs, to say why one is to run again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use olmo_base::Digest;
use serde::Serialize;
use serde_json::Value;

use crate::key::{self, FieldChange, KeyRecord};
use crate::run::cache::Cache;
use crate::run::event::{Place, RunEvent};
use crate::run::plan::board::Input;
use crate::run::record;
use crate::run::sources::local;
use crate::store::Store;

/// How many runs are opened to find those of the experiment.
const RUNS_SEARCHED: usize = 64;
/// How many of those are compared.
const RUNS_COMPARED: usize = 8;
/// How many changes a reason names.
const SHOWN: usize = 4;

/// A field of a key that is not what it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    /// As in [`FieldChange`]: `params.optimizer.learning_rate`, `inputs.data`, `command.files."run.sh"`.
    pub field: String,
    /// `None`: it was absent; of a param, its default.
    pub old: Option<Value>,
    /// `None`: it is absent.
    pub new: Option<Value>,
    /// The stage that makes this input, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
    /// Of an input: the files in it that changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

impl fmt::Display for Changed {
    /// `params.lr changed: 0.001 -> 0.002`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = if self.field.starts_with("params.") { "its default" } else { "nothing" };
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

/// See the module. Reads nothing before it is asked.
pub struct History<'s> {
    store: &'s Store,
    experiment: String,
    keys: Option<BTreeMap<Place, Vec<Digest>>>,
}

impl<'s> History<'s> {
    pub fn new(store: &'s Store, experiment: &str) -> Self {
        Self { store, experiment: experiment.to_owned(), keys: None }
    }

    /// Why `key`, of the record `new`, has no result: one sentence, and how it differs from the
    /// nearest earlier key of the same stage.
    pub fn why_new(
        &mut self,
        place: &Place,
        key: Digest,
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
            return ("what it was made of before is no longer known".into(), Vec::new());
        };
        let changes: Vec<Changed> = changes.into_iter().map(|change| self.told(change, inputs)).collect();
        let mut texts: Vec<String> = changes.iter().take(SHOWN).map(Changed::to_string).collect();
        if changes.len() > SHOWN {
            texts.push(format!("and {} more", changes.len() - SHOWN));
        }
        (texts.join("; "), changes)
    }

    /// How the record `new`, of which the inputs `ports` are not known yet, differs from the nearest
    /// earlier one. `None`: there is none.
    pub fn changes_but(
        &mut self,
        place: &Place,
        new: &KeyRecord,
        ports: &BTreeSet<String>,
        inputs: &BTreeMap<String, Vec<Input>>,
    ) -> Option<Vec<Changed>> {
        let earlier = self.earlier(place);
        let changes = self.nearest(&earlier, new, ports)?;
        Some(changes.into_iter().map(|change| self.told(change, inputs)).collect())
    }

    /// The keys that the stage at `place` had, the newest first. Of a `for_each` stage as a whole: those of its items.
    fn earlier(&mut self, place: &Place) -> Vec<Digest> {
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

    /// The changes against that of `earlier` which differs least, the newest of several.
    fn nearest(&self, earlier: &[Digest], new: &KeyRecord, without: &BTreeSet<String>) -> Option<Vec<FieldChange>> {
        let mut best: Option<Vec<FieldChange>> = None;
        for key in earlier {
            let Ok(Some(action)) = Cache::new(self.store).action(*key) else { continue };
            let changes: Vec<FieldChange> = key::diff(&action.key, new)
                .into_iter()
                .filter(|c| port(&c.path).is_none_or(|p| !without.contains(p)))
                .collect();
            if best.as_ref().is_none_or(|best| changes.len() < best.len()) {
                best = Some(changes);
            }
        }
        best
    }

    /// A change with what is known of where it comes from.
    fn told(&self, change: FieldChange, inputs: &BTreeMap<String, Vec<Input>>) -> Changed {
        let FieldChange { path: field, old, new } = change;
        let digest = |value: &Option<Value>| value.as_ref().and_then(|v| Digest::from_hex(v.as_str()?).ok());
        let (before, after) = (digest(&old), digest(&new));
        let input = port(&field)
            .and_then(|port| inputs.get(port))
            .and_then(|items| items.iter().find(|i| Some(i.digest) == after));
        let made_by = input.and_then(|input| input.maker.as_ref()).map(|maker| maker.stage.clone());
        // A folder of a stage is named by the stage; files are for what a person has changed.
        let files = match (input, before, after) {
            (Some(Input { maker: None, .. }), Some(before), Some(after)) => {
                local::changed_files(self.store, before, after)
            }
            _ => Vec::new(),
        };
        Changed { field, old, new, made_by, files }
    }
}

/// The port that the path of a change is about: `inputs.data`, `inputs.from[step40]`.
fn port(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("inputs.")?;
    Some(rest.split(['[', '.']).next().unwrap_or(rest))
}

/// The keys that the stages of `experiment` had last, by place, the newest first.
fn last_keys(store: &Store, experiment: &str) -> BTreeMap<Place, Vec<Digest>> {
    let mut keys: BTreeMap<Place, Vec<Digest>> = BTreeMap::new();
    let runs = record::all(store).unwrap_or_default();
    let mut compared = 0;
    for id in runs.iter().rev().take(RUNS_SEARCHED) {
        // A record that cannot be read explains nothing, and stops nobody.
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
