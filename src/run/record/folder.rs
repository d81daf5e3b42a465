//! [`RunRecord`]: the folder `runs-v1/ID/` that records what a run was and what happened in it.
//!
//! ```text
//! resolved.json   sealed: format, the resolved experiment, the targets, the digests of its sources
//! events.jsonl    journal of Record; the run's state is a fold over it
//! environment.jsonl   journal of Environment: host, commit and worker of each engine that ran a stage
//! lock            held by flock while an engine works on the run
//! logs/           STAGE[.ITEM].N.log: the output of attempt N
//! ```
//!
//! One engine at a time writes a record; others may read it at any moment. A record appears under
//! its name only when it is complete. Every file that affects decisions is checksummed: a damaged
//! record is reported and never continued.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use olmo_base::files::{self, Durability};
use olmo_base::units::now_ms;
use olmo_base::{IoContext as _, LockedFile, PathError, journal, lock};
use serde::{Deserialize, Serialize};

use crate::exec::Worker;
use crate::run::api::{RunId, Selection};
use crate::run::error::RunError;
use crate::run::event::{Place, Record, RunEvent};
use crate::run::record::environment::{self, EnvironmentRecorder};
use crate::run::record::variables;
use crate::run::sources::Sources;
use crate::spec::Resolved;
use crate::store::{RunBeginning, Store, seal};

/// The format of a record. Increased when an older build would misread a new record. Format 1 had
/// an older form of the resolved experiment, format 2 held the values of environment variables in
/// paths, and format 3 had no seal.
const FORMAT: u32 = 4;
/// The first format with a seal.
const SEALED_SINCE: u32 = 4;
/// The kind of file, as written in its seal.
const KIND: &str = "run";
/// Largest `resolved.json` that is read, in bytes: about a million stages.
const MAX_RESOLVED: u64 = 4 << 30;
const RESOLVED: &str = "resolved.json";
/// The name of [`RESOLVED`] in format 1.
const RESOLVED_1: &str = "resolved.yaml";
pub(super) const EVENTS: &str = "events.jsonl";
const LOCK: &str = "lock";

/// The content of `resolved.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    format: u32,
    pub resolved: Resolved,
    /// The stages requested by name. Empty means all.
    targets: Vec<String>,
    /// The whole selection, if it has more than targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selection: Option<Selection>,
    pub sources: Sources,
}

impl Recorded {
    /// The stages that the run selected.
    pub fn selection(&self) -> Selection {
        self.selection.clone().unwrap_or_else(|| Selection::only(&self.targets))
    }
}

/// The record of a run that this process works on.
pub(crate) struct RunRecord {
    pub id: RunId,
    folder: PathBuf,
    events: journal::Writer<Record>,
    /// The file of `events`, to sync it.
    events_file: File,
    /// Whether an event that must survive a power failure was appended but not synced yet.
    unsynced: bool,
    /// The project's root.
    root: PathBuf,
    /// Started with the first stage that starts.
    environment: Option<EnvironmentRecorder>,
    /// Protects the run's objects in the store until its record shows that it is running.
    beginning: Option<RunBeginning>,
    _lock: LockedFile,
}

impl RunRecord {
    /// Creates the record of a new run.
    pub(crate) fn create(
        store: &Store,
        resolved: &Resolved,
        selection: &Selection,
        sources: &Sources,
        beginning: RunBeginning,
    ) -> Result<Self, RunError> {
        // No other process sees a record before it is complete and locked.
        let unfinished = store.temporary()?;
        fs::create_dir(&unfinished).context_during("make the folder", &unfinished)?;
        let mut id = RunId::new(SystemTime::now());
        let lock = take_lock(&unfinished, &id)?;
        let recorded = Recorded {
            format: FORMAT,
            resolved: resolved.clone(),
            targets: selection.targets.clone(),
            selection: (*selection != Selection::only(&selection.targets)).then(|| selection.clone()),
            sources: sources.clone(),
        };
        let unwritten = |e: serde_json::Error| RunError::RunDamaged {
            id: "(new)".into(),
            why: format!("it cannot be written: {e}"),
        };
        let mut text = serde_json::to_string(&recorded).map_err(unwritten)?;
        if !resolved.variables.is_empty() || text.contains("${env.") {
            let mut value = serde_json::from_str(&text).map_err(unwritten)?;
            variables::hide(&mut value, &resolved.variables);
            text = value.to_string();
        }
        let path = unfinished.join(RESOLVED);
        let sealed = seal::seal(KIND, RESOLVED, &text);
        files::write(&path, sealed.as_bytes(), Durability::Machine).context_during("write", &path)?;
        let folder = loop {
            let folder = store.runs_dir().join(id.as_str());
            match fs::rename(&unfinished, &folder) {
                Ok(()) => break folder,
                // Another process took the same ID in the same instant.
                Err(_) if folder.symlink_metadata().is_ok() => {
                    std::thread::sleep(Duration::from_micros(50));
                    id = RunId::new(SystemTime::now());
                }
                Err(e) => return Err(PathError::during("make the folder", &folder, e).into()),
            }
        };
        Self::with_lock(id, folder, resolved.root.clone(), lock, beginning)
    }

