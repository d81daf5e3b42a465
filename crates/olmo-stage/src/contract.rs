//! [`Contract`]: what a stage declares about itself in its `stage.yaml`. The doc comments of the
//! types below are the descriptions in `schemas/`.

use std::collections::BTreeMap;
use std::fmt;

use olmo_base::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The kinds of artifact that ports carry. Every artifact is a folder of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortType {
    /// Documents or conversations as Parquet.
    Dataset,
    /// `tokenizer.json` with its eos and pad tokens.
    Tokenizer,
    /// Token ids and label masks as Parquet.
    Tokens,
    /// Flat token files in OLMo's raw layout with a manifest.
    Memmap,
    /// A training state: `model/`, `optim/`, `trainer.json`.
    Checkpoint,
    /// Weights and config.
    Model,
    /// Metrics: `metrics.jsonl`, `metrics.json` or Parquet.
    Metrics,
    /// Text for people to read.
    Text,
    /// One file.
    File,
    /// Any folder.
    Dir,
}

impl PortType {
    /// Its name in contracts and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            PortType::Dataset => "dataset",
            PortType::Tokenizer => "tokenizer",
            PortType::Tokens => "tokens",
            PortType::Memmap => "memmap",
            PortType::Checkpoint => "checkpoint",
            PortType::Model => "model",
            PortType::Metrics => "metrics",
            PortType::Text => "text",
            PortType::File => "file",
            PortType::Dir => "dir",
        }
    }

    /// Whether an artifact of type `self` may go into a port of type `port`.
    pub fn fits(self, port: PortType) -> bool {
        self == port || self.subtree_for(port).is_some() || matches!(port, PortType::Dir)
    }

    /// The folder inside an artifact of type `self` that a port of type `port` takes. `None` if it
    /// takes the whole artifact, or does not accept it.
    pub fn subtree_for(self, port: PortType) -> Option<&'static str> {
        (self == PortType::Checkpoint && port == PortType::Model).then_some("model")
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A stage's contract, the content of its `stage.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// The name under which pipelines use it (`uses: tokenize`).
    pub stage: String,
    /// Increased by hand whenever equal inputs and params may give different outputs.
    pub version: u32,
    /// One sentence.
    pub summary: String,
    /// Artifacts it reads, by port.
    #[serde(default)]
    pub inputs: BTreeMap<String, InputPort>,
    /// Artifacts it makes, by port.
    pub outputs: BTreeMap<String, OutputPort>,
    /// Resources that it needs, unless a pipeline overrides them.
    #[serde(default)]
    pub resources: Resources,
    /// Whether it computes on a tensor backend. If so, backend and precision are part of its key.
    #[serde(default)]
    pub backend: bool,
    /// Whether several processes (ranks) can run it together.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ranks: bool,
    /// Whether a built-in stage has rules that are checked before a run. A command stage has
    /// `command.check` instead.
    #[serde(default, skip_serializing_if = "is_false")]
    pub check: bool,
    /// Params of a command stage, by name. Those of a built-in stage come from its Rust type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<BTreeMap<String, ParamSpec>>,
    /// What a command stage runs. Absent for a built-in stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
}

/// What a command stage runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments, without a shell. Each may contain `${inputs.PORT}`,
    /// `${outputs.PORT}`, `${params.NAME}` and `${stage.dir}` (the folder of stage.yaml).
    pub argv: Vec<String>,
    /// Files next to stage.yaml that the command reads. Their content is part of the key.
    #[serde(default)]
    pub files: Vec<String>,
    /// Program and arguments that check the params before a run. They may contain `${stage.dir}`.
    /// The program reads `{stage, params, inputs}` on standard input and prints a list of
    /// `{level, code, param, message, hint}`, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Vec<String>>,
    /// Names of environment variables that are passed on. Their values are part of the key.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Names of environment variables that are passed on and must be set. Their values are not part
    /// of any key, and never appear in a log or record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// An input port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputPort {
    #[serde(rename = "type")]
    pub port_type: PortType,
    /// Whether it takes a list.
    #[serde(default)]
    pub list: bool,
    /// Whether it may be left out or null.
    #[serde(default)]
    pub optional: bool,
    /// Whether its files may stay on a server, to be read by range: then `NAME.remote.json` stands for
    /// a file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_range: bool,
    /// One sentence.
    #[serde(default)]
    pub summary: String,
}

