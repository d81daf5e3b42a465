//! [`Resolved`]: an experiment with every value known and every reference checked.
//!
//! A run stores it as `resolved.json`; with the stages' descriptions inside, `resume` needs no
//! source file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use olmo_stage::contract::Resources;
use olmo_stage::{Contract, Description};
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::document::retry::Retry;
use crate::graph::{Graph, GraphError};
use crate::read::ordered::OrderedMap;
use crate::read::reference::PortRef;

/// Raised when an older build would misread a new `resolved.json`.
pub const RESOLVED_FORMAT: u32 = 2;

/// An experiment after profiles, overrides and interpolation: what will run.
///
/// The file holds each contract once, under `contracts`; in format 1 every stage had its own copy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "ResolvedRecord")]
pub struct Resolved {
    /// [`RESOLVED_FORMAT`].
    pub format: u32,
    /// The experiment's name; its results are exported to `out/NAME/`.
    pub experiment: String,
    /// The active profile, if any.
    pub profile: Option<String>,
    /// The path of the experiment file as given.
    pub source: String,
    /// The project root, absolute.
    pub root: PathBuf,
    /// The pipeline's params without those that a sweep changes; `path` values are absolute.
    pub params: Map<String, Value>,
    /// The params that the experiment, a profile or the command line sets.
    pub changed_params: BTreeSet<String>,
    /// The stages in the pipeline's order (for the order of dependencies see [`crate::graph`]). A stage
    /// that differs between trials appears several times, as `STAGE@TRIAL`.
    pub stages: OrderedMap<ResolvedStage>,
    /// The outputs that all trials share, exported to `out/EXPERIMENT/NAME`, by NAME.
    pub outputs: BTreeMap<String, PortRef>,
    /// The trials of a sweep, in order; none without a sweep.
    pub trials: Vec<Trial>,
    /// The stages whose `when` does not hold, with the reasons. Not written: a resumed run has the same
    /// stages.
    pub left_out: BTreeMap<String, String>,
    /// The environment variables in paths, with their values. Not written.
    pub variables: BTreeMap<String, String>,
}

/// One trial of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The values that differ between trials: `lr=1e-5,seed=2`.
    pub name: String,
    /// Its values, by path.
    pub values: Map<String, Value>,
    /// Its own stages, by their names in the pipeline; stages that all trials share are left out.
    pub stages: BTreeMap<String, String>,
    /// Its outputs, exported to `out/EXPERIMENT/TRIAL/NAME`, by NAME.
    pub outputs: BTreeMap<String, PortRef>,
}

/// One stage of a [`Resolved`] experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvedStage {
    /// The contract's name.
    pub uses: String,
    /// Contract and params schema at the time of resolution.
    #[serde(skip_serializing, default = "unread", deserialize_with = "shared")]
    pub description: Arc<Description>,
    /// The folder of a command stage's `stage.yaml`, absolute; none for a built-in stage.
    pub stage_dir: Option<PathBuf>,
    /// The list whose items each give an instance of this stage.
    pub for_each: Option<PortRef>,
    /// Only items whose number is a multiple of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Bindings by port. A single port has one binding; a list port has either one reference to a list
    /// (see [`Resolved::is_list`]) or a binding for each item; an absent optional port is left out.
    pub inputs: BTreeMap<String, Vec<Binding>>,
    /// All params with defaults filled in, valid against `description.params`.
    pub params: Value,
    pub resources: Resources,
    /// Timeout in seconds.
    pub timeout_s: Option<u64>,
    /// Number of seconds without events or output after which the stage is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_s: Option<u64>,
    /// When it is retried after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// The stage whose GPUs and CPUs it may use while that stage runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
}

/// A [`Resolved`] as stored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolvedRecord {
    format: u32,
    experiment: String,
    profile: Option<String>,
    source: String,
    root: PathBuf,
    params: Map<String, Value>,
    #[serde(default)]
    changed_params: BTreeSet<String>,
    #[serde(default)]
    contracts: BTreeMap<String, Description>,
    stages: OrderedMap<ResolvedStage>,
    outputs: BTreeMap<String, PortRef>,
    #[serde(default)]
    trials: Vec<Trial>,
}

impl TryFrom<ResolvedRecord> for Resolved {
    type Error = String;

