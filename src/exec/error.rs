//! [`ExecError`]: why a stage's process could not be started or followed.

use std::io;
use std::path::{Path, PathBuf};

use olmo_base::{Diagnose, PathError};
use olmo_stage::Compute;
use olmo_stage::compute::Backend;

use crate::exec::backend::build_command;

/// Why a stage's process could not be started or followed. A stage that ran and failed is no
/// error: see [`crate::exec::Ended`].
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    Io(#[from] PathError),
    #[error("the worker, which holds the built-in stages, is not at {}", .0.display())]
    WorkerMissing(PathBuf),
    #[error("`backend` comes to {}, and the worker for it is not at {}", .compute.name(), .path.display())]
    BackendMissing { path: PathBuf, compute: Compute },
    #[error("`backend` comes to {}, and the worker {} was built without it", .compute.name(), .path.display())]
    BackendLacks { path: PathBuf, compute: Compute },
    #[error("stage `{stage}` is to compute on a GPU and asks for none")]
    NoGpuAsked { stage: String },
    #[error("the worker {} cannot say what it holds: {why}", .path.display())]
    WorkerBroken { path: PathBuf, why: String },
    #[error("the program under `command.check` of stage `{stage}` does not answer: {why}")]
    CheckFailed { stage: String, why: String },
    #[error("the worker {} speaks protocol {found}, this engine {known}", .path.display())]
    WorkerProtocol { path: PathBuf, found: u32, known: u32 },
    #[error("the worker {} has no stage `{stage}`", .path.display())]
    WorkerLacks { path: PathBuf, stage: String },
    #[error("stage `{stage}` is not the same in the worker {} as in this engine: they come from different builds", .path.display())]
    WorkerDiffers { path: PathBuf, stage: String },
    #[error("{place} of stage `{stage}` holds `${{{reference}}}`, which does not exist")]
    UnknownReference { stage: String, place: String, reference: String },
    #[error("an argument of stage `{stage}` has a `${{` without its `}}`: {argument}")]
    OpenReference { stage: String, argument: String },
    #[error("stage `{stage}` needs the secret `{name}`, and the environment variable of that name is not set")]
    SecretMissing { stage: String, name: String },
    #[error("its list output `{port}` holds something that is not an item: {why}")]
    BadItem { port: String, why: String },
    #[error("{name} is `{value}`, not a number of {expected}")]
    Variable { name: &'static str, value: String, expected: &'static str },
    #[error("stage `{stage}` asks for {asked} {what}, and this machine has {there}")]
    TooMuch { stage: String, what: &'static str, asked: u64, there: u64 },
    #[error("the leases of this machine, in {}, cannot be used: {source}", .path.display())]
    Leases { path: PathBuf, source: io::Error },
    #[error("a stage on this machine has one process, not {ranks}")]
    Ranks { ranks: u32 },
    #[error("{} is still in use by a stage of an engine that died", .0.display())]
    StillRunning(PathBuf),
}

/// How to make what is missing or old.
const BUILD: &str = "build engine and worker together: cargo build --release";

impl ExecError {
    /// For `map_err`: an I/O failure while `doing` something to `path`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| PathError::during(doing, path, source).into()
    }

    /// The worker for `compute` is not at `path`.
    pub(crate) fn missing(path: PathBuf, compute: Compute) -> Self {
        match compute.backend {
            Backend::Flex => Self::WorkerMissing(path),
            Backend::LibTorch => Self::BackendMissing { path, compute },
        }
    }
}

impl Diagnose for ExecError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io(error) if error.is_no_space() => "exec::no_space",
            Self::Io(_) => "exec::io",
            Self::WorkerMissing(_) => "worker::missing",
            Self::BackendMissing { .. } | Self::BackendLacks { .. } => "worker::no_backend",
            Self::NoGpuAsked { .. } => "exec::no_gpu_asked",
            Self::WorkerBroken { .. } => "worker::broken",
            Self::CheckFailed { .. } => "exec::check",
            Self::WorkerProtocol { .. } | Self::WorkerLacks { .. } | Self::WorkerDiffers { .. } => {
                "worker::other_build"
            }
            Self::UnknownReference { .. } | Self::OpenReference { .. } => "exec::argument",
            Self::SecretMissing { .. } => "exec::secret_missing",
            Self::BadItem { .. } => "stage::bad_item",
            Self::Variable { .. } => "exec::variable",
            Self::TooMuch { .. } => "run::resources",
            Self::Leases { .. } => "run::leases",
            Self::Ranks { .. } => "exec::ranks",
            Self::StillRunning(_) => "exec::still_running",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Io(error) if error.is_no_space() => {
                "free some space on that file system and run the same command again".into()
            }
            Self::Io(error) if error.source.kind() == io::ErrorKind::InvalidInput => {
                format!("remove {} and run the same command again", error.path.display())
            }
            Self::SecretMissing { name, .. } => format!("set it and run the same command again: export {name}=…"),
            Self::Io(_) => return None,
            Self::WorkerMissing(_) => format!("{BUILD}; or set OLMO_PIPE_WORKER to where it is"),
            Self::BackendMissing { compute, .. } | Self::BackendLacks { compute, .. } => {
                format!(
                    "build it: {} (needs Python 3 with pip, and a C++ compiler); or write `backend: flex`",
                    build_command(*compute)
                )
            }
            Self::NoGpuAsked { stage } => {
                format!("give stage `{stage}` one: resources: {{gpus: 1}}; or write `device: cpu`")
            }
            Self::WorkerBroken { why, .. } if why.contains("libtorch") || why.contains("libc10") => {
                "libtorch is not where the worker was built against: scripts/libtorch cpu --build".into()
            }
            Self::WorkerBroken { path, .. }
            | Self::WorkerProtocol { path, .. }
            | Self::WorkerLacks { path, .. }
            | Self::WorkerDiffers { path, .. } => match path.to_string_lossy().ends_with("-libtorch") {
                true => format!("{BUILD} && {} (or cuda)", build_command(Compute::LIBTORCH)),
                false => BUILD.into(),
            },
            Self::UnknownReference { .. } => {
                "there are ${inputs.PORT}, ${outputs.PORT}, ${params.NAME} and ${stage.dir}".into()
            }
            Self::CheckFailed { .. } => {
                "it reads {stage, params, inputs} and prints a list of {level, code, param, message, hint}, as JSON"
                    .into()
            }
            Self::BadItem { port, .. } => {
                format!(
                    "below out/{port}/ make one folder for each item, and nothing else; its name is the item's label"
                )
            }
            Self::OpenReference { .. } => "close it: ${params.NAME}".into(),
            Self::Variable { name, .. } => format!("unset it, or for example export {name}=64"),
            Self::TooMuch { what, .. } => {
                format!(
                    "ask for less (`stages: {{STAGE: {{resources: {{{what}: …}}}}}}`), or run it on a larger machine"
                )
            }
            Self::Leases { .. } => {
                "set OLMO_PIPE_LEASES to a folder on this machine that all its users of olmo-pipe can write to".into()
            }
            Self::Ranks { .. } => "run it on an executor that starts several processes".into(),
            Self::StillRunning(_) => "wait for it to end, then run the same command again".into(),
        };
        Some(text)
    }
}
