//! [`StageError`]: why a stage did not succeed.

use std::io;
use std::path::Path;

use olmo_base::{Diagnose, PathError};

use crate::protocol::{Failure, FailureClass, Outcome, PROTOCOL_VERSION, StageResult};

/// Why a stage did not succeed.
#[derive(Debug)]
pub enum StageError {
    Failed(Failure),
    /// The stage noticed that it ran out of memory.
    OutOfMemory(Failure),
    /// The stage was asked to stop and has saved its state.
    Interrupted,
}

impl StageError {
    /// Creates a failure with a stable `code` (`area::reason`) and a message.
    pub fn fail(code: &str, message: impl Into<String>) -> Self {
        Self::Failed(Failure { code: code.into(), message: message.into(), hint: None })
    }

    /// Like [`StageError::fail`], for a stage that ran out of memory.
    pub fn out_of_memory(code: &str, message: impl Into<String>) -> Self {
        Self::OutOfMemory(Failure { code: code.into(), message: message.into(), hint: None })
    }

    /// Adds a hint.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        self.map(|failure| Failure { hint: Some(hint.into()), ..failure })
    }

    /// Puts what the error is about before the message.
    pub fn about(self, what: &str) -> Self {
        self.map(|failure| Failure { message: format!("{what}: {}", failure.message), ..failure })
    }

    fn map(self, change: impl FnOnce(Failure) -> Failure) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(change(failure)),
            Self::OutOfMemory(failure) => Self::OutOfMemory(change(failure)),
            Self::Interrupted => Self::Interrupted,
        }
    }

    /// Wraps an I/O error on `path`.
    pub fn io(path: &Path, error: io::Error) -> Self {
        PathError::new(path, error).into()
    }
}

impl<E: Diagnose> From<E> for StageError {
    fn from(error: E) -> Self {
        Self::Failed(Failure::from(&error))
    }
}

impl StageResult {
    /// The result of a stage that ended with `ended`.
    pub(crate) fn of(ended: Result<(), StageError>) -> Self {
        let (outcome, failure, class) = match ended {
            Ok(()) => (Outcome::Succeeded, None, FailureClass::Error),
            Err(StageError::Interrupted) => (Outcome::Interrupted, None, FailureClass::Preempted),
            Err(StageError::Failed(failure)) => (Outcome::Failed, Some(failure), FailureClass::Error),
            Err(StageError::OutOfMemory(failure)) => (Outcome::Failed, Some(failure), FailureClass::Oom),
        };
        Self { protocol: PROTOCOL_VERSION, outcome, failure, class }
    }
}
