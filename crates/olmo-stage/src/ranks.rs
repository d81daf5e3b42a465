//! Ranks of a stage: one process each, started by the first process of the attempt (the
//! *launcher*), by `torchrun` or by `srun`.
//!
//! The launcher runs no stage itself. It starts a process per rank with the same command, divides
//! the threads and the GPUs among them, passes on requests to stop and to save, and reports one
//! result. If a rank fails, the others notice it in their next exchange, and the launcher kills
//! those that take too long.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use olmo_base::files;
use olmo_dist::{Launch, Secret};

use crate::error::StageError;
use crate::protocol::{Failure, FailureClass, Outcome, PROTOCOL_VERSION, Request, StageResult};
use crate::signals;

/// The folder in an attempt's folder where its ranks meet and leave their results.
const FOLDER: &str = "ranks";
/// How long the other ranks may take to end after one has failed.
const GRACE: Duration = Duration::from_secs(10);
/// How often the launcher looks at its ranks.
const TICK: Duration = Duration::from_millis(10);
/// The exit code of a process that stopped on request.
pub(crate) const INTERRUPTED: u8 = 143;
/// What the launcher sends to a rank through its standard input. The end of the input means that
/// the launcher is gone.
const STOP: u8 = b't';
const SAVE: u8 = b's';

/// What a process of an attempt does.
#[derive(Debug)]
pub(crate) enum Role {
    /// Runs the stage, as its only process.
    Alone,
    /// Starts this many ranks.
    Launcher(usize),
    /// Runs the stage as one of several ranks.
    Rank(Launch),
}

impl Role {
    /// The role of this process in the attempt of `request`.
    ///
    /// # Errors
    /// The environment describes a rank incompletely.
    pub(crate) fn of(request: &Request) -> Result<Self, StageError> {
        Ok(match Launch::from_env()? {
            Some(launch) if launch.world.size > 1 => Self::Rank(launch),
            None if request.ranks > 1 => Self::Launcher(request.ranks as usize),
            Some(_) | None => Self::Alone,
        })
    }
}

/// Where the process with `launch` writes its result: a rank of our launcher leaves it to the
/// launcher, and rank 0 of another launcher writes that of the attempt. `None` for other ranks.
pub(crate) fn result_path(attempt: &Path, launch: &Launch) -> Option<PathBuf> {
    match launch.launcher {
        olmo_dist::Launcher::OlmoPipe => Some(own_result(attempt, launch.world.rank)),
        _ if launch.world.rank == 0 => Some(attempt.join(crate::protocol::RESULT)),
        _ => None,
    }
}

fn own_result(attempt: &Path, rank: usize) -> PathBuf {
    attempt.join(FOLDER).join(format!("result-{rank}.json"))
}

/// Follows the launcher of this rank: sets `stop` and `save` when it asks for that, and ends the
/// process when the launcher is gone.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn follow_launcher(stop: Arc<AtomicBool>, save: Arc<AtomicBool>) -> io::Result<()> {
    let follow = move || {
        for byte in io::stdin().lock().bytes() {
            match byte {
                Ok(STOP) => stop.store(true, Ordering::Relaxed),
                Ok(SAVE) => save.store(true, Ordering::Relaxed),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        eprintln!("the launcher is gone");
        std::process::exit(1);
    };
    thread::Builder::new().name("launcher".into()).spawn(follow).map(drop)
}

/// A rank that was started.
struct Rank {
    process: Child,
    input: Option<ChildStdin>,
    log: Option<thread::JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

/// Starts `count` ranks of the attempt in folder `attempt`, waits for them to end, and returns the
/// result of all: success, an interruption if they stopped, or the failure of the first rank that
/// failed by itself, with its number.
pub(crate) fn launch(
    attempt: &Path,
    request: &Request,
    count: usize,
    stop: &AtomicBool,
    save: &AtomicBool,
) -> StageResult {
    let mut ranks = Vec::with_capacity(count);
    let started = start_all(attempt, request, count, &mut ranks);
    let mut kill_at = started.is_err().then(Instant::now);
    let mut is_told = false;
    loop {
        for rank in ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
            rank.ended = rank.process.try_wait().unwrap_or(None);
        }
        if ranks.iter().all(|rank| rank.ended.is_some()) {
            break;
        }
        if stop.load(Ordering::Relaxed) && !std::mem::replace(&mut is_told, true) {
            for rank in &mut ranks {
                rank.tell(STOP);
            }
        }
        // The ranks agree on when to save, so it is enough that one of them knows.
        if save.swap(false, Ordering::Relaxed)
            && let Some(first) = ranks.first_mut()
        {
            first.tell(SAVE);
        }
        if ranks.iter().any(Rank::has_failed) {
            kill_at.get_or_insert_with(|| Instant::now() + GRACE);
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            for rank in ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
                let _ = rank.process.kill();
            }
        }
        thread::sleep(TICK);
    }
    let ends: Vec<End> = ranks.into_iter().enumerate().map(|(number, rank)| rank.end(attempt, number)).collect();
    match started {
        Ok(()) => conclude(&ends, stop.load(Ordering::Relaxed)),
        Err(error) => StageResult::of(Err(error)),
    }
}

