//! [`RunEvent`]: what happens in a run. The same events are shown live and stored in `events.jsonl`
//! of the run's record. The state of a run is a fold over its events ([`crate::run::RunState`]).

use std::collections::BTreeMap;
use std::path::PathBuf;

use olmo_base::{ActionKey, ArtifactId};
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

/// The stage, or the item of a `for_each` stage, that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub stage: String,
    /// Label of the item, for a `for_each` stage.
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
    /// An engine started to work on the run. `stages` are in dependency order.
    Opened { experiment: String, pid: u32, resumed: bool, stages: Vec<String> },
    /// The result was cached. `cut_off`: a dependency ran in this run and produced the same bytes
    /// as before.
    Cached { place: Place, key: ActionKey, cut_off: bool, outputs: BTreeMap<String, Output> },
    /// Another process works on the same key; its result will be shared.
    Waiting { place: Place, key: ActionKey, holder: Option<u32> },
    /// A process was started. `after`: the last list item of earlier attempts, if this attempt
    /// continues their work.
    Started { place: Place, key: ActionKey, attempt: u32, continues: bool, after: Option<String> },
    /// The stage continues from `step`. Of the items of list `port`, only `keep` remain.
    Resumed { place: Place, step: u64, port: String, keep: Vec<String> },
    /// A list item is in the store.
    Item { place: Place, port: String, label: String, artifact: ArtifactId },
    /// Progress of a stage. The record holds the first one of each attempt and a sample of the
    /// rest.
    Progress { place: Place, done: u64, total: u64, unit: String, message: String },
    /// Metrics of one step. The record holds the first ones of each attempt and a sample of the
    /// rest.
    Metrics { place: Place, step: u64, values: BTreeMap<String, f64> },
    /// A message from the stage to the user.
    Message { place: Place, level: MessageLevel, text: String },
    /// The stage ran and its outputs are in the store. `shared`: another process ran it.
    Finished { place: Place, key: ActionKey, shared: bool, outputs: BTreeMap<String, Output>, used: Used },
    /// The stage failed. `log` holds the last lines that it printed.
    Failed { place: Place, failure: Failure, log: Vec<String> },
    /// The stage failed and will be retried after a pause. It has been tried `tried` times out of
    /// at most `max`.
    Retrying {
        place: Place,
        failure: Failure,
        class: FailureClass,
        log: Vec<String>,
        pause_s: u64,
        tried: u32,
        max: u32,
    },
    /// The stage waits for the resources `short`, which other engines hold or requested earlier.
    Delayed { place: Place, short: Vec<String>, holders: Vec<(u32, String)> },
    /// The running stages were asked to save their state (SIGUSR1).
    Saving,
    /// The stage was not run because stage `because` failed.
    Skipped { place: Place, because: String },
    /// The stage was stopped before it finished.
    Interrupted { place: Place },
    /// An input of the stage was damaged in the store. `maker` runs again to make it.
    Damaged { place: Place, artifact: ArtifactId, maker: Place, why: String },
    /// A signal asked the run to stop.
    Stopping { signal: i32 },
    /// The engine ended normally.
    Closed { outcome: RunOutcome, results: BTreeMap<String, PathBuf> },
    /// An event that only a newer build knows.
    #[serde(other)]
    Unknown,
}

/// Resources that a stage's process used. They are recorded only in events, never in an output,
/// since outputs must not differ between two executions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Wall-clock time from start to end.
    pub wall_s: f64,
    /// CPU time of all its processes.
    pub cpu_s: f64,
    /// Peak memory of its largest process.
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
    /// The stage or item that the event is about, if any.
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
