//! [`Problem`]: the one place that turns errors into messages and exit codes.

use std::fmt::Write as _;

use olmo_base::Diagnose as _;
use olmo_remote::RemoteError;
use rustix::event::Timespec;

use crate::artifacts::ReferenceError;
use crate::exec::ExecError;
use crate::run::RunError;
use crate::spec::Diagnostics;
use crate::store::StoreError;
use crate::ui::escape_control;
use crate::ui::exit::Exit;
use crate::ui::output::{Stream, say, take_lost};

/// Why a command failed, ready to print.
#[derive(Debug)]
pub struct Problem {
    pub exit: Exit,
    text: String,
}

impl Problem {
    /// Creates a problem with a stable `code` (`area::reason`), a message, and a hint how to fix
    /// it.
    pub fn new(exit: Exit, code: &str, message: &str, hint: Option<&str>) -> Self {
        let mut text = format!("error[{code}]: {}\n", escape_control(message));
        if let Some(hint) = hint {
            let _ = writeln!(text, "  = help: {}", escape_control(hint));
        }
        Self { exit, text }
    }

    /// Prints the problem to standard error.
    pub fn print(&self) {
        say(&self.text);
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::NotAPrefix { .. }
            | StoreError::UnknownPrefix { .. }
            | StoreError::AmbiguousPrefix { .. }
            | StoreError::NotATag { .. }
            | StoreError::TagInUse { .. }
            | StoreError::UnknownTag { .. }
            | StoreError::CannotShare { .. }
            | StoreError::Refused { .. }
            | StoreError::NoFiles { .. }
            | StoreError::DestinationExists { .. } => Exit::BadInput,
            StoreError::SourceChanged { .. } | StoreError::SourceMissing { .. } => Exit::SourceChanged,
            _ => Exit::Store,
        };
        Self::new(exit, error.code(), &error.to_string(), error.hint().as_deref())
    }
}

impl From<ReferenceError> for Problem {
    fn from(error: ReferenceError) -> Self {
        match error {
            ReferenceError::Store(error) => error.into(),
            ReferenceError::Run(error) => error.into(),
            other => Self::new(Exit::BadInput, other.code(), &other.to_string(), other.hint().as_deref()),
        }
    }
}

impl From<RunError> for Problem {
    fn from(error: RunError) -> Self {
        let exit = match error {
            RunError::Store(error) => return error.into(),
            RunError::SourcesChanged { .. } => Exit::SourceChanged,
            RunError::Remote(RemoteError::Digest { .. } | RemoteError::Size { .. }) => Exit::SourceChanged,
            RunError::Remote(RemoteError::NoRoom { .. } | RemoteError::Io { .. }) => Exit::Store,
            RunError::Remote(RemoteError::Form { .. }) | RunError::NotLocked { .. } | RunError::LockDamaged { .. } => {
                Exit::BadInput
            }
            RunError::Remote(_) | RunError::Offline { .. } | RunError::VariableGone { .. } => Exit::Environment,
            RunError::Io { .. } | RunError::RunDamaged { .. } | RunError::Exec(ExecError::Io { .. }) => Exit::Store,
            RunError::Exec(_) | RunError::Thread { .. } | RunError::RunActive { .. } | RunError::NotRunning { .. } => {
                Exit::Environment
            }
            RunError::Key(_)
            | RunError::Graph(_)
            | RunError::UnknownStage { .. }
            | RunError::NotBefore { .. }
            | RunError::Refused(_)
            | RunError::SourceMissing { .. }
            | RunError::StageFile { .. }
            | RunError::ForeignResults { .. }
            | RunError::UnknownRun { .. }
            | RunError::AmbiguousRun { .. } => Exit::BadInput,
        };
        Self::new(exit, error.code(), &error.to_string(), error.hint().as_deref())
    }
}

impl From<Diagnostics> for Problem {
    fn from(diagnostics: Diagnostics) -> Self {
        use std::io::IsTerminal as _;
        Self { exit: Exit::BadInput, text: diagnostics.render(std::io::stderr().is_terminal()) }
    }
}

/// Reports lost output. Returns `exit`, or [`Exit::Output`] if a successful command lost output.
pub(crate) fn exit_after_output(exit: Exit) -> Exit {
    let Some(lost) = take_lost() else { return exit };
    // Standard error may have the same stopped reader.
    if Stream::Error.is_ready(Some(Timespec { tv_sec: 0, tv_nsec: 0 })) {
        let hint = "the command itself completed; free some space or redirect its output, then run it again";
        Problem::new(Exit::Output, "cli::output", &lost, Some(hint)).print();
    }
    if exit == Exit::Success { Exit::Output } else { exit }
}
