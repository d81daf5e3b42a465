//! The types that callers pass to a run and get back: [`Options`], [`Watch`], [`Report`], and the
//! plain types in them. This module only defines data; it never starts anything.

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

/// The ID of a run, such as `20260131-235959-0f3a`: the UTC time to the second, then the fraction
/// of the second in units of 1/65,536 as four hexadecimal digits. IDs sort by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// Creates the ID of a run that starts at `now`.
    pub(super) fn new(now: SystemTime) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let part = (u64::from(since.subsec_nanos()) << 16) / 1_000_000_000;
        let time: String = olmo_base::units::utc(since.as_secs()).chars().filter(char::is_ascii_digit).collect();
        Self(format!("{}-{}-{part:04x}", &time[..8], &time[8..14]))
    }

    /// Parses an ID. Returns `None` if `text` is not a well-formed ID.
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

/// How to run an experiment.
#[derive(Clone)]
pub struct Options {
    /// The stages to run.
    pub selection: Selection,
    /// Stages whose unfinished work is discarded.
    pub fresh: Vec<String>,
    /// When a stage fails, stop the running stages and start no others. Otherwise, stages that do
    /// not depend on the failed one continue.
    pub fail_fast: bool,
    /// Stages that run even if their results are cached.
    pub force: Vec<String>,
    /// Ignore cached results. New results are still stored.
    pub no_cache_read: bool,
    /// Starts the stages' processes.
    pub executor: Arc<dyn Executor>,
    /// How long a stage may take to save its state after a signal.
    pub grace: Duration,
    /// Path of `olmo-worker`.
    pub worker: PathBuf,
    /// How remote sources are fetched and locked.
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
            worker: Worker::default_path(),
            sourcing: Sourcing::default(),
        }
    }
}

/// Receives every event as it happens, with progress and metrics at full rate.
pub trait Watch {
    fn event(&mut self, event: &RunEvent);

    /// Called often while sources are fetched, before the run starts: `done` bytes of the file or
    /// source `what` have arrived, out of `total` if the size is known.
    fn fetching(&mut self, _what: &str, _done: u64, _total: Option<u64>) {}

    /// Called when a fetch waits for a server; `text` says why.
    fn fetch_waiting(&mut self, _text: &str) {}

    /// Called once the run has its record, and so its ID.
    fn run_started(&mut self, _id: &RunId) {}
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub id: RunId,
    pub outcome: RunOutcome,
    /// Why stages failed.
    pub failures: Vec<StageFailure>,
    /// Paths of the named results, if all stages finished.
    pub results: BTreeMap<String, PathBuf>,
}

/// A stage that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct StageFailure {
    pub place: Place,
    pub failure: Failure,
}

/// Selects the stages to run. An empty selection means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Run only these stages and their dependencies.
    pub targets: Vec<String>,
    /// Leave out the stages that depend on these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub until: Vec<String>,
    /// Run only these stages and those that depend on them. Their own dependencies must already
    /// have results.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

/// How remote sources are fetched and locked.
#[derive(Clone, Debug, Default)]
pub struct Sourcing {
    /// Path of the lock file. Without one, nothing is locked and no file is written.
    pub lock: Option<PathBuf>,
    /// Fail on a source that is not in the lock.
    pub locked: bool,
    /// Do not use the network.
    pub offline: bool,
    /// How to reach servers.
    pub settings: Settings,
    /// The experiment's path as the user typed it, for messages.
    pub experiment: String,
}

/// A finding of the rules of stage `stage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageFinding {
    pub stage: String,
    pub finding: Finding,
}

/// A source that has changed since the run started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceChange {
    /// The file, variable or folder that changed.
    pub what: String,
    /// `None` if it did not exist.
    pub old: Option<Digest>,
    /// `None` if it no longer exists.
    pub new: Option<Digest>,
}

impl fmt::Display for SourceChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |digest: &Option<Digest>| digest.map_or("nothing".to_owned(), |d| d.to_string());
        write!(f, "{} was {} and is now {}", self.what, show(&self.old), show(&self.new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_names_have_one_form_and_sort_by_time() {
        let at = |ms| RunId::new(UNIX_EPOCH + Duration::from_millis(ms));
        let first = at(1_769_903_999_500);
        assert_eq!(first.as_str(), "20260131-235959-8000");
        assert_eq!(at(1_769_903_999_999).as_str(), "20260131-235959-ffbe");
        assert!(first < at(1_769_903_999_501) && first < at(1_769_904_000_000));
        assert_eq!(RunId::parse(first.as_str()), Some(first.clone()));
        for text in ["", "20260131-235959", "20260131-235959-0F3A", "2026013x-235959-0f3a", "../../etc/passwd/../x"] {
            assert_eq!(RunId::parse(text), None, "{text}");
        }
    }
}
