//! [`RunError`]: why a run could not begin or go on. A stage that fails is no error but a
//! result: see [`crate::run::api::Report`].

use std::io;
use std::path::PathBuf;

use olmo_base::{Diagnose, PathError};
use olmo_remote::RemoteError;

use crate::exec::ExecError;
use crate::graph::GraphError;
use crate::key::KeyError;
use crate::run::api::{SourceChange, StageFinding};
use crate::store::StoreError;

/// Why a run could not begin or go on.
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
    #[error("the system starts no thread: {source}")]
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
    #[error("the stages refuse what they are asked to do: {}", refusals(.0))]
    Refused(Vec<StageFinding>),
    #[error("a source changed since run {id}: {}", list(.changes))]
    SourcesChanged { id: String, changes: Vec<SourceChange> },
    #[error("stage `{before}`, which `{stage}` needs, has no result in the store, and the run begins with `{stage}`")]
    NotBefore { stage: String, before: String },
    #[error("there is no run `{text}`")]
    UnknownRun { text: String },
    #[error("several runs begin with `{text}`: {}", .candidates.join(", "))]
    AmbiguousRun { text: String, candidates: Vec<String> },
    #[error("run {id} is still going on{}", .pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    RunActive { id: String, pid: Option<u32> },
    #[error("run {id} is not going on: it is {status}")]
    NotRunning { id: String, status: &'static str },
    #[error("{} is where a result goes, and olmo-pipe did not make {}", .place.display(), .file.as_ref().map_or_else(|| "it".to_owned(), |file| format!("the file {file} in it")))]
    ForeignResults { place: PathBuf, file: Option<String> },
    #[error("the record of run {id} cannot be used: {why}")]
    RunDamaged { id: String, why: String },
    #[error("the data of run {id} lies under an environment variable: {why}")]
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
    /// For `map_err`: a thread that could not be started.
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
                format!("`{command}` fetches what is missing and writes it there; commit the file")
            }
            Self::Offline { command, .. } => {
                format!(
                    "`{command}` fetches it while there is a network; or copy it into the store by `artifacts import`"
                )
            }
            Self::LockDamaged { .. } => {
                "put back the version of it that was committed, or remove it and let `olmo-pipe lock` write it anew"
                    .into()
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
                    _ => format!("there are: {}", known.join(", ")),
                }
            }
            Self::SourceMissing { .. } => "put it there, or write the right path".into(),
            Self::StageFile { .. } => "write the right name under `command: files:` in its stage.yaml".into(),
            Self::SourcesChanged { .. } => {
                "`olmo-pipe run` the experiment to use the new content, or put the old one back and resume".into()
            }
            Self::NotBefore { .. } => "leave `--from` out: whatever is finished is not run again".into(),
            Self::UnknownRun { .. } => "`olmo-pipe runs list` shows what there is".into(),
            Self::AmbiguousRun { .. } => "write some more of it".into(),
            Self::RunActive { id, .. } => format!("`olmo-pipe runs show {id}` shows how far it is"),
            Self::NotRunning { id, .. } => format!("`olmo-pipe runs show {id}` shows how it ended"),
            Self::ForeignResults { place, .. } => format!(
                "move it away (mv '{0}' '{0}.mine') and run the same command again; or give the experiment another name",
                place.display()
            ),
            Self::RunDamaged { .. } => "run the experiment again: whatever is finished is not run twice".into(),
            Self::VariableGone { .. } => "set it as it was for the run, and try again: export NAME=…".into(),
            Self::Key(_) | Self::Graph(_) | Self::Io(_) | Self::Refused(_) => return None,
        };
        Some(text)
    }
}
