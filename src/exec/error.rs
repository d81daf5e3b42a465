//! [`ExecError`]: why a stage's process could not be started or watched.

use std::io;
use std::path::{Path, PathBuf};

use olmo_base::{Diagnose, PathError};
use olmo_stage::Compute;
use olmo_stage::compute::Backend;

use crate::exec::backend::build_command;

/// Why a stage's process could not be started or watched. A stage that ran and failed is not an
/// [`ExecError`]: see [`crate::exec::Ended`].
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    Io(#[from] PathError),
    #[error("the worker, which has the built-in stages, was not found at {}", .0.display())]
    WorkerMissing(PathBuf),
    #[error("`backend` resolved to {}, but its worker was not found at {}", .compute.name(), .path.display())]
    BackendMissing { path: PathBuf, compute: Compute },
    #[error("`backend` resolved to {}, but the worker {} was built without it", .compute.name(), .path.display())]
    BackendNotBuilt { path: PathBuf, compute: Compute },
    #[error("stage `{stage}` computes on a GPU, but requests none")]
    NoGpuRequested { stage: String },
    #[error("the worker {} does not work: {why}", .path.display())]
    WorkerBroken { path: PathBuf, why: String },
    #[error("the check program (`command.check`) of stage `{stage}` gave no answer: {why}")]
    CheckFailed { stage: String, why: String },
    #[error("the worker {} uses protocol {found}, but this engine uses {known}", .path.display())]
    WorkerProtocol { path: PathBuf, found: u32, known: u32 },
    #[error("the worker {} has no stage `{stage}`", .path.display())]
    WorkerLacks { path: PathBuf, stage: String },
    #[error("stage `{stage}` differs between the worker {} and this engine: they are from different builds", .path.display())]
    WorkerDiffers { path: PathBuf, stage: String },
    #[error("{place} of stage `{stage}` contains `${{{reference}}}`, which does not exist")]
    UnknownReference { stage: String, place: String, reference: String },
    #[error("an argument of stage `{stage}` has a `${{` without a `}}`: {argument}")]
    OpenReference { stage: String, argument: String },
    #[error("stage `{stage}` needs the secret `{name}`, but that environment variable is not set")]
    SecretMissing { stage: String, name: String },
    #[error("its list output `{port}` contains something that is not an item: {why}")]
    BadItem { port: String, why: String },
    #[error("{name} is `{value}`, not a number of {expected}")]
    Variable { name: &'static str, value: String, expected: &'static str },
    #[error("stage `{stage}` requests {requested} {what}, but this machine has {available}")]
    TooMuch { stage: String, what: &'static str, requested: u64, available: u64 },
    #[error("the leases of this machine, in {}, cannot be used: {source}", .path.display())]
    Leases { path: PathBuf, source: io::Error },
    #[error("{} is still in use by a stage of an engine that died", .0.display())]
    StillRunning(PathBuf),
}

/// How to build a worker that is missing or outdated.
const BUILD: &str = "build the engine and the worker together: cargo build --release";

impl ExecError {
    /// Wraps an I/O error that occurred while `doing` something to `path`, for `map_err`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| PathError::during(doing, path, source).into()
    }

    /// The error for a worker for `compute` that is not at `path`.
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
            Self::BackendMissing { .. } | Self::BackendNotBuilt { .. } => "worker::no_backend",
            Self::NoGpuRequested { .. } => "exec::no_gpu_asked",
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
            Self::WorkerMissing(_) => format!("{BUILD}; or set OLMO_PIPE_WORKER to its path"),
            Self::BackendMissing { compute, .. } | Self::BackendNotBuilt { compute, .. } => {
                format!(
                    "build it: {} (needs Python 3 with pip, and a C++ compiler); or set `backend: flex`",
                    build_command(*compute)
                )
            }
            Self::NoGpuRequested { stage } => {
                format!("request one for stage `{stage}`: resources: {{gpus: 1}}; or set `device: cpu`")
            }
            Self::WorkerBroken { why, .. } if why.contains("libtorch") || why.contains("libc10") => {
                "libtorch has moved since the worker was built: scripts/libtorch cpu --build".into()
            }
            Self::WorkerBroken { path, .. }
            | Self::WorkerProtocol { path, .. }
            | Self::WorkerLacks { path, .. }
            | Self::WorkerDiffers { path, .. } => match path.to_string_lossy().ends_with("-libtorch") {
                true => format!("{BUILD} && {} (or cuda)", build_command(Compute::LIBTORCH)),
                false => BUILD.into(),
            },
            Self::UnknownReference { .. } => {
                "use ${inputs.PORT}, ${outputs.PORT}, ${params.NAME} or ${stage.dir}".into()
            }
            Self::CheckFailed { .. } => {
                "it must read {stage, params, inputs} and print a list of {level, code, param, message, hint}, as JSON"
                    .into()
            }
            Self::BadItem { port, .. } => {
                format!("make only one folder for each item below out/{port}/; the folder's name is the item's label")
            }
            Self::OpenReference { .. } => "close it: ${params.NAME}".into(),
            Self::Variable { name, .. } => format!("unset it, or set it to a number, for example: export {name}=64"),
            Self::TooMuch { what, .. } => {
                format!(
                    "request less (`stages: {{STAGE: {{resources: {{{what}: …}}}}}}`), or run it on a larger machine"
                )
            }
            Self::Leases { .. } => {
                "set OLMO_PIPE_LEASES to a folder on this machine that all users of olmo-pipe can write to".into()
            }
            Self::StillRunning(_) => "wait for it to end, then run the same command again".into(),
        };
        Some(text)
    }
}
