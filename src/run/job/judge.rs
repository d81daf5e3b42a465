//! [`judge`]: whether a stage's process did its work, and if not, why, and whether another attempt
//! may help ([`FailureClass`]). Pure.

use std::path::Path;

use olmo_stage::protocol::StageResult;
use olmo_stage::{Failure, Outcome, signals};
use signal_hook::consts::SIGXFSZ;

use crate::exec::Ended;
use crate::exec::supervise::Exit;
use crate::spec::FailureClass;

/// The exit code by which a command says that running it again will do (`EX_TEMPFAIL`).
const TRY_AGAIN: i32 = 75;

/// Why the engine asked a process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The run ends.
    Stop,
    Timeout {
        seconds: u64,
    },
    Stalled {
        seconds: u64,
    },
}

/// What an ended process did.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Done(Exit),
    Interrupted,
    Failed(Failure, FailureClass),
}

/// All that is known of an end.
pub struct End<'a> {
    pub ended: Ended,
    pub asked: Option<StopReason>,
    pub command: bool,
    /// What a worker wrote last.
    pub result: Option<StageResult>,
    /// The last lines that it printed.
    pub log: &'a [String],
    /// How to need less memory, if the stage said so.
    pub memory_hint: Option<&'a str>,
    /// The attempt's folder.
    pub folder: &'a Path,
}

fn failure(code: &str, message: impl Into<String>, hint: Option<&str>) -> Failure {
    Failure { code: code.into(), message: message.into(), hint: hint.map(str::to_owned) }
}

const GOES_ON: &str = "run the same command again: it goes on where it can";

