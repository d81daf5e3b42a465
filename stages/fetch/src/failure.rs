//! The errors for files that cannot be read.

use olmo_stage::StageError;

use crate::open::OpenError;

/// An I/O error, with the line that could not be read.
pub(crate) fn unreadable(name: &str, line: Option<u64>, error: &std::io::Error) -> StageError {
    let place = line.map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"));
    StageError::fail("fetch::unreadable", format!("{place}: {error}"))
        .hint("the file is damaged or truncated; fetch or compress it again")
}

/// The error for a file that cannot be opened.
pub(crate) fn unopened(name: &str, error: OpenError) -> StageError {
    match error {
        OpenError::Io(error) => unreadable(name, None, &error),
        OpenError::Refused { code, what, hint } => StageError::fail(code, format!("{name}: {what}")).hint(hint),
    }
}
