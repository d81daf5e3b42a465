//! The documents as a person writes them, as Rust types. Their JSON Schemas are derived from
//! here; files are checked against those, then read as [`crate::read::node::Node`]s, which know their
//! places.

use std::collections::BTreeMap;

use olmo_stage::ParamSpec;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use olmo_stage::FailureClass;

/// What a name looks like: stages, params, profiles, outputs.
// Lengths are their own keyword: a counted repetition takes longer to compile than a file to check.
const NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9_-]*$";
const NAME_LENGTH: u32 = 100;
const NAME_WORDS: &str = "a name of letters, digits, `_` and `-`";

/// An experiment: a pipeline, and the values that make this run of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("if" = {"not": {"required": ["extends"]}}, "then" = {"required": ["uses"]}))]
pub(crate) struct Experiment {
    /// Its name; the results lie under `out/NAME/`.
    #[schemars(schema_with = "name")]
    pub experiment: String,
    /// Another experiment, relative to this file; what stands here goes before what stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub extends: Option<String>,
    /// The pipeline file, relative to this file. Needed unless the experiment extends another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub uses: Option<String>,
    /// Values of the pipeline's params. A profile and `--set` go before them.
    #[serde(default)]
    #[schemars(extend("propertyNames" = names()))]
    pub params: BTreeMap<String, Value>,
    /// Sets of params to choose from with `--profile NAME`.
    #[serde(default)]
    #[schemars(extend("propertyNames" = names()))]
    pub profiles: BTreeMap<String, BTreeMap<String, Value>>,
    /// The profile that is used without `--profile`: its name, or `{profile: NAME, when: CONDITION}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DefaultProfile")]
    pub default_profile: Option<DefaultProfile>,
    /// Changes to the pipeline's stages, by name: a map is merged in, null removes the stage.
    #[serde(default)]
    #[schemars(extend("propertyNames" = names()))]
    pub stages: BTreeMap<String, Option<StageChange>>,
    /// Changes to the pipeline's outputs: another reference, or null to leave one out.
    #[serde(default)]
    #[schemars(extend("propertyNames" = names()), with = "BTreeMap<String, Option<OutputText>>")]
    pub outputs: BTreeMap<String, Option<Value>>,
    /// Several trials that differ in some values; null: none. Stages that are the same in
    /// several trials run once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<SweepDocument>")]
    pub sweep: Option<SweepDocument>,
}

/// The profile that is used without `--profile`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum DefaultProfile {
    /// Its name.
    Always(String),
    /// Used only if a condition holds.
    Conditional(ConditionalProfile),
}

/// A profile that is used only if a condition holds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct ConditionalProfile {
    /// Its name.
    pub profile: String,
    /// `${params.NAME}` is set (not null, false or empty), or `not ${params.NAME}`. The param's value is the one without the
    /// profile.
    #[schemars(with = "ConditionText")]
    pub when: Value,
}

/// Trials: all combinations of `grid`, `zip`, `list` and `random`, without those in `exclude`,
/// and those in `include` besides. A value's path is that of `--set`: `params.lr`,
/// `stages.train.with.seed`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct SweepDocument {
    /// Values by path: every combination.
    #[serde(default)]
    #[schemars(schema_with = "value_lists")]
    pub grid: BTreeMap<String, Vec<Value>>,
    /// Values by path: the first of each, the second of each, and so on. All lists are equally long.
    #[serde(default)]
    #[schemars(schema_with = "value_lists")]
    pub zip: BTreeMap<String, Vec<Value>>,
    /// Trials written out: the values of each by path.
    #[serde(default)]
    #[schemars(schema_with = "trial_list")]
    pub list: Vec<Map<String, Value>>,
    /// Trials whose values are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RandomDocument")]
    pub random: Option<RandomDocument>,
    /// Further trials: the values of each by path.
    #[serde(default)]
    #[schemars(schema_with = "trial_list")]
    pub include: Vec<Map<String, Value>>,
    /// Trials that have all the values of one of these are left out.
    #[serde(default)]
    #[schemars(schema_with = "trial_list")]
    pub exclude: Vec<Map<String, Value>>,
}

