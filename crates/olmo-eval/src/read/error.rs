//! [`ReadError`]: every bad line of a file.

use std::fmt;

use olmo_base::Diagnose;

/// Maximum number of problems that are listed; more are counted.
const MOST: usize = 20;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 if the problem is the file's.
    pub line: usize,
    pub what: String,
}

/// Why a file of requests cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    pub file: String,
    /// The first of them, in the order in which they were found.
    pub problems: Vec<Problem>,
    /// Number of problems that are not in `problems`.
    pub more: usize,
}

impl ReadError {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), problems: Vec::new(), more: 0 }
    }

    pub(crate) fn push(&mut self, line: usize, what: String) {
        if self.problems.len() < MOST {
            self.problems.push(Problem { line, what });
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.escape_debug();
        for (index, Problem { line, what }) in self.problems.iter().enumerate() {
            let start = if index == 0 { "" } else { "\n" };
            match line {
                0 => write!(f, "{start}{name} {what}")?,
                _ => write!(f, "{start}{name}:{line}: the line {what}")?,
            }
        }
        if self.more > 0 {
            write!(f, "\nand {} more lines", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ReadError {}

impl Diagnose for ReadError {
    fn code(&self) -> &'static str {
        "eval::requests"
    }

    fn hint(&self) -> Option<String> {
        Some(
            "correct these lines; the accepted forms are olmo-eval's serialized task, oe-eval's requests and lm-eval's \
             samples, one JSON object per line (docs/evaluation.md)"
                .into(),
        )
    }
}