/// Judges an end.
pub fn judge(end: End<'_>) -> Verdict {
    let failed =
        |code: &str, message: String, hint: Option<&str>, class| Verdict::Failed(failure(code, message, hint), class);
    let exit = match end.ended {
        Ended::Seen(exit) => exit,
        Ended::Unseen if end.asked.is_some() => return Verdict::Interrupted,
        Ended::Unseen => {
            let message = "somebody killed its supervisor, and so the stage".to_owned();
            return failed("stage::supervisor_killed", message, Some(GOES_ON), FailureClass::Preempted);
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
    match end.asked {
        Some(StopReason::Timeout { seconds }) => {
            let hint = match end.command {
                true => "raise `timeout`, or make the command faster",
                false => "run the same command again: it goes on from its last saved state; or raise `timeout`",
            };
            let message = format!("it took longer than its timeout of {seconds} s");
            return failed("stage::timeout", message, Some(hint), FailureClass::Timeout);
        }
        Some(StopReason::Stalled { seconds }) => {
            let hint = "its log shows where it hangs; or raise `stall`";
            let message = format!("it told and printed nothing for {seconds} s");
            return failed("stage::stalled", message, Some(hint), FailureClass::Stalled);
        }
        Some(StopReason::Stop) | None => {}
    }
    match end.result {
        Some(StageResult { outcome: Outcome::Failed, failure: told, class, .. }) => {
            let told = told.unwrap_or_else(|| failure("stage::failed", "it gave no reason", None));
            // A library may have put it into words that the stage passed on.
            let class = if runs_out(&told.message) { FailureClass::Oom } else { class };
            return Verdict::Failed(told, class);
        }
        Some(_) | None if end.asked.is_some() => return Verdict::Interrupted,
        Some(_) => {
            let message = "a signal from outside stopped it".to_owned();
            return failed("stage::stopped", message, Some(GOES_ON), FailureClass::Preempted);
        }
        None => {}
    }
    let smaller = end.memory_hint;
    let mentions_memory = end.log.iter().any(|line| runs_out(line));
    match (exit.code, exit.signal) {
        (_, Some(9)) if exit.memory_ran_out => failed(
            "stage::oom",
            "the system ran out of memory, and killed it".into(),
            Some(
                smaller
                    .unwrap_or("run less at a time, give it less to do, or ask for more `resources: {memory_mib: …}`"),
            ),
            FailureClass::Oom,
        ),
        (None, Some(6)) if mentions_memory => failed(
            "stage::oom",
            "it asked for more memory than the system gives it".into(),
            Some(smaller.unwrap_or("run less at a time, give it less to do, or raise the limit")),
            FailureClass::Oom,
        ),
        (_, Some(9)) => failed(
            "stage::killed",
            "it was killed by signal 9 (SIGKILL)".into(),
            Some("if the system ran out of memory (`dmesg` says so), run less at a time or give it less to do"),
            FailureClass::Preempted,
        ),
        (_, Some(signal)) => {
            let class = match signal {
                _ if mentions_memory => FailureClass::Oom,
                // SIGHUP, SIGINT, SIGTERM: somebody wanted it to end.
                1 | 2 | 15 => FailureClass::Preempted,
                _ => FailureClass::Error,
            };
            let name = signals::name(signal);
            let name = if name.starts_with("SIG") { format!(" ({name})") } else { String::new() };
            let hint = (signal == SIGXFSZ).then_some(
                "a file would have grown beyond the limit that this shell sets: raise it (`ulimit -f unlimited`)",
            );
            failed("stage::killed", format!("it was ended by signal {signal}{name}"), hint, class)
        }
        (Some(code), None) => {
            let full = is_full(end.folder).then(|| {
                let folder = end.folder.display();
                format!("the file system of {folder} is full: free some space and run the same command again")
            });
            let class = match code {
                // 137: a shell whose child was killed.
                137 if exit.memory_ran_out => FailureClass::Oom,
                _ if mentions_memory => FailureClass::Oom,
                TRY_AGAIN | 129 | 130 | 137 | 143 => FailureClass::Preempted,
                _ => FailureClass::Error,
            };
            failed("stage::exit", format!("it ended with exit code {code}"), full.as_deref(), class)
        }
        (None, None) => failed("stage::exit", "it ended, and nobody saw how".into(), None, FailureClass::Error),
    }
}

/// Whether a line tells that memory ran out: the words of CUDA and PyTorch, Python, the C and
/// the Rust library.
fn runs_out(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["out of memory", "outofmemoryerror", "memoryerror", "cannot allocate memory", "cuda_error_out_of_memory"]
        .iter()
        .any(|words| line.contains(words))
        || (line.contains("memory allocation of") && line.contains("failed"))
}

/// Whether there is no room where `folder` lies: what a stage says of it has no room either.
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
        asked: Option<StopReason>,
        log: &[&str],
    ) -> String {
        let log: Vec<String> = log.iter().map(|line| (*line).to_owned()).collect();
        let end = End {
            ended: Ended::Seen(exit),
            asked,
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
    fn an_end_has_the_class_that_says_whether_trying_again_may_help() {
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
    fn what_a_stage_said_of_memory_beforehand_is_the_way_out_when_it_is_gone() {
        let log = ["loading", "memory allocation of 8 bytes failed"];
        let log: Vec<String> = log.map(str::to_owned).into();
        for exit in [Exit { memory_ran_out: true, ..exit(None, Some(9)) }, exit(None, Some(6))] {
            let (ended, folder) = (Ended::Seen(exit), Path::new("/"));
            let memory_hint = Some("`rows: 3` would need 2 GiB");
            let end = End { ended, asked: None, command: false, result: None, log: &log, memory_hint, folder };
            let Verdict::Failed(failure, class) = judge(end) else { panic!("it failed") };
            assert_eq!((failure.code.as_str(), class), ("stage::oom", FailureClass::Oom));
            assert_eq!(failure.hint.as_deref(), Some("`rows: 3` would need 2 GiB"));
        }
    }

    #[test]
    fn a_workers_word_counts_more_than_its_exit_code() {
        let worker = |exit, result, asked| class(exit, false, result, asked, &[]);
        assert_eq!(worker(exit(Some(1), None), result(Outcome::Succeeded, ""), None), "done");
        assert_eq!(worker(exit(Some(0), None), None, None), "error", "it ended without a word");
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
        assert_eq!(worker(exit(Some(0), None), result(Outcome::Succeeded, ""), silent), "done", "it came just in time");
    }
}
