//! [`RunError`]: why a run could not start or continue. A stage that fails is not a [`RunError`];
//! it is part of the [`crate::run::api::Report`].

use std::io;
use std::path::PathBuf;

use olmo_base::{Diagnose, PathError};
use olmo_remote::RemoteError;

use crate::exec::ExecError;
use crate::graph::GraphError;
use crate::key::KeyError;
use crate::run::api::{SourceChange, StageFinding};
use crate::store::StoreError;

/// Why a run could not start or continue.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Io(#[from] PathError),
    #[error("cannot start a thread: {source}")]
    Thread { source: io::Error },
    #[error("the experiment has no stage `{name}`")]
    UnknownStage { name: String, known: Vec<String> },
    #[error("input `{port}` of stage `{stage}` is {}, which cannot be read: {source}", .path.display())]
    SourceMissing { stage: String, port: String, path: PathBuf, source: io::Error },
    #[error("stage `{stage}` declares the file {}, which cannot be read: {source}", .path.display())]
    StageFile { stage: String, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("{} {} not in {}, and {option} is given", quoted(.sources), are(.sources), .lock.display())]
    NotLocked { sources: Vec<String>, lock: PathBuf, option: &'static str, command: String },
    #[error("{} {} not in the store, and --offline is given", quoted(.sources), are(.sources))]
    Offline { sources: Vec<String>, command: String },
    #[error("the lock {} cannot be used: {why}", .path.display())]
    LockDamaged { path: PathBuf, why: String },
    #[error("the stages reject their configuration: {}", refusals(.0))]
    Refused(Vec<StageFinding>),
    #[error("a source changed since run {id}: {}", list(.changes))]
    SourcesChanged { id: String, changes: Vec<SourceChange> },
    #[error("the run starts at stage `{stage}`, but `{before}`, which it needs, has no result in the store")]
    NotBefore { stage: String, before: String },
    #[error("there is no run `{text}`")]
    UnknownRun { text: String },
    #[error("several runs begin with `{text}`: {}", .candidates.join(", "))]
    AmbiguousRun { text: String, candidates: Vec<String> },
    #[error("run {id} is still running{}", .pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    RunActive { id: String, pid: Option<u32> },
    #[error("run {id} is not running: it is {status}")]
    NotRunning { id: String, status: &'static str },
    #[error("a result belongs at {}, but olmo-pipe did not create {}", .place.display(), .file.as_ref().map_or_else(|| "it".to_owned(), |file| format!("the file {file} in it")))]
    ForeignResults { place: PathBuf, file: Option<String> },
    #[error("the record of run {id} cannot be used: {why}")]
    RunDamaged { id: String, why: String },
    #[error("the data paths of run {id} contain an environment variable: {why}")]
    VariableGone { id: String, why: String },
}

fn quoted(sources: &[String]) -> String {
    sources.iter().map(|source| format!("`{source}`")).collect::<Vec<_>>().join(", ")
}

fn are(sources: &[String]) -> &'static str {
    if sources.len() == 1 { "is" } else { "are" }
}

fn list(changes: &[SourceChange]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn refusals(findings: &[StageFinding]) -> String {
    let text = |found: &StageFinding| format!("`{}`: {}", found.stage, found.finding.message);
    findings.iter().map(text).collect::<Vec<_>>().join("; ")
}

impl RunError {
    /// Wraps the error of a thread that could not be started, for `map_err`.
    pub(super) fn thread(source: io::Error) -> Self {
        Self::Thread { source }
    }
}

impl Diagnose for RunError {
    fn code(&self) -> &'static str {
        match self {
            Self::Store(e) => e.code(),
            Self::Exec(e) => e.code(),
            Self::Key(_) => "run::params",
            Self::Graph(_) => "run::graph",
            Self::Io(error) if error.is_no_space() => "run::no_space",
            Self::Io(_) => "run::io",
            Self::Thread { .. } => "run::threads",
            Self::UnknownStage { .. } => "run::unknown_stage",
            Self::SourceMissing { .. } => "run::source_missing",
            Self::StageFile { .. } => "run::stage_file",
            Self::Refused(_) => "run::refused",
            Self::Remote(e) => e.code(),
            Self::NotLocked { .. } => "run::not_locked",
            Self::Offline { .. } => "run::offline",
            Self::LockDamaged { .. } => "run::lock",
            Self::SourcesChanged { .. } => "run::source_changed",
            Self::NotBefore { .. } => "run::not_before",
            Self::UnknownRun { .. } => "run::unknown_run",
            Self::AmbiguousRun { .. } => "run::ambiguous_run",
            Self::RunActive { .. } => "run::active",
            Self::NotRunning { .. } => "run::not_running",
            Self::ForeignResults { .. } => "run::foreign_results",
            Self::RunDamaged { .. } => "run::damaged",
            Self::VariableGone { .. } => "run::variable_gone",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Store(e) => return e.hint(),
            Self::Exec(e) => return e.hint(),
            Self::Remote(e) => return e.hint(),
            Self::NotLocked { command, .. } => {
                format!("run `{command}` to fetch and lock what is missing, then commit the file")
            }
            Self::Offline { command, .. } => {
                format!("run `{command}` while the network is up, or copy it into the store with `artifacts import`")
            }
            Self::LockDamaged { .. } => {
                "restore the committed version, or delete the file and run `olmo-pipe lock` to write it again".into()
            }
            Self::Io(error) if error.is_no_space() => "free some space there and run the same command again".into(),
            Self::Thread { .. } => {
                "raise the limit on processes and threads (`ulimit -u`, or `pids` of the container)".into()
            }
            Self::Io(error) if error.source.kind() == io::ErrorKind::InvalidInput => {
                format!("remove {} and run the same command again", error.path.display())
            }
            Self::UnknownStage { name, known } => {
                let near = known.iter().map(|k| (strsim::damerau_levenshtein(k, name), k)).min();
                match near {
                    Some((distance, near)) if distance <= 2 => format!("did you mean `{near}`?"),
                    _ => format!("the stages are: {}", known.join(", ")),
                }
            }
            Self::SourceMissing { .. } => "create it, or correct the path".into(),
            Self::StageFile { .. } => "correct the name under `command: files:` in its stage.yaml".into(),
            Self::SourcesChanged { .. } => {
                "run the experiment again to use the new content, or restore the old content and resume".into()
            }
            Self::NotBefore { .. } => "leave out `--from`: finished stages do not run again".into(),
            Self::UnknownRun { .. } => "`olmo-pipe runs list` lists the runs".into(),
            Self::AmbiguousRun { .. } => "type more of the run's ID".into(),
            Self::RunActive { id, .. } => format!("`olmo-pipe runs show {id}` shows its progress"),
            Self::NotRunning { id, .. } => format!("`olmo-pipe runs show {id}` shows how it ended"),
            Self::ForeignResults { place, .. } => format!(
                "move it away (mv '{0}' '{0}.mine') and run the same command again; or give the experiment another name",
                place.display()
            ),
            Self::RunDamaged { .. } => "run the experiment again: finished stages do not run again".into(),
            Self::VariableGone { .. } => "set it to its value during the run and try again: export NAME=…".into(),
            Self::Key(_) | Self::Graph(_) | Self::Io(_) | Self::Refused(_) => return None,
        };
        Some(text)
    }
}
