//! The files by which the engine and a stage's process talk.
//!
//! An attempt's folder holds `request.json` (engine → stage), `in/PORT/…` (inputs), `out/PORT/…`
//! (outputs), `items/PORT/LABEL/…` (list items while it runs), `events.jsonl` (stage → engine,
//! see [`olmo_base::journal`]) and `result.json` (stage → engine, renamed into place last). Standard
//! output and error are logs, nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Raised when a reader of one side would misread the other.
pub const PROTOCOL_VERSION: u32 = 3;

pub const REQUEST: &str = "request.json";
pub const EVENTS: &str = "events.jsonl";
pub const RESULT: &str = "result.json";
/// Times and speeds of the attempt, if its stage measures any; kept with the run's logs.
pub const PERF: &str = "perf.jsonl";
/// How a line of a stage's log begins that says what to do if memory runs out. Nobody can say it then.
pub const IF_MEMORY_RUNS_OUT: &str = "if memory runs out: ";

/// What a stage is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub protocol: u32,
    pub stage: String,
    pub version: u32,
    /// All params, defaults filled in.
    pub params: Value,
    /// By port; a single port has one item without a label, an absent optional port none.
    pub inputs: BTreeMap<String, Vec<InputItem>>,
    /// Output ports this stage is to fill, each a folder `out/PORT` in the attempt's folder.
    pub outputs: Vec<String>,
    /// Kept from attempt to attempt until the stage has succeeded; private to the stage.
    pub state_dir: PathBuf,
    /// List items of earlier attempts that are safe in the store, oldest first, by port.
    pub items: BTreeMap<String, Vec<InputItem>>,
    /// Threads this stage may use.
    pub threads: usize,
    /// `flex`, `libtorch` or `libtorch-cuda`; resolved, never `auto`.
    pub backend: String,
    /// Of activations: `fp32` or `amp_bf16`; resolved, never `auto`.
    pub precision: String,
}

/// One artifact handed to a stage: a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputItem {
    /// The item's label if it comes from a list (`step40`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The folder that holds the artifact's files; read only.
    pub path: PathBuf,
}

/// What a stage tells while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The process is up and has read its request.
    Started { pid: u32 },
    /// `done` of `total` (0: not known) `unit`s.
    Progress { done: u64, total: u64, unit: String, message: String },
    /// Numbers of one step, for display; what lasts is written to an output port.
    Metrics { step: u64, values: BTreeMap<String, f64> },
    /// A list item is complete in the attempt's folder under `items/PORT/LABEL`.
    Item { port: String, label: String },
    /// The stage continues from `step`; items of `port` whose label is not in `keep` leave the list.
    Resumed { step: u64, port: String, keep: Vec<String> },
    /// A line for the person watching. `level`: info, warning.
    Message { level: String, text: String },
    /// An event of a newer build.
    #[serde(other)]
    Unknown,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageResult {
    pub protocol: u32,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    /// The stage's own failure, with a reason.
    Failed,
    /// Asked to stop, it saved its state and stopped in order.
    Interrupted,
}

/// Why a stage failed, for a person: what and where, why, the way out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Stable, `area::reason`, e.g. `tokenize::no_assistant_turn`.
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
