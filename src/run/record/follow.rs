//! Works with runs of other processes through their records: watches a run ([`attach`]), stops it
//! ([`cancel`]), finds its logs ([`log_files`]) and removes it ([`remove`]). It never writes into a
//! record that an engine works on.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use olmo_base::{IoContext as _, journal};

use crate::exec::Work;
use crate::run::api::{Report, RunId, StageFailure, Watch};
use crate::run::error::RunError;
use crate::run::event::{Place, Record, RunEvent};
use crate::run::record::folder as record;
use crate::run::record::state::{self, RunState};
use crate::store::Store;

/// How often a record is read.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How watching a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Attached {
    /// The run ended. The duration counts from when its last engine started.
    Ended(Report, Duration),
    /// Its engine died; `resume` continues the run.
    Died,
    /// The watcher stopped watching; the run continues.
    Detached,
}

/// Reports the events of run `id` to `watch`, from the start of its last engine to the end of the
/// run. Calls `keep_watching` ten times a second and returns when it says no.
pub fn attach(
    store: &Store,
    id: &RunId,
    watch: &mut dyn Watch,
    keep_watching: &mut dyn FnMut() -> bool,
) -> Result<Attached, RunError> {
    let folder = state::folder(store, id);
    let path = folder.join(record::EVENTS);
    let mut tail = journal::Tail::<Record>::new(&path);
    let mut failures = Vec::new();
    let mut began = None;
    loop {
        // Checked before the events are read, so that no event written before the end is missed.
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
        if !keep_watching() {
            return Ok(Attached::Detached);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Asks the engine of run `id` to stop after its stages have saved their state, or immediately with
/// `kill`. Waits for its end while `keep_watching` returns true, then returns the state of the run.
pub fn cancel(
    store: &Store,
    id: &RunId,
    kill: bool,
    keep_watching: &mut dyn FnMut() -> bool,
) -> Result<RunState, RunError> {
    let folder = state::folder(store, id);
    let not_running = || -> Result<RunError, RunError> {
        Ok(RunError::NotRunning { id: id.to_string(), status: state::show(store, id)?.status.word() })
    };
    if !record::is_active(&folder) {
        return Err(not_running()?);
    }
    let Some(pid) = record::engine(&folder).and_then(|pid| i32::try_from(pid).ok()) else {
        let why = "it does not name the process that works on it".to_owned();
        return Err(RunError::RunDamaged { id: id.to_string(), why });
    };
    // Two different signals, since two pending signals of the same kind would be delivered once.
    let signals = [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT];
    if !send(pid, &signals[..if kill { 2 } else { 1 }], || record::is_active(&folder)) {
        return Err(not_running()?);
    }
    while record::is_active(&folder) && keep_watching() {
        std::thread::sleep(POLL_INTERVAL);
    }
    state::show(store, id)
}

/// Sends `signals` to process `pid`. The process is pinned first, and `still` is checked after
/// that, because the PID could have been reused by another process.
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

/// The output of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogFile {
    pub place: Place,
    pub attempt: u32,
    pub path: PathBuf,
}

/// The logs of run `id`, in the order in which the attempts started, including those still being
/// written.
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

/// Removes the record of run `id` and its logs. The artifacts that the run made stay in the store.
pub fn remove(store: &Store, id: &RunId) -> Result<(), RunError> {
    let folder = state::folder(store, id);
    let _lock = record::take_lock(&folder, id)?;
    // The rename removes the run from the list in one step. If the process is killed after it, the
    // hidden folder that remains is ignored by all commands.
    let aside = store.runs_dir().join(format!(".removed-{id}"));
    fs::rename(&folder, &aside).context_during("remove", &folder)?;
    Ok(fs::remove_dir_all(&aside).context_during("remove", &aside)?)
}