    /// Reopens the record of run `id`. Also returns the content of its `resolved.json`.
    pub(crate) fn reopen(store: &Store, id: &RunId) -> Result<(Self, Recorded), RunError> {
        let folder = store.runs_dir().join(id.as_str());
        let beginning = store.begin_run()?;
        let lock = take_lock(&folder, id)?;
        let recorded = read_recorded(&folder, id)?;
        Ok((Self::with_lock(id.clone(), folder, recorded.resolved.root.clone(), lock, beginning)?, recorded))
    }

    fn with_lock(
        id: RunId,
        folder: PathBuf,
        root: PathBuf,
        lock: LockedFile,
        beginning: RunBeginning,
    ) -> Result<Self, RunError> {
        let logs = folder.join("logs");
        fs::create_dir_all(&logs).context_during("make the folder", &logs)?;
        let path = folder.join(EVENTS);
        let events = journal::Writer::open(&path, false).map_err(|e| unreadable(&id, &path, e))?;
        let events_file = File::open(&path).context_during("open", &path)?;
        Ok(Self {
            id,
            folder,
            events,
            events_file,
            unsynced: false,
            root,
            environment: None,
            beginning: Some(beginning),
            _lock: lock,
        })
    }

    /// Appends an event. An event that records finished work is on disk after the next
    /// [`RunRecord::sync`]. An event that only informs, or that the next run would find again, may
    /// be lost in a power failure.
    pub(crate) fn append(&mut self, event: &RunEvent) -> Result<(), RunError> {
        if matches!(event, RunEvent::Started { .. }) && self.environment.is_none() {
            self.environment = Some(EnvironmentRecorder::start(&self.folder, &self.root, Worker::default_path()));
        }
        let record = Record { at: now_ms(), event: event.clone() };
        let lasting = !matches!(
            event,
            RunEvent::Cached { .. }
                | RunEvent::Waiting { .. }
                | RunEvent::Started { .. }
                | RunEvent::Progress { .. }
                | RunEvent::Metrics { .. }
                | RunEvent::Message { .. }
        );
        self.unsynced |= lasting;
        let appended = match event {
            RunEvent::Cached { .. } => self.events.queue(&record),
            _ => self.events.append(&record),
        };
        if matches!(event, RunEvent::Opened { .. }) {
            self.beginning = None;
        }
        Ok(appended.context_during("write", self.folder.join(EVENTS))?)
    }

    /// Writes all appended events to disk with one sync.
    pub(crate) fn sync(&mut self) -> Result<(), RunError> {
        self.events.flush().context_during("write", self.folder.join(EVENTS))?;
        if !std::mem::take(&mut self.unsynced) {
            return Ok(());
        }
        Ok(self.events_file.sync_data().context_during("write", self.folder.join(EVENTS))?)
    }

