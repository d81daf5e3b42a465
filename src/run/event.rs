//! [`RunEvent`]: what happens in a run, as `events.jsonl` of its record holds it and as it is
//! shown while it happens. The state of a run is a fold over its events ([`crate::run::RunState`]).

use std::collections::BTreeMap;
use std::path::PathBuf;

use olmo_base::Digest;
use olmo_stage::{Failure, MessageLevel};
use serde::{Deserialize, Serialize};

use crate::spec::FailureClass;
use crate::store::Output;

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Milliseconds since 1970.
    pub at: u64,
    pub event: RunEvent,
}

/// Which piece of work an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub stage: String,
    /// The item's label, of a `for_each` stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.item {
            Some(item) => write!(f, "{}[{item}]", self.stage),
            None => f.write_str(&self.stage),
        }
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RunEvent {
    /// An engine began to work on the run; `stages` in the order of their dependencies.
    Opened { experiment: String, pid: u32, resumed: bool, stages: Vec<String> },
    /// The result was there. `cut_off`: something before it ran in this run, and gave the same
    /// bytes as before.
    Cached { place: Place, key: Digest, cut_off: bool, outputs: BTreeMap<String, Output> },
    /// Another process works on the same key; its result will be shared.
    Waiting { place: Place, key: Digest, holder: Option<u32> },
    /// A process was started. `after`: work of earlier attempts is continued, and this is the
    /// last list item of theirs.
    Started { place: Place, key: Digest, attempt: u32, continues: bool, after: Option<String> },
    /// The stage goes on from `step`; of list `port` only the items `keep` stay.
    Resumed { place: Place, step: u64, port: String, keep: Vec<String> },
    /// A list item is in the store.
    Item { place: Place, port: String, label: String, artifact: Digest },
    /// How far it is. The record holds the first one of an attempt and then one now and then.
    Progress { place: Place, done: u64, total: u64, unit: String, message: String },
    /// Numbers of one step. The record holds the first ones of an attempt and then some now and then.
    Metrics { place: Place, step: u64, values: BTreeMap<String, f64> },
    /// A message from the stage.
    Message { place: Place, level: MessageLevel, text: String },
    /// It ran and its outputs are in the store. `shared`: it ran in another process.
    Finished { place: Place, key: Digest, shared: bool, outputs: BTreeMap<String, Output>, used: Used },
    /// It failed; `log` are the last lines that it printed.
    Failed { place: Place, failure: Failure, log: Vec<String> },
    /// It failed, and is tried again after a pause; `tried` of at most `max` times so far.
    Retrying {
        place: Place,
        failure: Failure,
        class: FailureClass,
        log: Vec<String>,
        pause_s: u64,
        tried: u32,
        max: u32,
    },
    /// It waits for what other engines have, or asked for earlier: `short`.
    Delayed { place: Place, short: Vec<String>, holders: Vec<(u32, String)> },
    /// The stages that run were asked to save their state (SIGUSR1).
    Saving,
    /// It was not run, because of stage `because`.
    Skipped { place: Place, because: String },
    /// It was stopped before its end.
    Interrupted { place: Place },
    /// An input of it was damaged in the store; `maker` makes it again.
    Damaged { place: Place, artifact: Digest, maker: Place, why: String },
    /// A signal asked for the end of the run.
    Stopping { signal: i32 },
    /// The engine ended in order.
    Closed { outcome: RunOutcome, results: BTreeMap<String, PathBuf> },
    /// An event of a newer build.
    #[serde(other)]
    Unknown,
}

/// What a stage's process used: kept here and nowhere else, since no output may hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// From start to end.
    pub wall_s: f64,
    /// Processor time of all its processes.
    pub cpu_s: f64,
    /// Its largest process.
    pub max_rss_kib: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    Succeeded,
    /// At least one stage failed.
    Failed,
    /// Stopped by this signal.
    Interrupted {
        signal: i32,
    },
}

impl RunEvent {
    /// The piece of work that it is about, if it is about one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Cached { place, .. }
            | Self::Waiting { place, .. }
            | Self::Started { place, .. }
            | Self::Resumed { place, .. }
            | Self::Item { place, .. }
            | Self::Progress { place, .. }
            | Self::Metrics { place, .. }
            | Self::Message { place, .. }
            | Self::Finished { place, .. }
            | Self::Failed { place, .. }
            | Self::Retrying { place, .. }
            | Self::Delayed { place, .. }
            | Self::Skipped { place, .. }
            | Self::Interrupted { place }
            | Self::Damaged { place, .. } => Some(place),
            Self::Opened { .. } | Self::Saving | Self::Stopping { .. } | Self::Closed { .. } | Self::Unknown => None,
        }
    }
}