/// Values drawn by a fixed rule: the same seed gives the same trials everywhere, more trials
/// leave the first ones as they are, and so does a further path.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RandomDocument {
    /// Decides the values.
    pub seed: u64,
    /// How many.
    #[schemars(range(min = 1, max = 100_000))]
    pub trials: u32,
    /// What is drawn, by path.
    #[schemars(extend("propertyNames" = paths(), "minProperties" = 1))]
    pub values: BTreeMap<String, Distribution>,
}

/// What a value is drawn from. Numbers are rounded to four digits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[schemars(inline)]
pub(crate) enum Distribution {
    /// A number between two.
    Uniform([f64; 2]),
    /// A number between two greater than 0, evenly by its logarithm.
    LogUniform([f64; 2]),
    /// A whole number between two, these included.
    Integer([i64; 2]),
    /// One of these.
    Choice(#[schemars(length(min = 1))] Vec<Value>),
}

/// A pipeline: stages that feed each other, and the params that make it general.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct Pipeline {
    /// Its name.
    #[schemars(schema_with = "name")]
    pub pipeline: String,
    /// One sentence on what it makes of what.
    #[serde(default)]
    pub summary: String,
    /// Other pipelines, relative to this file: their params, stages and outputs come first; one
    /// of the same name here replaces theirs.
    #[serde(default)]
    pub include: Vec<String>,
    /// What an experiment may set; `${params.NAME}` in the stages stands for the value.
    #[serde(default)]
    #[schemars(extend("propertyNames" = names()))]
    pub params: BTreeMap<String, ParamSpec>,
    /// The stages by name. A stage reads what it names by `${stages.STAGE.PORT}`.
    #[schemars(extend("propertyNames" = names()))]
    pub stages: BTreeMap<String, Stage>,
    /// What lands under `out/EXPERIMENT/NAME` after a run, by NAME.
    #[serde(default)]
    #[schemars(extend("propertyNames" = names()), with = "BTreeMap<String, OutputText>")]
    pub outputs: BTreeMap<String, Value>,
}

/// A stage of a pipeline.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct Stage {
    /// The contract: a built-in stage, or a folder `stages/NAME` with a `stage.yaml`.
    pub uses: String,
    /// Input ports and params of the contract.
    #[serde(default)]
    pub with: Map<String, Value>,
    /// The stage is left out unless this holds: `${params.NAME}` is set (not null, false or empty), or `not ${params.NAME}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ConditionText>")]
    pub when: Option<Value>,
    /// Run once for every item of this list; `${item}` is the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PortText>")]
    pub for_each: Option<String>,
    /// With `for_each`: only for items whose number is a multiple of this, such as `step2000` for 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1), extend("x-references" = true))]
    pub every: Option<u64>,
    /// What it needs, where that differs from the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ResourceChange>", extend("x-references" = true))]
    pub resources: Option<ResourceChange>,
    /// A run of the stage that takes longer is stopped: `90s`, `30m`, `12h`, `2d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TimeText>", extend("x-references" = true))]
    pub timeout: Option<String>,
    /// A run of the stage that tells and prints nothing for so long is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TimeText>", extend("x-references" = true))]
    pub stall: Option<String>,
    /// How often, and after which failures, it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<RetryRule>", extend("x-references" = true))]
    pub retry: Option<RetryRule>,
    /// A stage whose GPUs and CPUs it may use beside that one; else it waits for free ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
}

/// What an experiment changes in a stage, or a whole stage with `uses` that it adds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct StageChange {
    /// Another contract; needed for a stage that the pipeline does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub uses: Option<String>,
    /// Merged into the stage's `with`, key by key.
    #[serde(default)]
    pub with: Map<String, Value>,
    /// The stage is left out unless this holds: `${params.NAME}` is set (not null, false or empty), or `not ${params.NAME}`;
    /// null: it is never left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<ConditionText>")]
    pub when: Option<Value>,
    /// Run once for every item of this list; null: run once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PortText>")]
    pub for_each: Option<String>,
    /// With `for_each`: only for items whose number is a multiple of this, such as `step2000` for 1000; null: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1), extend("x-references" = true))]
    pub every: Option<u64>,
    /// Merged into the stage's `resources`, key by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ResourceChange", extend("x-references" = true))]
    pub resources: Option<ResourceChange>,
    /// A run of the stage that takes longer is stopped: `90s`, `30m`, `12h`, `2d`; null: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TimeText>", extend("x-references" = true))]
    pub timeout: Option<String>,
    /// A run of the stage that tells and prints nothing for so long is stopped. Null: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TimeText>", extend("x-references" = true))]
    pub stall: Option<String>,
    /// How often, and after which failures, it is tried again. Null: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<RetryRule>", extend("x-references" = true))]
    pub retry: Option<RetryRule>,
    /// A stage whose GPUs and CPUs it may use beside that one; else it waits for free ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
}

