//! Exit codes for scripts. docs/exit-codes.md has the same table (tested).

use std::process::ExitCode;

/// Why a command ended; [`Exit::code`] is its process exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command did what it was asked to do.
    Success,
    /// A stage failed; the stages that do not depend on it ran.
    StageFailed,
    /// The command line, an experiment, a pipeline or a stage contract has errors.
    BadInput,
    /// The worker is missing or from another build, or a resource or remote source is unavailable.
    Environment,
    /// The store cannot be read or written: no space, corruption, or a newer format.
    Store,
    /// A source changed since the run to resume, or no longer matches its lock.
    SourceChanged,
    /// `--check` found a difference, `verify` a problem, or `data` an error.
    CheckFailed,
    /// `plan --exit-code`: at least one stage would run.
    WouldRun,
    /// A bug in olmo-pipe.
    Internal,
    /// The command's output was lost.
    Output,
    /// Stopped cleanly by SIGHUP.
    HungUp,
    /// Stopped cleanly by SIGINT.
    Interrupted,
    /// Stopped cleanly by SIGTERM.
    Terminated,
}

impl Exit {
    /// Every exit with its meaning, ordered by code.
    pub const ALL: [(Exit, &'static str); 13] = [
        (Exit::Success, "done"),
        (Exit::StageFailed, "a stage failed; the stages that do not depend on it ran"),
        (Exit::BadInput, "errors in the command line, an experiment, a pipeline or a stage.yaml"),
        (
            Exit::Environment,
            "the worker is missing or from another build, or a resource or remote source is unavailable",
        ),
        (Exit::Store, "the store cannot be read or written: no space, corruption, or a newer format"),
        (Exit::SourceChanged, "a source changed since the run to resume, or no longer matches its lock"),
        (
            Exit::CheckFailed,
            "`schema --check` or `artifacts verify` found a problem, or `data …` found wrong or unreadable data",
        ),
        (Exit::WouldRun, "`plan --exit-code`: at least one stage would run"),
        (Exit::Internal, "a bug in olmo-pipe"),
        (Exit::Output, "done, but output was lost: no space, or a reader that stopped reading"),
        (Exit::HungUp, "stopped cleanly because its terminal closed (SIGHUP)"),
        (Exit::Interrupted, "stopped cleanly by Ctrl-C (SIGINT)"),
        (Exit::Terminated, "stopped cleanly by SIGTERM"),
    ];

    /// The process exit code.
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
