//! Errors of a template.

/// What went wrong, and the line of the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub line: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Invalid by Jinja2's grammar.
    Syntax(String),
    /// An exception that Python would raise: its type and message.
    Raised { exception: &'static str, message: String },
    /// Valid in Jinja2 but not supported here. Always an error, so that the result is never
    /// silently different.
    Unsupported(String),
    /// More work than allowed.
    Limit(String),
}

pub(super) type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(kind: Kind) -> Self {
        Self { kind, line: None }
    }

    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new(Kind::Syntax(message.into()))
    }

    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported(what.into()))
    }

    pub fn limit(what: impl Into<String>) -> Self {
        Self::new(Kind::Limit(what.into()))
    }

    pub fn raised(exception: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Raised { exception, message: message.into() })
    }

    pub fn type_error(message: impl Into<String>) -> Self {
        Self::raised("TypeError", message)
    }

    pub fn value_error(message: impl Into<String>) -> Self {
        Self::raised("ValueError", message)
    }

    pub fn undefined(message: impl Into<String>) -> Self {
        Self::raised("UndefinedError", message)
    }

    /// Sets the line, unless an inner one is set.
    pub fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Syntax(message) => write!(f, "is not valid: {}", message.escape_debug())?,
            Kind::Raised { exception: "TemplateError", message } => write!(f, "fails: {}", message.escape_debug())?,
            Kind::Raised { exception, message } => write!(f, "fails: {exception}: {}", message.escape_debug())?,
            Kind::Unsupported(what) => write!(f, "uses an unsupported feature: {}", what.escape_debug())?,
            Kind::Limit(what) => write!(f, "exceeds a limit: {what}")?,
        }
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}
