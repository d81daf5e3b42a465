//! The protocol between the engine and the process of a stage: files in the attempt's folder.
//!
//! An attempt's folder contains `request.json` (engine → stage), `in/PORT/…` (inputs), `out/PORT/…`
//! (outputs), `items/PORT/LABEL/…` (list items while the stage runs), `events.jsonl` (stage →
//! engine, see [`olmo_base::journal`]) and `result.json` (stage → engine, renamed into place last).
//! Standard output and error are only logged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use olmo_base::Diagnose;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compute::Compute;

/// Version of the protocol. Increased when one side would misread the other.
pub const PROTOCOL_VERSION: u32 = 5;

pub const REQUEST: &str = "request.json";
pub const EVENTS: &str = "events.jsonl";
pub const RESULT: &str = "result.json";
/// File with times and speeds of the attempt, if the stage measures any. Kept with the run's logs.
pub const PERF: &str = "perf.jsonl";

/// The request to a stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub protocol: u32,
    pub stage: String,
    pub version: u32,
    /// All params, with defaults filled in.
    pub params: Value,
    /// Inputs by port. A port that is not a list has one item without a label. An absent optional
    /// port has no items.
    pub inputs: BTreeMap<String, Vec<InputItem>>,
    /// Output ports to fill, each a folder `out/PORT` in the attempt's folder.
    pub outputs: Vec<String>,
    /// A private folder of the stage. It is kept between attempts until the stage succeeds.
    pub state_dir: PathBuf,
    /// List items of earlier attempts that are in the store, oldest first, by port.
    pub items: BTreeMap<String, Vec<InputItem>>,
    /// Number of threads that the stage may use, all its ranks together.
    pub threads: usize,
    /// Number of processes that run the stage together; 1 if it is left out. Whoever starts the first one may
    /// start them all (`torchrun`, `srun`); otherwise it starts the others itself.
    #[serde(default = "one")]
    pub ranks: u32,
    /// Where and how to compute, for a stage with tensors.
    pub compute: Compute,
}

/// One rank.
pub(crate) fn one() -> u32 {
    1
}

/// One input artifact of a stage: a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputItem {
    /// The item's label if it comes from a list (`step40`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The folder with the artifact's files. The stage must not write to it.
    pub path: PathBuf,
}

/// An event that a stage reports while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The process has started and has read its request.
    Started { pid: u32 },
    /// `done` of `total` `unit`s are done. `total` is 0 if it is not known.
    Progress { done: u64, total: u64, unit: String, message: String },
    /// Metrics of a step, for display only. Results are written to an output port.
    Metrics { step: u64, values: BTreeMap<String, f64> },
    /// A list item is complete in the attempt's folder under `items/PORT/LABEL`.
    Item { port: String, label: String },
    /// The stage continues from `step`. Items of `port` whose label is not in `keep` leave the
    /// list.
    Resumed { step: u64, port: String, keep: Vec<String> },
    /// A message for the user.
    Message { level: MessageLevel, text: String },
    /// How to need less memory. The stage reports it in advance, since a process that was killed
    /// for memory can no longer report anything.
    MemoryHint { text: String },
    /// An event that only a newer build knows.
    #[serde(other)]
    Unknown,
}

/// How important a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageLevel {
    Info,
    Warning,
}

impl fmt::Display for MessageLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
        })
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageResult {
    pub protocol: u32,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The class of the failure, which decides about retries.
    #[serde(default)]
    pub class: FailureClass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    /// The stage failed and gave the reason.
    Failed,
    /// The stage was asked to stop, saved its state, and stopped.
    Interrupted,
}

/// Why a stage failed: what, where, why, and how to fix it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// A stable code, `area::reason`: `tokenize::no_assistant_turn`.
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl<E: Diagnose> From<&E> for Failure {
    fn from(error: &E) -> Self {
        Self { code: error.code().into(), message: error.to_string(), hint: error.hint() }
    }
}

/// The class of a failure, which decides about retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum FailureClass {
    /// It ran out of main or GPU memory.
    Oom,
    /// Another process stopped or killed it, or it requested another attempt (exit code 75).
    Preempted,
    /// It took longer than its `timeout`.
    Timeout,
    /// It reported nothing for longer than its `stall`.
    Stalled,
    /// Its own failure.
    #[default]
    Error,
}

impl FailureClass {
    pub const ALL: [FailureClass; 5] = [Self::Oom, Self::Preempted, Self::Timeout, Self::Stalled, Self::Error];

    /// Its name in documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Oom => "oom",
            Self::Preempted => "preempted",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::Error => "error",
        }
    }
}