/// An output port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputPort {
    #[serde(rename = "type")]
    pub port_type: PortType,
    /// Whether it is a list, whose items are reported while the stage runs.
    #[serde(default)]
    pub list: bool,
    /// One sentence.
    #[serde(default)]
    pub summary: String,
}

/// The resources that a stage uses while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// CPU cores. 0 means all of them.
    pub cpus: u32,
    /// Number of GPUs.
    pub gpus: u32,
    /// Main memory in MiB, all ranks together.
    pub memory_mib: u64,
    /// Number of processes that run the stage together. 0 means one per GPU, or one.
    #[serde(skip_serializing_if = "is_zero")]
    pub ranks: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1, gpus: 0, memory_mib: 512, ranks: 0 }
    }
}

impl Contract {
    /// Number of processes that run the stage together if it gets `resources`.
    pub fn ranks(&self, resources: &Resources) -> u32 {
        match (self.ranks, resources.ranks) {
            (false, _) => 1,
            (true, 0) => resources.gpus.max(1),
            (true, ranks) => ranks,
        }
    }
}

/// The type of a pipeline's or a command stage's param: a small part of JSON Schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParamSpec {
    #[serde(rename = "type")]
    pub param_type: ParamType,
    /// The type of an array's elements. If left out, any type is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ParamType>,
    /// Used if no value is given. Without a default, the param is required. An explicit `null`
    /// means that null is allowed and is the default.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
    /// The allowed values.
    #[serde(default, rename = "enum", skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<Value>>,
    /// One sentence.
    #[serde(default)]
    pub summary: String,
}

/// Distinguishes `default: null` from no default.
fn some<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(d).map(Some)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    Integer,
    Number,
    String,
    Boolean,
    Array,
    Object,
    /// A file or folder, relative to the file that contains the value.
    Path,
}

impl ParamType {
    fn schema(self) -> Value {
        match self {
            ParamType::Path => json!({"type": "string", "format": "path"}),
            other => json!({"type": serde_json::to_value(other).unwrap_or_default()}),
        }
    }
}

impl ParamSpec {
    /// The JSON Schema of this param.
    pub fn schema(&self) -> Value {
        let mut schema = self.param_type.schema();
        let Some(map) = schema.as_object_mut() else { return schema };
        if self.default == Some(Value::Null) {
            let known = map["type"].clone();
            map.insert("type".into(), json!([known, "null"]));
        }
        if let Some(items) = self.items {
            map.insert("items".into(), items.schema());
        }
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                map.insert(key.into(), value);
            }
        };
        put("default", self.default.clone());
        put("minimum", self.minimum.map(Value::from));
        put("maximum", self.maximum.map(Value::from));
        put("enum", self.choices.clone().map(Value::from));
        put("description", (!self.summary.is_empty()).then(|| self.summary.clone().into()));
        schema
    }
}

/// A strict object schema for named params.
pub fn params_schema(params: &BTreeMap<String, ParamSpec>) -> Value {
    let properties: Map<String, Value> = params.iter().map(|(k, v)| (k.clone(), v.schema())).collect();
    let required: Vec<&String> = params.iter().filter(|(_, v)| v.default.is_none()).map(|(k, _)| k).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// A stage as the engine sees it: the contract, and a strict JSON Schema of the params. For
/// built-in stages, `olmo-worker describe --json` prints the descriptions, and `schemas/stages/`
/// contains them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub contract: Contract,
    /// JSON Schema of the params. A property with `"x-key": false` does not change the result. A
    /// property with `x-default` has that value if it is left out, unless another field (a preset)
    /// gives it one; the engine does not fill it in.
    pub params: Value,
}

impl Description {
    /// The digest of the description. The engine and a worker compare it before a run.
    pub fn digest(&self) -> Digest {
        Digest::of(serde_json::to_string(self).unwrap_or_default().as_bytes())
    }

    /// The description of a command stage, whose params are declared in its contract.
    pub fn of_command(contract: Contract) -> Self {
        let params = params_schema(contract.params.as_ref().unwrap_or(&BTreeMap::new()));
        Self { contract, params }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_type_is_shown_by_the_name_that_contracts_use() {
        use PortType::{Checkpoint, Dataset, Dir, File, Memmap, Metrics, Model, Text, Tokenizer, Tokens};
        for port in [Dataset, Tokenizer, Tokens, Memmap, Checkpoint, Model, Metrics, Text, File, Dir] {
            assert_eq!(serde_json::to_value(port).unwrap(), port.as_str());
            assert_eq!(format!("{port:<12}|").find('|'), Some(12));
        }
    }
}
