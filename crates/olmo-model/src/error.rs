//! Errors of a model: its config, files and inputs.

use std::path::{Path, PathBuf};

use olmo_base::{Diagnose, PathError};

/// An error of this crate. Each message says what happened, where and why; `hint` says how to fix
/// it, if known.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The config does not describe a valid model. Lists all problems.
    #[error("the model config is not valid: {}", .0.join("; "))]
    Config(Vec<String>),
    /// Token ids, masks or shapes that do not fit the model.
    #[error("{0}")]
    Input(String),
    /// A model folder with unexpected content.
    #[error("{}: {reason}", .path.display())]
    Folder {
        /// The file or folder at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Keys of a Hugging Face config that are missing, invalid or unknown. Lists all of them.
    #[error("{}: {}", .path.display(), .problems.join("; "))]
    NotUnderstood {
        /// The config file.
        path: PathBuf,
        /// One sentence per key.
        problems: Vec<String>,
    },
    /// The tensors of a file differ from the config. Lists all differences.
    #[error("{}: the tensors do not fit the config: {}", .path.display(), .problems.join("; "))]
    Tensors {
        /// The file with the tensors.
        path: PathBuf,
        /// One sentence for each tensor that is missing, unknown or misshapen.
        problems: Vec<String>,
    },
    /// The config cannot be expressed as a Hugging Face architecture.
    #[error("this config cannot be exported to Hugging Face: {}", .0.join("; "))]
    NotExportable(Vec<String>),
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] PathError),
    /// The tensor backend failed; a bug in this program.
    #[error("the tensor backend failed: {0}")]
    Backend(String),
}

impl ModelError {
    pub(crate) fn folder(path: &Path, reason: impl Into<String>) -> ModelError {
        ModelError::Folder { path: path.to_path_buf(), reason: reason.into() }
    }

    /// This error under `code`; an I/O error keeps its own code.
    pub fn with_code(self, code: &'static str) -> CodedModelError {
        CodedModelError { code, error: self }
    }
}

/// A [`ModelError`] with the code under which a stage reports it.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CodedModelError {
    code: &'static str,
    error: ModelError,
}

impl Diagnose for CodedModelError {
    fn code(&self) -> &'static str {
        match &self.error {
            ModelError::Io(error) => error.code(),
            _ => self.code,
        }
    }

    fn hint(&self) -> Option<String> {
        match &self.error {
            ModelError::Io(error) => error.hint(),
            _ => None,
        }
    }
}

/// Shortens a list that may be long: a wrong architecture is wrong in every layer.
pub(crate) fn shortened(mut problems: Vec<String>) -> Vec<String> {
    const MOST: usize = 12;
    if problems.len() > MOST {
        let rest = problems.len() - MOST;
        problems.truncate(MOST);
        problems.push(format!("and {rest} more"));
    }
    problems
}
