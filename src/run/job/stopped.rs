//! [`Stopped`]: why an attempt ended early.

use olmo_base::{ArtifactId, Diagnose};
use olmo_stage::Failure;

use crate::spec::FailureClass;
use crate::store::StoreError;

/// Why an attempt ended early.
pub(super) enum Stopped {
    Failed(Failure, FailureClass),
    Interrupted,
    Damaged(ArtifactId, Box<StoreError>),
}

impl<E: Diagnose> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(Failure::from(&error), FailureClass::Error)
    }
}

pub(super) fn failed(code: &str, message: impl Into<String>, hint: Option<&str>) -> Stopped {
    let failure = Failure { code: code.into(), message: message.into(), hint: hint.map(str::to_owned) };
    Stopped::Failed(failure, FailureClass::Error)
}

/// Why input `artifact` could not be handed over: it is damaged, or another error occurred.
pub(super) fn damaged(artifact: ArtifactId, error: StoreError) -> Stopped {
    if error.is_damage() { Stopped::Damaged(artifact, Box::new(error)) } else { error.into() }
}