    fn try_from(record: ResolvedRecord) -> Result<Self, String> {
        let ResolvedRecord {
            format,
            experiment,
            profile,
            source,
            root,
            params,
            changed_params,
            contracts,
            mut stages,
            outputs,
            trials,
        } = record;
        if format == 0 || format > RESOLVED_FORMAT {
            return Err(format!("the experiment has format {format}, this build reads 1 to {RESOLVED_FORMAT}"));
        }
        let contracts: BTreeMap<String, Arc<Description>> =
            contracts.into_iter().map(|(name, description)| (name, Arc::new(description))).collect();
        if format > 1 {
            for (name, stage) in stages.iter_mut() {
                let known = contracts.get(&stage.uses);
                let lost = || format!("stage `{name}` uses `{}`, of which there is no contract", stage.uses);
                stage.description = known.cloned().ok_or_else(lost)?;
            }
        }
        let format = RESOLVED_FORMAT;
        let variables = BTreeMap::new();
        Ok(Self {
            format,
            experiment,
            profile,
            source,
            root,
            params,
            changed_params,
            stages,
            outputs,
            trials,
            left_out: BTreeMap::new(),
            variables,
        })
    }
}

impl Serialize for Resolved {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let contracts: BTreeMap<&str, &Description> =
            self.stages.values().map(|stage| (stage.uses.as_str(), &*stage.description)).collect();
        let mut record = serializer.serialize_struct("Resolved", 11)?;
        record.serialize_field("format", &self.format)?;
        record.serialize_field("experiment", &self.experiment)?;
        record.serialize_field("profile", &self.profile)?;
        record.serialize_field("source", &self.source)?;
        record.serialize_field("root", &self.root)?;
        record.serialize_field("params", &self.params)?;
        if !self.changed_params.is_empty() {
            record.serialize_field("changed_params", &self.changed_params)?;
        }
        record.serialize_field("stages", &self.stages)?;
        record.serialize_field("outputs", &self.outputs)?;
        if !self.trials.is_empty() {
            record.serialize_field("trials", &self.trials)?;
        }
        record.serialize_field("contracts", &contracts)?;
        record.end()
    }
}

/// A placeholder until the contract is looked up by its name.
fn unread() -> Arc<Description> {
    static UNREAD: LazyLock<Arc<Description>> = LazyLock::new(|| {
        let contract = Contract {
            stage: String::new(),
            version: 0,
            summary: String::new(),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            resources: Resources::default(),
            backend: false,
            ranks: false,
            check: false,
            params: None,
            command: None,
        };
        Arc::new(Description { contract, params: Value::Null })
    });
    UNREAD.clone()
}

/// The contract inside a stage of format 1.
fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Description>, D::Error> {
    Description::deserialize(deserializer).map(Arc::new)
}

/// The source of an input port. Written as a map with one key: `{port: {…}}`, `{path: …}`,
/// `{remote: …}` or `{item: true}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BindingRecord", into = "BindingRecord")]
pub enum Binding {
    /// The output of another stage.
    Port(PortRef),
    /// A file or folder, absolute.
    Path(PathBuf),
    /// A remote source, in the notation of [`olmo_remote::Source`].
    Remote(String),
    /// The item of this instance of a `for_each` stage.
    Item,
}

/// [`Binding`] on disk. An enum would be written with a YAML tag, which this crate rejects.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BindingRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<PortRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item: Option<bool>,
}

impl From<Binding> for BindingRecord {
    fn from(binding: Binding) -> Self {
        match binding {
            Binding::Port(port) => Self { port: Some(port), ..Self::default() },
            Binding::Path(path) => Self { path: Some(path), ..Self::default() },
            Binding::Remote(source) => Self { remote: Some(source), ..Self::default() },
            Binding::Item => Self { item: Some(true), ..Self::default() },
        }
    }
}

impl TryFrom<BindingRecord> for Binding {
    type Error = &'static str;

    fn try_from(record: BindingRecord) -> Result<Self, Self::Error> {
        match record {
            BindingRecord { port: Some(port), path: None, remote: None, item: None } => Ok(Self::Port(port)),
            BindingRecord { port: None, path: Some(path), remote: None, item: None } => Ok(Self::Path(path)),
            BindingRecord { port: None, path: None, remote: Some(source), item: None } => Ok(Self::Remote(source)),
            BindingRecord { port: None, path: None, remote: None, item: Some(true) } => Ok(Self::Item),
            _ => Err("a binding has exactly one of `port`, `path`, `remote`, `item: true`"),
        }
    }
}

