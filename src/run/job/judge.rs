//! [`judge`]: decides from the exit of a stage's process whether it succeeded. If not, says why,
//! and whether another attempt may help ([`FailureClass`]). It has no side effects, except that it
//! asks the system for free disk space.

use std::path::Path;

use olmo_stage::protocol::StageResult;
use olmo_stage::{Failure, Outcome, signals};
use signal_hook::consts::SIGXFSZ;

use crate::exec::Ended;
use crate::exec::supervise::Exit;
use crate::spec::FailureClass;

/// The exit code of a command that may succeed if it runs again (`EX_TEMPFAIL`).
const TRY_AGAIN: i32 = 75;

/// Why the engine asked a process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// The run is stopping.
    Stop,
    Timeout {
        seconds: u64,
    },
    Stalled {
        seconds: u64,
    },
}

/// The outcome of an ended process.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Done(Exit),
    Interrupted,
    Failed(Failure, FailureClass),
}

/// Everything known about an ended process.
pub(super) struct End<'a> {
    pub ended: Ended,
    pub stop_reason: Option<StopReason>,
    pub command: bool,
    /// The result that a worker wrote.
    pub result: Option<StageResult>,
    /// The last lines that the process printed.
    pub log: &'a [String],
    /// How to need less memory, if the stage reported that.
    pub memory_hint: Option<&'a str>,
    /// The attempt's folder.
    pub folder: &'a Path,
}

fn failure(code: &str, message: impl Into<String>, hint: Option<&str>) -> Failure {
    Failure { code: code.into(), message: message.into(), hint: hint.map(str::to_owned) }
}

const RUN_AGAIN: &str = "run the same command again: it continues from its last saved state";

