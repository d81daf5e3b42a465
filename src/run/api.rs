//! What callers of a run give it and get from it: [`Options`], [`Watch`], [`Report`] and the plain
//! types in them. Nothing here does any work.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use olmo_base::Digest;
use olmo_remote::Settings;
use olmo_stage::Failure;
use olmo_stage::rules::Finding;
use serde::{Deserialize, Serialize};

use crate::exec::{Executor, Local, Worker};
use crate::run::event::{Place, RunEvent, RunOutcome};

/// The name of a run: UTC time to the second, and the 65,536th parts of the second in four
/// hexadecimal digits, `20260131-235959-0f3a`. Sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// That of a run which begins now.
    pub(super) fn new(now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let part = (u64::from(since.subsec_nanos()) << 16) / 1_000_000_000;
        let time: String = olmo_base::units::utc(since.as_secs()).chars().filter(char::is_ascii_digit).collect();
        Self(format!("{}-{}-{part:04x}", &time[..8], &time[8..14]))
    }

    /// Reads one; `None` if `text` has another form.
    pub fn parse(text: &str) -> Option<Self> {
        let form = text.len() == 20
            && text.bytes().enumerate().all(|(at, b)| match at {
                8 | 15 => b == b'-',
                16.. => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
                _ => b.is_ascii_digit(),
            });
        form.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How to run.
#[derive(Clone)]
pub struct Options {
    /// Which stages.
    pub selection: Selection,
    /// Stages whose unfinished work is thrown away.
    pub fresh: Vec<String>,
    /// When a stage fails, what runs is stopped and nothing more begins; else all goes on that
    /// does not need it.
    pub fail_fast: bool,
    /// Stages that run though their results are there.
    pub force: Vec<String>,
    /// No result that is there counts; new ones are kept.
    pub no_cache_read: bool,
    /// Where stages' processes run.
    pub executor: Arc<dyn Executor>,
    /// How long stages may take to save their state after a signal.
    pub grace: Duration,
    /// Where `olmo-worker` is.
    pub worker: PathBuf,
    /// How remote sources are dealt with.
    pub sourcing: Sourcing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            fresh: Vec::new(),
            force: Vec::new(),
            no_cache_read: false,
            fail_fast: false,
            executor: Arc::new(Local::default()),
            grace: Duration::from_secs(30),
            worker: Worker::place(),
            sourcing: Sourcing::default(),
        }
    }
}

/// Sees every event as it happens, progress and metrics at full rate.
pub trait Watch {
    fn event(&mut self, event: &RunEvent);

    /// Of the file or source `what`, `done` bytes have come, of `total` if that is known. Called often, before the run begins.
    fn fetching(&mut self, _what: &str, _done: u64, _total: Option<u64>) {}

    /// A server is waited for.
    fn fetch_waits(&mut self, _text: &str) {}

    /// The run has its record, and goes by this name.
    fn begins(&mut self, _id: &RunId) {}
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub id: RunId,
    pub outcome: RunOutcome,
    /// Why stages failed.
    pub failures: Vec<StageFailure>,
    /// Where the named results lie, if all stages are done.
    pub results: BTreeMap<String, PathBuf>,
}

/// A stage that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct StageFailure {
    pub place: Place,
    pub failure: Failure,
}

/// Which stages. Nothing named means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Only these stages and what they need.
    pub targets: Vec<String>,
    /// Nothing that comes after these stages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub until: Vec<String>,
    /// Only these stages and what comes after them; what they need has to be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

/// How remote sources are dealt with.
#[derive(Clone, Debug, Default)]
pub struct Sourcing {
    /// The lock's file; without one nothing is locked, nor written.
    pub lock: Option<PathBuf>,
    /// What is not in the lock is an error.
    pub locked: bool,
    /// Nothing comes over the network.
    pub offline: bool,
    /// How servers are reached.
    pub settings: Settings,
    /// FILE as the user wrote it, for messages.
    pub experiment: String,
}

/// What stage `stage` finds wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageFinding {
    pub stage: String,
    pub finding: Finding,
}

/// A source that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceChange {
    /// The file, or what else changed.
    pub what: String,
    /// `None`: it was not there.
    pub old: Option<Digest>,
    /// `None`: it is gone.
    pub new: Option<Digest>,
}

impl fmt::Display for SourceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |digest: &Option<Digest>| digest.map_or("nothing".to_owned(), |d| d.to_string());
        write!(f, "{} was {} and is now {}", self.what, show(&self.old), show(&self.new))
    }
}
