//! [`DataError`]: why an artifact cannot be read or written.

use std::path::{Path, PathBuf};

use olmo_base::{Diagnose, PathError};
use olmo_remote::RemoteError;

/// Why an artifact cannot be read or written. Each message names the file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error(transparent)]
    Io(#[from] PathError),
    /// A row on a server that cannot be fetched.
    #[error(transparent)]
    Remote(#[from] Box<RemoteError>),
    /// A `manifest.json` or `special_tokens.json` that is malformed or of another format.
    #[error("{}: {reason}", path.display())]
    Manifest { path: PathBuf, reason: String },
    /// A Parquet file that is malformed or has other columns.
    #[error("{}: {reason}", path.display())]
    Parquet { path: PathBuf, reason: String },
    /// A dataset of documents where conversations are expected, or the reverse.
    #[error("{}: contains {found}, but {expected} are expected here", path.display())]
    Kind { path: PathBuf, expected: &'static str, found: &'static str },
    #[error("{}: has {found} bytes, but its manifest says {expected}{guess}", path.display())]
    Size { path: PathBuf, expected: u64, found: u64, guess: &'static str },
    #[error("{}: dtype {dtype} is too small for a vocabulary of {vocab_size}", path.display())]
    Dtype { path: PathBuf, dtype: &'static str, vocab_size: u32 },
    #[error("{}: token {position} is id {id}, outside the vocabulary of {vocab_size}", path.display())]
    OverVocabulary { path: PathBuf, position: usize, id: u32, vocab_size: u32 },
    /// Files that contradict each other.
    #[error("{}: {reason}", path.display())]
    Broken { path: PathBuf, reason: String },
    /// An invalid `tokenizer.json`, or a text that it cannot encode.
    #[error("{}: {reason}", path.display())]
    Tokenizer { path: PathBuf, reason: String },
    /// A `tokenizer.json` that lacks a token named by a param.
    #[error("{}: {reason}", path.display())]
    SpecialToken { path: PathBuf, reason: String },
}

impl DataError {
    pub(crate) fn parquet(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Parquet { path: path.to_owned(), reason: error.to_string() }
    }

    pub(crate) fn broken(path: &Path, reason: impl Into<String>) -> Self {
        Self::Broken { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn tokenizer(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Tokenizer { path: path.to_owned(), reason: error.to_string() }
    }
}

impl Diagnose for DataError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io(error) => error.code(),
            Self::Remote(error) => error.code(),
            Self::Manifest { .. } => "data::manifest",
            Self::Parquet { .. } => "data::parquet",
            Self::Kind { .. } => "data::kind",
            Self::Size { .. } => "data::size",
            Self::Dtype { .. } => "data::dtype",
            Self::OverVocabulary { .. } => "data::over_vocabulary",
            Self::Broken { .. } => "data::broken",
            Self::Tokenizer { .. } | Self::SpecialToken { .. } => "data::tokenizer",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Io(error) => return error.hint(),
            Self::Remote(error) => return error.hint(),
            Self::Kind { .. } => {
                "use template `plain` for `text` and any other template for `messages`; see `format` of stage fetch"
            }
            Self::Tokenizer { .. } => {
                "check the tokenizer file: it must be a `tokenizer.json` in Hugging Face's format"
            }
            Self::SpecialToken { .. } => {
                "`eos_token` and `pad_token` must be in `added_tokens` of tokenizer.json; they may be the same token"
            }
            _ => "the artifact is damaged or from another version; run the stage that produced it again",
        };
        Some(text.into())
    }
}
