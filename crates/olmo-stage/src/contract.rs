//! What a stage declares about itself: `stage.yaml`.

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
    /// `tokenizer.json` and what it means by eos and pad.
    Tokenizer,
    /// Token ids and label masks as Parquet.
    Tokens,
    /// Flat token files in OLMo's raw layout with a manifest.
    Memmap,
    /// A training state: `model/`, `optim/`, `trainer.json`.
    Checkpoint,
    /// Weights and config.
    Model,
    /// Numbers: `metrics.jsonl`, `metrics.json` or Parquet.
    Metrics,
    /// Text for a person.
    Text,
    /// One file.
    File,
    /// Any folder.
    Dir,
}

impl PortType {
    /// Whether an artifact of type `self` may go into a port of type `port`.
    pub fn fits(self, port: PortType) -> bool {
        self == port || self.subtree_for(port).is_some() || matches!(port, PortType::Dir)
    }

    /// The folder of an artifact of type `self` that a port of type `port` takes, if only a part.
    pub fn subtree_for(self, port: PortType) -> Option<&'static str> {
        (self == PortType::Checkpoint && port == PortType::Model).then_some("model")
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_value(self).ok();
        f.write_str(text.as_ref().and_then(Value::as_str).unwrap_or("?"))
    }
}

/// A stage's contract, the content of its `stage.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// The name under which pipelines use it (`uses: tokenize`).
    pub stage: String,
    /// Raised by hand whenever equal inputs and params may give other outputs.
    pub version: u32,
    /// One sentence.
    pub summary: String,
    /// Artifacts it reads, by port.
    #[serde(default)]
    pub inputs: BTreeMap<String, InputPort>,
    /// Artifacts it makes, by port.
    pub outputs: BTreeMap<String, OutputPort>,
    /// What it needs to run, unless a pipeline says otherwise.
    #[serde(default)]
    pub resources: Resources,
    /// Computes on a tensor backend: backend and precision then count towards its key.
    #[serde(default)]
    pub backend: bool,
    /// A built-in stage that has rules to be asked about before a run (a command stage: `command.check`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub check: bool,
    /// Params of a command stage, by name. (A built-in stage's come from its Rust type.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<BTreeMap<String, ParamSpec>>,
    /// A command stage: what to run; absent for a built-in stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
}

/// What a command stage runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments, no shell. Each may hold `${inputs.PORT}`, `${outputs.PORT}`,
    /// `${params.NAME}` and `${stage.dir}` (the folder of stage.yaml).
    pub argv: Vec<String>,
    /// Files beside stage.yaml that the command reads; their content counts towards the key.
    #[serde(default)]
    pub files: Vec<String>,
    /// Program and arguments that check the params before a run: `${stage.dir}` may stand in them. Reads
    /// `{stage, params, inputs}` on standard input and prints a list of `{level, code, param, message, hint}`, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Vec<String>>,
    /// Names of environment variables handed through; their values count towards the key.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Names of environment variables handed through that must be set, and whose values count towards
    /// no key and stand in no log or record.
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
    /// Takes a list.
    #[serde(default)]
    pub list: bool,
    /// May be left out or null.
    #[serde(default)]
    pub optional: bool,
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
    /// Items are reported while the stage runs.
    #[serde(default)]
    pub list: bool,
    /// One sentence.
    #[serde(default)]
    pub summary: String,
}

/// What a stage occupies while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Processor cores; 0 takes all there are.
    pub cpus: u32,
    /// Graphics processors.
    pub gpus: u32,
    /// Main memory in MiB.
    pub memory_mib: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1, gpus: 0, memory_mib: 512 }
    }
}

/// The type of a pipeline's or a command stage's param: a small part of JSON Schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParamSpec {
    #[serde(rename = "type")]
    pub param_type: ParamType,
    /// The type of an array's elements (any, if left out).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ParamType>,
    /// Used where no value is given; without a default the param is required.
    /// An explicit `null` means that null is allowed and is the default.
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

/// Keeps `default: null` apart from no default at all.
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
    /// A file or folder, relative to the file in which the value stands.
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
    /// This param as JSON Schema.
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

/// A strict object schema of named params.
pub fn params_schema(params: &BTreeMap<String, ParamSpec>) -> Value {
    let properties: Map<String, Value> = params.iter().map(|(k, v)| (k.clone(), v.schema())).collect();
    let required: Vec<&String> = params.iter().filter(|(_, v)| v.default.is_none()).map(|(k, _)| k).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// A stage as the engine sees it: contract plus strict JSON Schema of its params. Built-in
/// stages' are what `olmo-worker describe --json` prints and `schemas/stages/` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub contract: Contract,
    /// JSON Schema; a property with `"x-key": false` does not change the result.
    pub params: Value,
}

impl Description {
    /// What the engine and a worker compare before a run.
    pub fn digest(&self) -> Digest {
        Digest::of(serde_json::to_string(self).unwrap_or_default().as_bytes())
    }

    /// Of a command stage, whose params stand in its contract.
    pub fn of_command(contract: Contract) -> Self {
        let params = params_schema(contract.params.as_ref().unwrap_or(&BTreeMap::new()));
        Self { contract, params }
    }
}
