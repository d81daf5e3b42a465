//! Runs of other processes, seen through their records: watching one ([`attach`]), stopping one
//! ([`cancel`]), its logs ([`log_files`]), removing one ([`remove`]).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use olmo_base::{IoContext, journal};

use crate::exec::Work;
use crate::run::api::{Report, RunId, StageFailure, Watch};
use crate::run::error::RunError;
use crate::run::event::{Place, Record, RunEvent};
use crate::run::record::folder as record;
use crate::run::record::state::{self, RunState};
use crate::store::Store;

/// How often a record is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How watching a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Attached {
    /// The run ended, so long after it began or went on.
    Ended(Report, Duration),
    /// Its engine died; `resume` goes on.
    Died,
    /// The watcher had enough; the run goes on.
    Detached,
}

/// Shows run `id` from the beginning (of its last engine) to its end. `go_on` is asked ten times
/// a second.
pub fn attach(
    store: &Store,
    id: &RunId,
    watch: &mut dyn Watch,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Attached, RunError> {
    let folder = state::folder(store, id);
    let path = folder.join(record::EVENTS);
    let mut tail = journal::Tail::<Record>::new(&path);
    let mut failures = Vec::new();
    let mut began = None;
    loop {
        // Before the events: what the engine wrote before its end is read below.
        let active = record::is_active(&folder);
        let mut records = tail.next_records().context_during("read", &path)?;
        if let Some(opened) = records.iter().rposition(|r| matches!(r.event, RunEvent::Opened { .. })) {
            records.drain(..opened);
            failures.clear();
            began = records.first().map(|r| r.at);
        }
        for Record { at, event } in records {
            watch.event(&event);
            match event {
                RunEvent::Failed { place, failure, .. } => failures.push(StageFailure { place, failure }),
                RunEvent::Closed { outcome, results } => {
                    let took = Duration::from_millis(at.saturating_sub(began.unwrap_or(at)));
                    let report = Report { id: id.clone(), outcome, failures, results };
                    return Ok(Attached::Ended(report, took));
                }
                _ => {}
            }
        }
        if !active {
            return Ok(Attached::Died);
        }
        if !go_on() {
            return Ok(Attached::Detached);
        }
        std::thread::sleep(LOOK);
    }
}

/// Asks the engine of run `id` to stop in order, or, with `kill`, at once, and waits for its end
/// while `go_on` says so. The run as it then is.
pub fn cancel(store: &Store, id: &RunId, kill: bool, go_on: &mut dyn FnMut() -> bool) -> Result<RunState, RunError> {
    let folder = state::folder(store, id);
    let not_running = || -> Result<RunError, RunError> {
        Ok(RunError::NotRunning { id: id.to_string(), status: state::show(store, id)?.status.word() })
    };
    if !record::is_active(&folder) {
        return Err(not_running()?);
    }
    let Some(pid) = record::engine(&folder).and_then(|pid| i32::try_from(pid).ok()) else {
        let why = "it does not say which process works on it".to_owned();
        return Err(RunError::RunDamaged { id: id.to_string(), why });
    };
    // Two different ones: two equal signals that come together are one.
    let signals = [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT];
    if !send(pid, &signals[..if kill { 2 } else { 1 }], || record::is_active(&folder)) {
        return Err(not_running()?);
    }
    while record::is_active(&folder) && go_on() {
        std::thread::sleep(LOOK);
    }
    state::show(store, id)
}

/// Sends `signals` to process `pid` if `still` holds once the process is pinned down: else its
/// number could be somebody else's by now.
fn send(pid: i32, signals: &[i32], still: impl Fn() -> bool) -> bool {
    use rustix::process::{Pid, Signal};
    let Some(pid) = Pid::from_raw(pid) else { return false };
    #[cfg(target_os = "linux")]
    let pinned = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    if !still() {
        return false;
    }
    signals.iter().all(|signal| {
        let Some(signal) = Signal::from_named_raw(*signal) else { return false };
        #[cfg(target_os = "linux")]
        if let Ok(pinned) = &pinned {
            return rustix::process::pidfd_send_signal(pinned, signal).is_ok();
        }
        rustix::process::kill_process(pid, signal).is_ok()
    })
}

/// What one attempt printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogFile {
    pub place: Place,
    pub attempt: u32,
    pub path: PathBuf,
}

/// The logs of run `id` in the order of their attempts' starts, also those that are being written.
pub fn log_files(store: &Store, id: &RunId) -> Result<Vec<LogFile>, RunError> {
    let folder = state::folder(store, id);
    let mut found: Vec<LogFile> = Vec::new();
    for record in record::read_events(&folder)?.records {
        let RunEvent::Started { place, key, attempt, .. } = record.event else { continue };
        let kept = record::log_path(&folder, &place, attempt);
        let work = Work::at(store.work(key));
        let live = || work.attempts().into_iter().find(|a| a.number == attempt).map(|a| a.log());
        let path = if kept.exists() { Some(kept) } else { live().filter(|path| path.exists()) };
        let Some(path) = path else { continue };
        let file = LogFile { place, attempt, path };
        if !found.contains(&file) {
            found.push(file);
        }
    }
    Ok(found)
}

/// Removes the record of run `id` with its logs. What the run made stays in the store.
pub fn remove(store: &Store, id: &RunId) -> Result<(), RunError> {
    let folder = state::folder(store, id);
    let _lock = record::take_lock(&folder, id)?;
    // Out of the list at once; a kill leaves a folder that no command sees.
    let aside = store.runs_dir().join(format!(".removed-{id}"));
    fs::rename(&folder, &aside).context_during("remove", &folder)?;
    Ok(fs::remove_dir_all(&aside).context_during("remove", &aside)?)
}