impl Rank {
    fn tell(&mut self, what: u8) {
        // A rank that is ending has closed its input.
        if let Some(input) = &mut self.input {
            let _ = input.write_all(&[what]).and_then(|()| input.flush());
        }
    }

    fn has_failed(&self) -> bool {
        self.ended.is_some_and(|status| !status.success() && status.code() != Some(i32::from(INTERRUPTED)))
    }

    /// How this rank, which has ended, ended.
    fn end(mut self, attempt: &Path, number: usize) -> End {
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
        let result = files::read_regular(&own_result(attempt, number), 1 << 20).ok();
        End { status: self.ended, result: result.and_then(|text| serde_json::from_slice(&text).ok()) }
    }
}

fn start_all(attempt: &Path, request: &Request, count: usize, ranks: &mut Vec<Rank>) -> Result<(), StageError> {
    let cannot = |what: &str, e: io::Error| StageError::fail("worker::ranks", format!("cannot {what}: {e}"));
    let folder = attempt.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|e| StageError::io(&folder, e))?;
    let program = std::env::current_exe().map_err(|e| cannot("find the worker's program", e))?;
    let secret = Secret::generate().map_err(|e| cannot("make a secret for the ranks", e))?;
    let threads = threads_per_rank(request.threads, count);
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let gpus: Vec<&str> = visible.split(',').filter(|gpu| !gpu.is_empty()).collect();
    for rank in 0..count {
        let mut command = Command::new(&program);
        command.arg("run").arg(attempt).stdin(Stdio::piped()).stderr(Stdio::piped());
        let of_rank = [
            ("OLMO_PIPE_RANK", rank.to_string()),
            ("OLMO_PIPE_WORLD_SIZE", count.to_string()),
            ("OLMO_PIPE_LOCAL_RANK", rank.to_string()),
            ("OLMO_PIPE_LOCAL_WORLD_SIZE", count.to_string()),
            ("OLMO_PIPE_RANK_SECRET", secret.clone()),
            ("RAYON_NUM_THREADS", threads.to_string()),
        ];
        command.envs(of_rank).env("OLMO_PIPE_RENDEZVOUS", &folder);
        if let Some(gpu) = gpu_of(&gpus, rank, count) {
            command.env("CUDA_VISIBLE_DEVICES", gpu);
        }
        let mut process = command.spawn().map_err(|e| cannot(&format!("start rank {rank}"), e))?;
        let input = process.stdin.take();
        let log = process.stderr.take().map(|stderr| {
            thread::spawn(move || {
                let mut lines = BufReader::new(stderr);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&line);
                    let _ = writeln!(io::stderr().lock(), "rank {rank}: {}", text.trim_end_matches('\n'));
                    line.clear();
                }
            })
        });
        ranks.push(Rank { process, input, log, ended: None });
    }
    Ok(())
}

/// The number of threads that this process of the attempt of `request` may use.
pub fn threads(request: &Request) -> usize {
    match Role::of(request) {
        Ok(Role::Rank(launch)) => threads_per_rank(request.threads, launch.world.local_size),
        Ok(Role::Launcher(_)) => 1,
        Ok(Role::Alone) | Err(_) => request.threads,
    }
}

/// The threads of each of `count` ranks, where the stage may use `threads` of them.
fn threads_per_rank(threads: usize, count: usize) -> usize {
    (threads / count.max(1)).max(1)
}

/// The GPU of `rank`: equally many ranks share each of `gpus`.
fn gpu_of<'a>(gpus: &[&'a str], rank: usize, count: usize) -> Option<&'a str> {
    gpus.get(rank * gpus.len() / count.max(1)).copied()
}

/// How a rank ended.
struct End {
    status: Option<ExitStatus>,
    /// The result that it wrote, if it could.
    result: Option<StageResult>,
}

/// The result of the attempt whose ranks ended as `ends`.
fn conclude(ends: &[End], stop_requested: bool) -> StageResult {
    let succeeded = |end: &End| end.result.as_ref().is_some_and(|result| result.outcome == Outcome::Succeeded);
    if ends.iter().all(succeeded) {
        return StageResult::of(Ok(()));
    }
    let failures = || ends.iter().enumerate().filter_map(|(rank, end)| Some((rank, end.failure()?)));
    // What a rank says of itself says more than what the system or the others say of it.
    let (rank, (failure, class)) = match failures().min_by_key(|(_, (failure, _))| rating(&failure.code)) {
        Some(first) => first,
        None => return StageResult::of(Err(StageError::Interrupted)),
    };
    let asked =
        ends[rank].status.and_then(signal_of).is_some_and(|signal| [libc::SIGINT, libc::SIGTERM].contains(&signal));
    if stop_requested && asked {
        // It did not know yet how to save its state.
        return StageResult::of(Err(StageError::Interrupted));
    }
    let same = failures().filter(|(_, (other, _))| other.message == failure.message).count();
    // What all ranks say is not about one of them.
    let message = if same == ends.len() { failure.message } else { format!("rank {rank}: {}", failure.message) };
    let failure = Some(Failure { message, ..failure });
    StageResult { protocol: PROTOCOL_VERSION, outcome: Outcome::Failed, failure, class }
}