/// What a stage occupies while it runs; what is left out is the contract's.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct ResourceChange {
    /// CPU cores. 0 means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(max = 4_294_967_295_u64))]
    pub cpus: Option<u32>,
    /// Number of GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(max = 4_294_967_295_u64))]
    pub gpus: Option<u32>,
    /// Main memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub memory_mib: Option<u64>,
    /// Number of processes (ranks) that run the stage together. 0 means one per GPU, or one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(max = 4096))]
    pub ranks: Option<u32>,
}

/// When a failed stage is tried again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct RetryRule {
    /// How many more times at most, in one run.
    #[schemars(range(max = 1000))]
    pub max: u32,
    /// After which failures; after any, if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<FailureClass>")]
    pub on: Option<Vec<FailureClass>>,
    /// The pause before the first one (`10s`, if it is left out); it doubles with each, up to 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TimeText")]
    pub backoff: Option<String>,
}

/// The form of `${stages.STAGE.PORT}`.
const PORT: &str = r"^\$\{stages\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\}$";

/// `${stages.STAGE.PORT}`.
struct PortText;

impl JsonSchema for PortText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PortText".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": PORT,
            "x-expected": "a reference like \"${stages.STAGE.PORT}\"",
        })
    }
}

/// `${stages.STAGE.PORT}`, or `{first: […]}` of several.
struct OutputText;

impl JsonSchema for OutputText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OutputText".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "object"],
            "pattern": PORT,
            "x-expected": "a reference like \"${stages.STAGE.PORT}\"",
            "properties": {
                "first": {
                    "description": "The first one that is available counts; null: nothing lands.",
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": ["string", "null"], "pattern": PORT},
                },
            },
            "required": ["first"],
            "additionalProperties": false,
        })
    }
}

/// `${params.NAME}`, `not ${params.NAME}`, or a boolean.
struct ConditionText;

impl JsonSchema for ConditionText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ConditionText".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["boolean", "string"],
            "pattern": r"^(not )?\$\{params(\.[A-Za-z0-9_-]+)+\}$",
            "x-expected": "a condition like \"${params.NAME}\" or \"not ${params.NAME}\"",
        })
    }
}

/// A length of time.
struct TimeText;

impl JsonSchema for TimeText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TimeText".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[1-9][0-9]*[smhd]$",
            "maxLength": 10,
            "x-expected": "a time like `90s`, `30m`, `12h` or `2d`",
        })
    }
}

fn name(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "maxLength": NAME_LENGTH,
        "x-expected": "a name of letters, digits, `_`, `-` and `.`"})
}

/// `params.NAME…` or `stages.NAME…`.
fn paths() -> Value {
    serde_json::json!({"pattern": r"^(params|stages)(\.[A-Za-z0-9_-]+)+$", "maxLength": 1000,
        "x-expected": "a path like `params.lr` or `stages.train.with.seed`"})
}

fn value_lists(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "propertyNames": paths(), "additionalProperties": {"type": "array", "minItems": 1}})
}

fn trial_list(_: &mut schemars::SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "object", "propertyNames": paths(), "minProperties": 1}})
}

fn names() -> Value {
    serde_json::json!({"pattern": NAME, "maxLength": NAME_LENGTH, "x-expected": NAME_WORDS})
}

/// The seconds of a checked time text (`12h`).
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let number: u64 = text.get(..text.len().checked_sub(1)?)?.parse().ok()?;
    let unit = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3_600,
        b'd' => 86_400,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("2m", Some(120)),
            ("12h", Some(43_200)),
            ("1d", Some(86_400)),
            ("1w", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