    /// The run's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Path of the log of attempt `attempt` at `place`, in the record in `folder`.
pub fn log_path(folder: &Path, place: &Place, attempt: u32) -> PathBuf {
    let item = place.item.as_ref().map(|item| format!(".{item}")).unwrap_or_default();
    folder.join("logs").join(format!("{}{item}.{attempt}.log", place.stage))
}

/// Locks the record in `folder`. Retries for half a second, since a process that lists runs also
/// holds the lock for a moment.
pub(super) fn take_lock(folder: &Path, id: &RunId) -> Result<LockedFile, RunError> {
    let path = folder.join(LOCK);
    let file = files::open_or_create_regular(&path).context_during("open", &path)?;
    let lock = LockedFile::from_file_within(file, Duration::from_millis(500), Duration::from_millis(5));
    let Some(lock) = lock.context_during("lock", &path)? else {
        return Err(RunError::RunActive { id: id.to_string(), pid: engine(folder) });
    };
    lock.write_pid().context_during("write", &path)?;
    Ok(lock)
}

/// The PID of the engine that works on the run in `folder`, or last did.
pub(super) fn engine(folder: &Path) -> Option<u32> {
    lock::holder(&folder.join(LOCK))
}

/// Whether an engine currently works on the run in `folder`.
pub(super) fn is_active(folder: &Path) -> bool {
    lock::is_locked(&folder.join(LOCK))
}

/// Reads `resolved.json` of the run in `folder`, or the `resolved.yaml` of format 1.
pub fn read_recorded(folder: &Path, id: &RunId) -> Result<Recorded, RunError> {
    read_recorded_with(folder, id, true)
}

/// Like [`read_recorded`], but keeps the names of environment variables in paths. For callers that
/// need no paths and may not have the variables set.
pub fn read_recorded_as_written(folder: &Path, id: &RunId) -> Result<Recorded, RunError> {
    read_recorded_with(folder, id, false)
}

fn read_recorded_with(folder: &Path, id: &RunId, fill_in: bool) -> Result<Recorded, RunError> {
    let damaged = |why: String| RunError::RunDamaged { id: id.to_string(), why };
    let new = folder.join(RESOLVED);
    let path = if new.exists() { new } else { folder.join(RESOLVED_1) };
    let text =
        files::read_regular_text(&path, MAX_RESOLVED).map_err(|e| damaged(format!("{}: {e}", path.display())))?;
    // Files from before the seal start with their format number.
    let is_sealed = !path.ends_with(RESOLVED_1) && !text.starts_with("{\"format\":");
    let text = match is_sealed {
        true => {
            seal::open(KIND, RESOLVED, text.as_bytes()).map_err(|why| damaged(format!("{}: {why}", path.display())))?
        }
        false => text.as_str(),
    };
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    // All JSON is also YAML, but the JSON parser is many times faster.
    let yaml = path.ends_with(RESOLVED_1);
    let head: Result<Head, String> = match yaml {
        true => serde_yaml::from_str(text).map_err(|e| e.to_string()),
        false => serde_json::from_str(text).map_err(|e| e.to_string()),
    };
    let head = head.map_err(|e| damaged(format!("{}: {e}", path.display())))?;
    if head.format == 0 || head.format > FORMAT {
        return Err(damaged(format!("it has format {}, but this build reads 1 to {FORMAT}", head.format)));
    }
    if !is_sealed && head.format >= SEALED_SINCE {
        return Err(damaged(format!("{}: its seal is missing", path.display())));
    }
    let recorded: Result<Recorded, String> = match yaml {
        true => serde_yaml::from_str(text).map_err(|e| e.to_string()),
        false if fill_in && head.format > 2 && text.contains("${env.") => {
            let mut value = serde_json::from_str(text).map_err(|e| damaged(format!("{}: {e}", path.display())))?;
            variables::fill_in(&mut value).map_err(|why| RunError::VariableGone { id: id.to_string(), why })?;
            serde_json::from_value(value).map_err(|e| e.to_string())
        }
        false => serde_json::from_str(text).map_err(|e| e.to_string()),
    };
    let recorded = recorded.map_err(|e| damaged(format!("{}: {e}", path.display())))?;
    Ok(match head.format {
        1 => Recorded { sources: recorded.sources.upgrade_format_1(&recorded.resolved), ..recorded },
        _ => recorded,
    })
}

/// Reads the events of the run in `folder` so far, up to the first damaged line.
pub fn read_events(folder: &Path) -> Result<journal::Contents<Record>, RunError> {
    let path = folder.join(EVENTS);
    Ok(journal::read_prefix(&path).context_during("read", &path)?)
}

/// The error for the journal at `path` of run `id`: it is damaged, or it cannot be opened.
fn unreadable(id: &RunId, path: &Path, error: std::io::Error) -> RunError {
    let is_damage = journal::damage(&error).is_some() || error.kind() == std::io::ErrorKind::InvalidInput;
    if !is_damage {
        return PathError::during("open", path, error).into();
    }
    RunError::RunDamaged { id: id.to_string(), why: format!("{}: {error}", path.display()) }
}

/// Damage in the record of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordProblem {
    pub id: RunId,
    pub path: PathBuf,
    pub why: String,
}