/// Orders failures by what they tell: smaller numbers first.
fn rating(code: &str) -> u32 {
    match code {
        "dist::dead" | "dist::failed" | "dist::late" | "dist::closed" | "dist::network" => 2,
        KILLED => 1,
        _ => 0,
    }
}

/// The code of the failure of a rank that a signal ended.
const KILLED: &str = "stage::killed";

impl End {
    /// Why this rank failed, if it did.
    fn failure(&self) -> Option<(Failure, FailureClass)> {
        if let Some(result) = &self.result {
            return Some((result.failure.clone()?, result.class));
        }
        let failure = |code: &str, message: String| Failure { code: code.into(), message, hint: None };
        if let Some(signal) = self.status.and_then(signal_of) {
            let failure = failure(KILLED, format!("it was killed by signal {signal} ({})", signals::name(signal)));
            let is_from_outside = [libc::SIGHUP, libc::SIGINT, libc::SIGKILL, libc::SIGTERM].contains(&signal);
            return Some((failure, if is_from_outside { FailureClass::Preempted } else { FailureClass::Error }));
        }
        let code = self.status.and_then(|status| status.code());
        let code = code.map_or("without an exit code".into(), |code| format!("with exit code {code}"));
        Some((failure("stage::exit", format!("it ended {code} and left no result")), FailureClass::Error))
    }
}

fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn ended(raw: i32, result: Option<StageResult>) -> End {
        End { status: Some(ExitStatus::from_raw(raw)), result }
    }

    fn failed(code: &str, message: &str) -> End {
        ended(1 << 8, Some(StageResult::of(Err(StageError::fail(code, message)))))
    }

    fn succeeded() -> End {
        ended(0, Some(StageResult::of(Ok(()))))
    }

    fn interrupted() -> End {
        ended(i32::from(INTERRUPTED) << 8, Some(StageResult::of(Err(StageError::Interrupted))))
    }

    fn message(ends: &[End]) -> String {
        let result = conclude(ends, false);
        assert_eq!(result.outcome, Outcome::Failed);
        let failure = result.failure.unwrap();
        format!("{}: {}", failure.code, failure.message)
    }

    #[test]
    fn the_stage_fails_with_the_words_of_the_rank_that_failed_first() {
        let others = || failed("dist::failed", "rank 1 failed: no space");
        assert_eq!(message(&[others(), failed("train::io", "no space"), others()]), "train::io: rank 1: no space");
        let gone = || failed("dist::dead", "rank 2 is gone: it closed the connection");
        let killed = || ended(libc::SIGKILL, None);
        let words = "stage::killed: rank 2: it was killed by signal 9 (SIGKILL)";
        assert_eq!(message(&[gone(), gone(), killed()]), words);
        assert_eq!(conclude(&[gone(), killed()], false).class, FailureClass::Preempted);
        assert_eq!(
            message(&[succeeded(), ended(3 << 8, None)]),
            "stage::exit: rank 1: it ended with exit code 3 and left no result"
        );
        let same = || failed("train::model", "the vocabulary is too small");
        assert_eq!(message(&[same(), same()]), "train::model: the vocabulary is too small");
        assert_eq!(message(&[same(), gone()]), "train::model: rank 0: the vocabulary is too small");
    }

    #[test]
    fn ranks_that_succeed_or_stop_do_so_together() {
        assert_eq!(conclude(&[succeeded(), succeeded()], true).outcome, Outcome::Succeeded);
        assert_eq!(conclude(&[interrupted(), interrupted()], true).outcome, Outcome::Interrupted);
        // A rank that was asked to stop before it had started its stage.
        let early = || ended(libc::SIGTERM, None);
        assert_eq!(conclude(&[early(), early()], true).outcome, Outcome::Interrupted);
        assert_eq!(conclude(&[early(), early()], false).class, FailureClass::Preempted);
    }

    #[test]
    fn threads_and_gpus_are_divided() {
        assert_eq!([(8, 2), (3, 2), (1, 4)].map(|(threads, count)| threads_per_rank(threads, count)), [4, 1, 1]);
        let gpus = |gpus: &[&'static str], count| (0..count).map(|rank| gpu_of(gpus, rank, count)).collect::<Vec<_>>();
        assert_eq!(gpus(&["a", "b"], 2), [Some("a"), Some("b")]);
        assert_eq!(gpus(&["a", "b"], 4), [Some("a"), Some("a"), Some("b"), Some("b")]);
        assert_eq!(gpus(&[], 2), [None, None]);
    }
}
