//! [`Stopped`]: why an attempt ended early.

use olmo_base::{ArtifactId, Diagnose as _};
use olmo_stage::Failure;

use crate::exec::ExecError;
use crate::run::error::RunError;
use crate::spec::FailureClass;
use crate::store::StoreError;

/// Why an attempt ended early.
pub(super) enum Stopped {
    Failed(Failure, FailureClass),
    Interrupted,
    Damaged(ArtifactId, Box<StoreError>),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        let failure = Failure { code: error.code().into(), message: error.to_string(), hint: error.hint() };
        Self::Failed(failure, FailureClass::Error)
    }
}

impl From<ExecError> for Stopped {
    fn from(error: ExecError) -> Self {
        let failure = Failure { code: error.code().into(), message: error.to_string(), hint: error.hint() };
        Self::Failed(failure, FailureClass::Error)
    }
}

impl From<RunError> for Stopped {
    fn from(error: RunError) -> Self {
        let failure = Failure { code: error.code().into(), message: error.to_string(), hint: error.hint() };
        Self::Failed(failure, FailureClass::Error)
    }
}

pub(super) fn failed(code: &str, message: impl Into<String>, hint: Option<&str>) -> Stopped {
    let failure = Failure { code: code.into(), message: message.into(), hint: hint.map(str::to_owned) };
    Stopped::Failed(failure, FailureClass::Error)
}

/// Whether `error` means that an artifact is damaged, so that its maker has to run again.
pub(crate) fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Corrupt { .. }
            | StoreError::MissingObject { .. }
            | StoreError::DamagedManifest { .. }
            | StoreError::NoArtifact { .. }
    )
}

/// Why input `artifact` could not be handed over: it is damaged, or another error occurred.
pub(super) fn damaged(artifact: ArtifactId, error: StoreError) -> Stopped {
    if crate::run::job::stopped::is_damage(&error) { Stopped::Damaged(artifact, Box::new(error)) } else { error.into() }
}