impl std::fmt::Display for RecordProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the record of run {} is damaged: {}: {}", self.id, self.path.display(), self.why)
    }
}

/// Moves damaged files to `quarantine/`. If the events or the stages of a run cannot be read, moves
/// the whole record.
///
/// # Errors
/// An I/O error.
pub fn set_damaged_records_aside(store: &Store, problems: &[RecordProblem]) -> Result<(), RunError> {
    for problem in problems {
        let folder = store.runs_dir().join(problem.id.as_str());
        // Skip a record that an engine still works on, or that was already moved as a whole.
        if is_active(&folder) || problem.path.symlink_metadata().is_err() && folder.symlink_metadata().is_err() {
            continue;
        }
        match problem.path.ends_with(environment::FILE) {
            true => store.set_aside(&problem.path, &format!("{}.environment.jsonl", problem.id))?,
            false => store.set_aside(&folder, &format!("{}.run", problem.id))?,
        };
    }
    Ok(())
}

/// Checks the seals and checksums of all run records.
///
/// # Errors
/// The folder of the runs cannot be read.
pub fn verify(store: &Store) -> Result<Vec<RecordProblem>, RunError> {
    let mut problems = Vec::new();
    for id in all(store)? {
        let folder = store.runs_dir().join(id.as_str());
        let mut report = |path: PathBuf, why: String| problems.push(RecordProblem { id: id.clone(), path, why });
        // Whether a variable is set does not matter for the record's integrity.
        if let Err(RunError::RunDamaged { why, .. }) = read_recorded_as_written(&folder, &id) {
            let place = format!("{}: ", folder.join(RESOLVED).display());
            report(folder.join(RESOLVED), why.strip_prefix(&place).unwrap_or(&why).to_owned());
        }
        match read_events(&folder).map(|events| events.damage) {
            Ok(None) => {}
            Ok(Some(damage)) => report(folder.join(EVENTS), damage),
            Err(e) => report(folder.join(EVENTS), e.to_string()),
        }
        match environment::read(&folder).map(|contents| contents.damage) {
            Ok(None) => {}
            Ok(Some(damage)) => report(folder.join(environment::FILE), damage),
            Err(e) => report(folder.join(environment::FILE), e.to_string()),
        }
    }
    Ok(problems)
}

/// All runs in `store`, oldest first.
pub fn all(store: &Store) -> Result<Vec<RunId>, RunError> {
    let runs = store.runs_dir();
    let entries = match fs::read_dir(&runs) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context_during("read the folder", &runs)?,
    };
    let mut ids: Vec<RunId> = entries.flatten().filter_map(|e| RunId::parse(e.file_name().to_str()?)).collect();
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_format_1_is_still_read_and_a_newer_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let id = RunId::parse("20260131-235959-8000").unwrap();
        let old = include_str!("../../../tests/fixtures/formats/run-1.resolved.yaml");
        fs::write(dir.path().join("resolved.yaml"), old).unwrap();
        let recorded = read_recorded(dir.path(), &id).unwrap();
        let stage = recorded.resolved.stages.get("words").unwrap();
        assert_eq!(stage.description.contract.stage, "word-frequency");
        let command = recorded.sources.command("word-frequency").expect("found by its contract");
        assert_eq!(command.files.keys().collect::<Vec<_>>(), ["count.sh"]);

        // The same experiment as this build writes it, with each contract once.
        let text = serde_json::to_string(&Recorded { format: FORMAT, ..recorded.clone() }).unwrap();
        let sealed = |text: &str| seal::seal(KIND, RESOLVED, text);
        fs::write(dir.path().join("resolved.json"), sealed(&text)).unwrap();
        assert_eq!(read_recorded(dir.path(), &id).unwrap().resolved, recorded.resolved);
        fs::write(dir.path().join("resolved.json"), &text).unwrap();
        assert!(read_recorded(dir.path(), &id).unwrap_err().to_string().contains("seal"), "without its seal");
        let newer = text.replacen(&format!("{{\"format\":{FORMAT}"), "{\"format\":99", 1);
        fs::write(dir.path().join("resolved.json"), sealed(&newer)).unwrap();
        let refused = read_recorded(dir.path(), &id).unwrap_err().to_string();
        assert!(refused.contains("format 99"), "{refused}");
    }
}
