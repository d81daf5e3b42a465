//! The errors of all crates: [`PathError`] adds the path to an I/O error, and [`Diagnose`] gives an
//! error a stable code and a hint.

use std::io;
use std::path::{Path, PathBuf};

/// An error that can be shown to a user: [`Display`](std::fmt::Display) says what failed, where
/// and why.
pub trait Diagnose: std::error::Error {
    /// A stable code, `area::reason`.
    fn code(&self) -> &'static str;

    /// How to fix it, if that is known.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// An I/O error with its path, and with the operation that failed if the caller named one.
#[derive(Debug)]
pub struct PathError {
    /// A verb, with its object if that is not the path: `read`, `sync the folder`.
    pub doing: Option<&'static str>,
    pub path: PathBuf,
    pub source: io::Error,
}

impl PathError {
    /// Wraps `source`, an error on `path`.
    pub fn new(path: &Path, source: io::Error) -> Self {
        Self { doing: None, path: path.to_owned(), source }
    }

    /// Wraps `source`, an error that occurred while `doing` something to `path`.
    pub fn during(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self { doing: Some(doing), ..Self::new(path, source) }
    }

    /// Whether a write failed for lack of space: the file system is full, the quota is exhausted,
    /// or the file would be too large for the file system.
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        self.source.raw_os_error().is_some() && matches!(self.source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }
}

impl std::fmt::Display for PathError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match self.doing {
            Some(doing) => write!(f, "cannot {doing} {path}: {}", self.source),
            None => write!(f, "{path}: {}", self.source),
        }
    }
}

impl std::error::Error for PathError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Diagnose for PathError {
    fn code(&self) -> &'static str {
        "io::failed"
    }

    fn hint(&self) -> Option<String> {
        (self.source.kind() == io::ErrorKind::StorageFull)
            .then(|| "free some space on that file system and run the same command again".into())
    }
}

/// Adds the path to the error of an I/O operation.
pub trait IoContext<T> {
    /// Adds `path` to the error.
    fn context(self, path: impl AsRef<Path>) -> Result<T, PathError>;

    /// Adds `path` and the operation to the error: "cannot {doing} {path}: …".
    fn context_during(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, PathError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, path: impl AsRef<Path>) -> Result<T, PathError> {
        self.map_err(|source| PathError::new(path.as_ref(), source))
    }

    fn context_during(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, PathError> {
        self.map_err(|source| PathError::during(doing, path.as_ref(), source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_path_and_the_operation() {
        let missing: io::Result<()> = Err(io::Error::from_raw_os_error(libc::ENOENT));
        let error = missing.context_during("open", "some/file").unwrap_err();
        assert_eq!(error.to_string(), "cannot open some/file: No such file or directory (os error 2)");
        let full: io::Result<()> = Err(io::Error::from_raw_os_error(libc::ENOSPC));
        let error = full.context("some/file").unwrap_err();
        assert!(error.is_no_space());
        assert_eq!(error.to_string(), "some/file: No space left on device (os error 28)");
        assert!(error.hint().unwrap().contains("free some space"));
    }
}