/// Judges an ended process.
pub(super) fn judge(end: End<'_>) -> Verdict {
    let failed =
        |code: &str, message: String, hint: Option<&str>, class| Verdict::Failed(failure(code, message, hint), class);
    let exit = match end.ended {
        Ended::Exited(exit) => exit,
        Ended::SupervisorKilled if end.stop_reason.is_some() => return Verdict::Interrupted,
        Ended::SupervisorKilled => {
            let message = "its supervisor was killed, and the stage with it".to_owned();
            return failed("stage::supervisor_killed", message, Some(RUN_AGAIN), FailureClass::Preempted);
        }
    };
    let done = match &end.result {
        Some(result) => result.outcome == Outcome::Succeeded,
        None => end.command && exit.code == Some(0),
    };
    if done {
        return Verdict::Done(exit);
    }
    if let Some(error) = exit.error {
        return failed("stage::not_started", error, None, FailureClass::Error);
    }
    match end.stop_reason {
        Some(StopReason::Timeout { seconds }) => {
            let hint = match end.command {
                true => "raise `timeout`, or make the command faster",
                false => "run the same command again: it continues from its last saved state; or raise `timeout`",
            };
            let message = format!("it ran longer than its timeout of {seconds} s");
            return failed("stage::timeout", message, Some(hint), FailureClass::Timeout);
        }
        Some(StopReason::Stalled { seconds }) => {
            let hint = "check its log to see where it hangs, or raise `stall`";
            let message = format!("no events or output for {seconds} s");
            return failed("stage::stalled", message, Some(hint), FailureClass::Stalled);
        }
        Some(StopReason::Stop) | None => {}
    }
    match end.result {
        Some(StageResult { outcome: Outcome::Failed, failure: reported, class, .. }) => {
            let reported = reported.unwrap_or_else(|| failure("stage::failed", "it gave no reason", None));
            // One of its ranks may have been killed for memory, or it may have passed on the message of a
            // library that ran out of it.
            let rank_killed = exit.memory_ran_out && class == FailureClass::Preempted;
            if rank_killed || reports_out_of_memory(&reported.message) {
                let hint = reported.hint.or_else(|| end.memory_hint.map(str::to_owned));
                return Verdict::Failed(Failure { hint, ..reported }, FailureClass::Oom);
            }
            return Verdict::Failed(reported, class);
        }
        Some(_) | None if end.stop_reason.is_some() => return Verdict::Interrupted,
        Some(_) => {
            let message = "a signal from outside olmo-pipe stopped it".to_owned();
            return failed("stage::stopped", message, Some(RUN_AGAIN), FailureClass::Preempted);
        }
        None => {}
    }
    let smaller = end.memory_hint;
    let mentions_memory = end.log.iter().any(|line| reports_out_of_memory(line));
    match (exit.code, exit.signal) {
        (_, Some(9)) if exit.memory_ran_out => {
            failed(
                "stage::oom",
                "the system ran out of memory and killed it".into(),
                Some(smaller.unwrap_or(
                    "run fewer stages at once, reduce its work, or request more `resources: {memory_mib: …}`",
                )),
                FailureClass::Oom,
            )
        }
        (None, Some(6)) if mentions_memory => failed(
            "stage::oom",
            "it could not allocate the memory that it needs".into(),
            Some(smaller.unwrap_or("run fewer stages at once, reduce its work, or raise the memory limit")),
            FailureClass::Oom,
        ),
        (_, Some(9)) => failed(
            "stage::killed",
            "it was killed by signal 9 (SIGKILL)".into(),
            Some("if the system ran out of memory (see `dmesg`), run fewer stages at once or reduce its work"),
            FailureClass::Preempted,
        ),
        (_, Some(signal)) => {
            let class = match signal {
                _ if mentions_memory => FailureClass::Oom,
                // SIGHUP, SIGINT, SIGTERM: something outside asked it to stop.
                1 | 2 | 15 => FailureClass::Preempted,
                _ => FailureClass::Error,
            };
            let name = signals::name(signal);
            let name = if name.starts_with("SIG") { format!(" ({name})") } else { String::new() };
            let hint = (signal == SIGXFSZ).then_some(
                "a file would have exceeded the shell's limit on file size: raise it (`ulimit -f unlimited`)",
            );
            failed("stage::killed", format!("it was killed by signal {signal}{name}"), hint, class)
        }
        (Some(code), None) => {
            let full = is_full(end.folder).then(|| {
                let folder = end.folder.display();
                format!("the file system of {folder} is full: free some space, then run the same command again")
            });
            let class = match code {
                // A shell exits with 137 if its child was killed by signal 9.
                137 if exit.memory_ran_out => FailureClass::Oom,
                _ if mentions_memory => FailureClass::Oom,
                TRY_AGAIN | 129 | 130 | 137 | 143 => FailureClass::Preempted,
                _ => FailureClass::Error,
            };
            failed("stage::exit", format!("it ended with exit code {code}"), full.as_deref(), class)
        }
        (None, None) => {
            failed("stage::exit", "it ended, and its exit status was lost".into(), None, FailureClass::Error)
        }
    }
}

/// Whether a line reports that memory ran out, in the words of CUDA, PyTorch, Python, or the C and
/// Rust standard libraries.
fn reports_out_of_memory(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["out of memory", "outofmemoryerror", "memoryerror", "cannot allocate memory", "cuda_error_out_of_memory"]
        .iter()
        .any(|words| line.contains(words))
        || (line.contains("memory allocation of") && line.contains("failed"))
}

