//! The exit codes, for scripts. docs/exit-codes.md says the same (tested).

use std::process::ExitCode;

/// Why a command ended; [`Exit::code`] is its process exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for is done.
    Success,
    /// A stage failed; the rest ran as far as it could.
    StageFailed,
    /// The command line, an experiment, a pipeline or a stage's contract has errors.
    BadInput,
    /// The worker is missing, of another build, or a resource or a remote source is not there.
    Environment,
    /// The store cannot be read or written (no space, corrupted, of a newer format).
    Store,
    /// A source changed: since the run that is to be resumed, or against its lock.
    SourceChanged,
    /// `--check` found a difference, or `verify` a problem.
    CheckFailed,
    /// `plan --exit-code`: not everything is there.
    WouldRun,
    /// A bug in olmo-pipe.
    Internal,
    /// What the command printed did not get where it was to go.
    Output,
    /// Stopped in order by SIGHUP.
    HungUp,
    /// Stopped in order by SIGINT.
    Interrupted,
    /// Stopped in order by SIGTERM.
    Terminated,
}

impl Exit {
    /// Every exit, with its meaning, in the order of the codes.
    pub const ALL: [(Exit, &'static str); 13] = [
        (Exit::Success, "done"),
        (Exit::StageFailed, "a stage failed; the stages that do not depend on it ran"),
        (Exit::BadInput, "errors in the command line, an experiment, a pipeline or a stage.yaml"),
        (Exit::Environment, "worker missing or of another build, or a resource or a remote source that is not there"),
        (Exit::Store, "the store cannot be read or written: no space, corrupted, newer format"),
        (Exit::SourceChanged, "a source changed: since the run that is resumed, or against its lock"),
        (
            Exit::CheckFailed,
            "`schema --check` or `artifacts verify` found a difference, or `data …` found the data wrong or unreadable",
        ),
        (Exit::WouldRun, "`plan --exit-code`: something is to run"),
        (Exit::Internal, "a bug in olmo-pipe"),
        (Exit::Output, "done, but what it printed got lost: no space, or a reader that has stopped reading"),
        (Exit::HungUp, "stopped in order since its terminal was closed (SIGHUP)"),
        (Exit::Interrupted, "stopped in order by Ctrl-C (SIGINT)"),
        (Exit::Terminated, "stopped in order by SIGTERM"),
    ];

    /// The number a shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::StageFailed => 1,
            Exit::BadInput => 2,
            Exit::Environment => 3,
            Exit::Store => 4,
            Exit::SourceChanged => 5,
            Exit::CheckFailed => 6,
            Exit::WouldRun => 7,
            Exit::Internal => 70,
            Exit::Output => 74,
            Exit::HungUp => 129,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}
