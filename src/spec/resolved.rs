//! [`Resolved`]: an experiment with every value known and every reference checked.
//!
//! A run stores it as `resolved.yaml`; with the stages' descriptions inside, `resume` needs no
//! source file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use olmo_stage::Description;
use olmo_stage::contract::Resources;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ordered::OrderedMap;

/// Raised when a reader of stored `resolved.yaml` files would misread a new one.
pub const RESOLVED_FORMAT: u32 = 1;

/// An experiment after profiles, overrides and interpolation: what will run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolved {
    /// [`RESOLVED_FORMAT`].
    pub format: u32,
    /// The experiment's name; its results lie under `out/NAME/`.
    pub experiment: String,
    /// The profile in force, if any.
    pub profile: Option<String>,
    /// The experiment file as it was given.
    pub source: String,
    /// The project root, absolute.
    pub root: PathBuf,
    /// The pipeline's params; `path` values are absolute.
    pub params: Map<String, Value>,
    /// The stages in the pipeline's order (not sorted by dependency: see [`crate::graph`]).
    pub stages: OrderedMap<ResolvedStage>,
    /// What lands under `out/EXPERIMENT/NAME`, by NAME.
    pub outputs: BTreeMap<String, PortRef>,
}

/// One stage of a [`Resolved`] experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvedStage {
    /// The contract's name.
    pub uses: String,
    /// Contract and params schema as they were when this was resolved.
    pub description: Description,
    /// The folder of a command stage's `stage.yaml`, absolute; none for a built-in stage.
    pub stage_dir: Option<PathBuf>,
    /// The list of which every item gives one instance of this stage.
    pub for_each: Option<PortRef>,
    /// By port. A single port has one binding; a list port has either one reference to a list
    /// (see [`Resolved::is_list`]) or one binding an item; an absent optional port is left out.
    pub inputs: BTreeMap<String, Vec<Binding>>,
    /// All params, defaults filled in, valid against `description.params`.
    pub params: Value,
    pub resources: Resources,
    /// In seconds.
    pub timeout_s: Option<u64>,
}

/// An output port of a stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRef {
    pub stage: String,
    pub port: String,
}

impl fmt::Display for PortRef {
    /// As a reference is written: `stages.STAGE.PORT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stages.{}.{}", self.stage, self.port)
    }
}

/// What an input port takes. Written as a map with one key: `{port: {…}}`, `{path: …}`, `{item: true}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BindingRecord", into = "BindingRecord")]
pub enum Binding {
    /// The output of another stage.
    Port(PortRef),
    /// A file or folder, absolute.
    Path(PathBuf),
    /// The item of this instance of a `for_each` stage.
    Item,
}

/// [`Binding`] on disk: YAML would write an enum with a tag, which the spec itself refuses.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BindingRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<PortRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item: Option<bool>,
}

impl From<Binding> for BindingRecord {
    fn from(binding: Binding) -> Self {
        match binding {
            Binding::Port(port) => Self { port: Some(port), ..Self::default() },
            Binding::Path(path) => Self { path: Some(path), ..Self::default() },
            Binding::Item => Self { item: Some(true), ..Self::default() },
        }
    }
}

impl TryFrom<BindingRecord> for Binding {
    type Error = &'static str;

    fn try_from(record: BindingRecord) -> Result<Self, Self::Error> {
        match record {
            BindingRecord { port: Some(port), path: None, item: None } => Ok(Self::Port(port)),
            BindingRecord { port: None, path: Some(path), item: None } => Ok(Self::Path(path)),
            BindingRecord { port: None, path: None, item: Some(true) } => Ok(Self::Item),
            _ => Err("a binding has exactly one of `port`, `path`, `item: true`"),
        }
    }
}

impl Resolved {
    /// Whether `port` gives a list: a list port, or any port of a `for_each` stage.
    /// False for a port that is not there.
    pub fn is_list(&self, port: &PortRef) -> bool {
        self.stages.get(&port.stage).is_some_and(|stage| {
            stage.for_each.is_some() || stage.description.contract.outputs.get(&port.port).is_some_and(|o| o.list)
        })
    }
}

impl ResolvedStage {
    /// The output ports of other stages that this one reads, `for_each` first; a port that is
    /// read twice is there twice.
    pub fn reads(&self) -> impl Iterator<Item = &PortRef> {
        let bound = self.inputs.values().flatten().filter_map(|binding| match binding {
            Binding::Port(port) => Some(port),
            Binding::Path(_) | Binding::Item => None,
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
            Binding::Item,
        ];
        let text = serde_yaml::to_string(&bindings).unwrap();
        assert_eq!(text, "- port:\n    stage: a\n    port: b\n- path: /x/y\n- item: true\n");
        assert_eq!(serde_yaml::from_str::<Vec<Binding>>(&text).unwrap(), bindings);
    }

    #[test]
    fn a_binding_of_two_kinds_is_refused() {
        assert!(serde_yaml::from_str::<Binding>("{path: /x, item: true}").is_err());
        assert!(serde_yaml::from_str::<Binding>("{item: false}").is_err());
        assert!(serde_yaml::from_str::<Binding>("{}").is_err());
    }
}