/// Whether the file system of `folder` is full. The stage may have had no space left to report it.
fn is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < 64 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>) -> Exit {
        Exit { code, signal, ..Exit::default() }
    }

    fn class(
        exit: Exit,
        command: bool,
        result: Option<StageResult>,
        stop_reason: Option<StopReason>,
        log: &[&str],
    ) -> String {
        let log: Vec<String> = log.iter().map(|line| (*line).to_owned()).collect();
        let end = End {
            ended: Ended::Exited(exit),
            stop_reason,
            command,
            result,
            log: &log,
            memory_hint: None,
            folder: Path::new("/"),
        };
        match judge(end) {
            Verdict::Done(_) => "done".into(),
            Verdict::Interrupted => "interrupted".into(),
            Verdict::Failed(_, class) => class.word().into(),
        }
    }

    fn result(outcome: Outcome, message: &str) -> Option<StageResult> {
        let failure = (outcome == Outcome::Failed).then(|| failure("a::b", message, None));
        Some(StageResult { protocol: 1, outcome, failure, class: FailureClass::Error })
    }

    #[test]
    fn the_failure_class_says_whether_a_retry_may_help() {
        let command = |exit, log: &[&str]| class(exit, true, None, None, log);
        assert_eq!(command(exit(Some(0), None), &[]), "done");
        assert_eq!(command(exit(Some(3), None), &[]), "error");
        assert_eq!(command(exit(Some(75), None), &[]), "preempted");
        assert_eq!(command(exit(Some(143), None), &[]), "preempted");
        assert_eq!(command(exit(None, Some(15)), &[]), "preempted");
        assert_eq!(command(exit(None, Some(11)), &[]), "error");
        assert_eq!(command(exit(None, Some(9)), &[]), "preempted");
        assert_eq!(command(Exit { memory_ran_out: true, ..exit(None, Some(9)) }, &[]), "oom");
        assert_eq!(command(Exit { memory_ran_out: true, ..exit(Some(137), None) }, &[]), "oom");
        assert_eq!(command(exit(Some(1), None), &["torch.OutOfMemoryError: CUDA out of memory."]), "oom");
        assert_eq!(command(exit(None, Some(6)), &["memory allocation of 8 bytes failed"]), "oom");
        assert_eq!(command(exit(Some(1), None), &["memory is fine", "allocation failed"]), "error");
    }

    #[test]
    fn the_memory_hint_of_a_stage_becomes_the_hint_of_its_failure() {
        let log = ["loading", "memory allocation of 8 bytes failed"];
        let log: Vec<String> = log.map(str::to_owned).into();
        for exit in [Exit { memory_ran_out: true, ..exit(None, Some(9)) }, exit(None, Some(6))] {
            let (ended, folder) = (Ended::Exited(exit), Path::new("/"));
            let memory_hint = Some("`rows: 3` would need 2 GiB");
            let end = End { ended, stop_reason: None, command: false, result: None, log: &log, memory_hint, folder };
            let Verdict::Failed(failure, class) = judge(end) else { panic!("it failed") };
            assert_eq!((failure.code.as_str(), class), ("stage::oom", FailureClass::Oom));
            assert_eq!(failure.hint.as_deref(), Some("`rows: 3` would need 2 GiB"));
        }
    }

    #[test]
    fn a_rank_that_was_killed_when_memory_ran_out_ran_out_of_it() {
        let killed = StageResult { class: FailureClass::Preempted, ..result(Outcome::Failed, "rank 1: …").unwrap() };
        let class = |memory_ran_out| {
            class(Exit { memory_ran_out, ..exit(Some(1), None) }, false, Some(killed.clone()), None, &[])
        };
        assert_eq!([true, false].map(class), ["oom", "preempted"]);
    }

    #[test]
    fn the_result_of_a_worker_overrides_its_exit_code() {
        let worker = |exit, result, stop_reason| class(exit, false, result, stop_reason, &[]);
        assert_eq!(worker(exit(Some(1), None), result(Outcome::Succeeded, ""), None), "done");
        assert_eq!(worker(exit(Some(0), None), None, None), "error", "it wrote no result");
        assert_eq!(worker(exit(Some(1), None), result(Outcome::Failed, "bad data"), None), "error");
        assert_eq!(worker(exit(Some(1), None), result(Outcome::Failed, "CUDA: out of memory"), None), "oom");
        assert_eq!(worker(exit(Some(143), None), result(Outcome::Interrupted, ""), None), "preempted");
        assert_eq!(
            worker(exit(Some(143), None), result(Outcome::Interrupted, ""), Some(StopReason::Stop)),
            "interrupted"
        );
        let late = Some(StopReason::Timeout { seconds: 1 });
        assert_eq!(worker(exit(Some(143), None), result(Outcome::Interrupted, ""), late), "timeout");
        let silent = Some(StopReason::Stalled { seconds: 1 });
        assert_eq!(worker(exit(None, Some(9)), None, silent), "stalled");
        assert_eq!(
            worker(exit(Some(0), None), result(Outcome::Succeeded, ""), silent),
            "done",
            "it finished just in time"
        );
    }
}