impl Resolved {
    /// Whether `port` is a list: a list port, or any port of a `for_each` stage. False if the port does
    /// not exist.
    pub fn is_list(&self, port: &PortRef) -> bool {
        self.stages.get(&port.stage).is_some_and(|stage| {
            stage.for_each.is_some() || stage.description.contract.outputs.get(&port.port).is_some_and(|o| o.list)
        })
    }

    /// The stages that `name` selects on a command line: `STAGE` selects the stage in all trials,
    /// `STAGE@TRIAL` the stage of one trial, and `@TRIAL` all stages of a trial that others do not
    /// share. A prefix `stages.` is allowed. Empty if there is none.
    pub fn named(&self, name: &str) -> Vec<&str> {
        let name = name.strip_prefix("stages.").unwrap_or(name);
        if let Some((name, _)) = self.stages.get_key_value(name) {
            return vec![name];
        }
        if let Some(trial) = name.strip_prefix('@') {
            let trial = self.trials.iter().find(|known| known.name == trial);
            return trial.map_or_else(Vec::new, |trial| trial.stages.values().map(String::as_str).collect());
        }
        let of_this = |stage: &&str| stage.split_once('@').is_some_and(|(base, _)| base == name);
        let mut found: Vec<&str> = self.stages.keys().filter(of_this).collect();
        if found.is_empty()
            && let Some((base, trial)) = name.split_once('@')
            && let Some(trial) = self.trials.iter().find(|known| known.name == trial)
        {
            // The full name of a trial, though the stage depends only on some of its values, or on none.
            let own = trial.stages.get(base).map(String::as_str);
            found.extend(own.or_else(|| self.stages.get_key_value(base).map(|(name, _)| name)));
        }
        found
    }
}

impl Graph {
    /// The graph of `resolved`.
    ///
    /// # Errors
    /// A circle, or a reference to a missing stage (in an edited `resolved.json`).
    pub fn new(resolved: &Resolved) -> Result<Self, GraphError> {
        let names: Vec<String> = resolved.stages.keys().map(str::to_owned).collect();
        let mut edges = Vec::new();
        for (name, stage) in resolved.stages.iter() {
            edges.extend(stage.reads().map(|port| (port.stage.as_str(), name, port.port.as_str())));
        }
        Self::of(&names, edges.into_iter())
    }
}

impl ResolvedStage {
    /// Whether a `for_each` stage runs for the item with this label. With `every`, the label's number
    /// must be a multiple of it; a label without a number always counts.
    pub fn takes(&self, label: &str) -> bool {
        let digits = label.trim_start_matches(|c: char| !c.is_ascii_digit());
        match (self.every, digits.parse::<u64>()) {
            (Some(every), Ok(number)) => number % every.max(1) == 0,
            _ => true,
        }
    }

    /// The output ports that this stage reads, `for_each` first. A port that is read twice appears
    /// twice.
    pub fn reads(&self) -> impl Iterator<Item = &PortRef> {
        let bound = self.inputs.values().flatten().filter_map(|binding| match binding {
            Binding::Port(port) => Some(port),
            Binding::Path(_) | Binding::Remote(_) | Binding::Item => None,
        });
        self.for_each.iter().chain(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_are_one_key_maps_in_yaml() {
        let bindings = vec![
            Binding::Port(PortRef { stage: "a".into(), port: "b".into() }),
            Binding::Path("/x/y".into()),
            Binding::Remote("hf:a/b".into()),
            Binding::Item,
        ];
        let text = serde_yaml::to_string(&bindings).unwrap();
        assert_eq!(text, "- port:\n    stage: a\n    port: b\n- path: /x/y\n- remote: hf:a/b\n- item: true\n");
        assert_eq!(serde_yaml::from_str::<Vec<Binding>>(&text).unwrap(), bindings);
    }

    #[test]
    fn a_binding_of_two_kinds_is_refused() {
        assert!(serde_yaml::from_str::<Binding>("{path: /x, item: true}").is_err());
        assert!(serde_yaml::from_str::<Binding>("{item: false}").is_err());
        assert!(serde_yaml::from_str::<Binding>("{}").is_err());
    }
}
