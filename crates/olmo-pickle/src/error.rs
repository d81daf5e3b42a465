//! The error of this crate.

use std::fmt;
use std::io;

use olmo_base::Diagnose;

/// The kind of an [`Error`], which decides its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Invalid,
    Unsupported,
    Missing,
    Io,
}

/// Why a file could not be read or written.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<io::Error>,
}

impl Error {
    /// The file is damaged or hostile.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { kind: Kind::Invalid, message: message.into(), hint: None, source: None }
    }

    /// The file may be valid, but this crate does not read it.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self { kind: Kind::Unsupported, ..Self::invalid(message) }
    }

    /// A file or an entry does not exist.
    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self { kind: Kind::Missing, ..Self::invalid(message) }
    }

    /// `source` occurred while `doing` something.
    pub(crate) fn io(doing: &str, source: io::Error) -> Self {
        let kind = if source.kind() == io::ErrorKind::NotFound { Kind::Missing } else { Kind::Io };
        Self { kind, message: format!("cannot {doing}: {source}"), hint: None, source: Some(source) }
    }

    /// Adds how to fix it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the name of the file or entry before the message.
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Whether a file or an entry does not exist.
    pub fn is_missing(&self) -> bool {
        self.kind == Kind::Missing
    }

    /// Whether the file may be valid, but this crate does not read its kind.
    pub fn is_unsupported(&self) -> bool {
        self.kind == Kind::Unsupported
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl Diagnose for Error {
    fn code(&self) -> &'static str {
        match self.kind {
            Kind::Invalid => "pytorch::invalid",
            Kind::Unsupported => "pytorch::unsupported",
            Kind::Missing => "pytorch::missing",
            Kind::Io => "io::failed",
        }
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// `problems` in one message: all of them up to a limit, then how many more there are.
pub(crate) fn join_problems(problems: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if problems.len() > SHOWN {
        text.push_str(&format!("; and {} more", problems.len() - SHOWN));
    }
    text
}

/// `text` for a message: without control characters, and cut after 120 characters.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}
