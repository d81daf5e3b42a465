//! What can go wrong with a model: its config, its files, its inputs.

use std::path::{Path, PathBuf};

/// An error of this crate. Each message says what, where and why; `hint` says the way out where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The config does not describe a model that can be built. All problems at once.
    #[error("the model config is not valid: {}", .0.join("; "))]
    Config(Vec<String>),
    /// Token ids, masks or shapes handed to the model do not fit it.
    #[error("{0}")]
    Input(String),
    /// A model folder whose content is not what it should be.
    #[error("{}: {reason}", .path.display())]
    Folder {
        /// The file or folder at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Keys of a Hugging Face config that are missing, wrong or not understood. All of them at once.
    #[error("{}: {}", .path.display(), .problems.join("; "))]
    NotUnderstood {
        /// The config.
        path: PathBuf,
        /// One sentence for each key.
        problems: Vec<String>,
    },
    /// Tensors of a file and of a config differ. All differences at once.
    #[error("{}: the tensors do not fit the config: {}", .path.display(), .problems.join("; "))]
    Tensors {
        /// The file that holds the tensors.
        path: PathBuf,
        /// One sentence for each tensor that is missing, unknown or misshapen.
        problems: Vec<String>,
    },
    /// The config cannot be expressed as a Hugging Face architecture.
    #[error("this config cannot be exported to Hugging Face: {}", .0.join("; "))]
    NotExportable(Vec<String>),
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The tensor backend failed; a defect of this program.
    #[error("the tensor backend failed: {0}")]
    Backend(String),
}

impl ModelError {
    pub(crate) fn folder(path: &Path, reason: impl Into<String>) -> ModelError {
        ModelError::Folder { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> ModelError {
        ModelError::Io { path: path.to_path_buf(), source }
    }
}
