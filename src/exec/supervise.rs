//! The supervisor, `olmo-pipe __supervise ATTEMPT_DIR -- ARGV…`: one small process between the
//! engine and a stage, so that no stage outlives its engine, however either of them ends.
//!
//! It leads a session of its own (Ctrl-C on the terminal reaches the engine alone), adopts every
//! orphan below it, and holds the reading end of a pipe whose writing end only the engine has.
//! When the pipe ends, because the engine closed it or died, every descendant is killed. It
//! passes SIGTERM and SIGINT on to the stage's process group and SIGUSR1 (save now) to its first
//! process, kills what a stage leaves behind, and tells the end last, on its standard output and
//! as `exit.json`: `{"code":0}`, `{"signal":9}` or `{"error":"cannot start …"}` with what the
//! stage used. While it lives it holds a lock on `supervisor.lock` beside the folder of attempts:
//! so the next attempt at the same work starts after the last process of this one is gone, and
//! what the stage occupies counts as occupied until then ([`crate::run`], leases).

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::processes;
use super::redact::{self, Redactor};

/// The hidden command.
pub const COMMAND: &str = "__supervise";
/// What the stage's process wrote to its standard output and error, in the attempt's folder.
pub const LOG: &str = "stage.log";
/// How the stage's process ended, in the attempt's folder.
pub const EXIT: &str = "exit.json";
/// Beside the folder of attempts; see the module.
pub const LOCK: &str = "supervisor.lock";

/// How the stage's process ended, and what it and its children used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Its exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Processes that still lived when it ended, or was to end, and were killed.
    #[serde(default)]
    pub left_behind: usize,
    /// The system ran out of memory, and killed something, while it ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory_ran_out: bool,
    /// Processor time in seconds.
    #[serde(default)]
    pub cpu_s: f64,
    /// The largest process, in KiB.
    #[serde(default)]
    pub max_rss_kib: u64,
}

/// Runs the command; `arguments` are those after `__supervise`.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let (attempt, argv) = match arguments {
        [attempt, dashes, argv @ ..] if dashes == OsStr::new("--") && !argv.is_empty() => {
            (PathBuf::from(attempt), argv)
        }
        _ => {
            eprintln!("{COMMAND} is started by olmo-pipe itself: {COMMAND} ATTEMPT_DIR -- ARGV…");
            return ExitCode::from(2);
        }
    };
    let ended = supervise(&attempt, argv).and_then(|exit| {
        // To the engine first: a pipe needs no room on the disk.
        println!("{}", serde_json::to_string(&exit)?);
        write_exit(&attempt, &exit)
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("the supervisor of {} failed: {e}", attempt.display());
            ExitCode::from(2)
        }
    }
}

/// What can wake the supervisor.
struct Wakers {
    bell: UnixStream,
    terminate: Arc<AtomicBool>,
    interrupt: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
}

impl Wakers {
    fn new() -> io::Result<Self> {
        let (bell, ring) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        let wakers = Self { bell, terminate: Arc::default(), interrupt: Arc::default(), save: Arc::default() };
        // Each flag first: when the bell rings, it is up.
        signal_hook::flag::register(SIGTERM, wakers.terminate.clone())?;
        signal_hook::flag::register(SIGHUP, wakers.terminate.clone())?;
        signal_hook::flag::register(SIGINT, wakers.interrupt.clone())?;
        signal_hook::flag::register(SIGUSR1, wakers.save.clone())?;
        for signal in [SIGTERM, SIGHUP, SIGINT, SIGUSR1, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, ring.try_clone()?)?;
        }
        Ok(wakers)
    }

    /// Waits for a signal, the end of the engine's pipe, or `pause`; true once the pipe ended.
    fn wait(&mut self, pause: Duration) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut fds = [PollFd::new(&self.bell, PollFlags::IN), PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        match poll(&mut fds, Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let speaks = !fds[1].revents().is_empty();
        let mut sink = [0u8; 256];
        while matches!(self.bell.read(&mut sink), Ok(n) if n > 0) {}
        // The engine never writes: what can be read is the end.
        Ok(speaks && !matches!(rustix::io::read(stdin.as_fd(), &mut sink), Ok(n) if n > 0))
    }
}

fn supervise(attempt: &Path, argv: &[OsString]) -> io::Result<Exit> {
    // Fails only if this process leads a group already, as when typed by hand; then it stays there.
    let _ = rustix::process::setsid();
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut wakers = Wakers::new()?;
    let Some(_lock) = lock(attempt, &mut wakers)? else {
        return Ok(Exit { error: Some("the engine is gone".into()), ..Exit::default() });
    };
    let log = OpenOptions::new().create(true).append(true).open(attempt.join(LOG))?;
    let (log, carrier) = Redactor::from_environment().before(log)?;
    let memory_kills = memory_kills();
    let stage = match start(argv, &log) {
        Ok(pid) => pid,
        Err(e) => {
            let error = format!("cannot start `{}`: {e}", argv[0].display());
            return Ok(Exit { error: Some(error), ..Exit::default() });
        }
    };
    let mut exit = Exit::default();
    let mut running = true;
    while running {
        if wakers.wait(Duration::from_secs(1))? {
            break;
        }
        for (flag, signal) in [(&wakers.terminate, Signal::TERM), (&wakers.interrupt, Signal::INT)] {
            if flag.swap(false, Ordering::SeqCst) {
                let _ = rustix::process::kill_process_group(stage, signal);
            }
        }
        // To the one process that the engine knows to understand it: others would die of it.
        if wakers.save.swap(false, Ordering::SeqCst) {
            let _ = rustix::process::kill_process(stage, Signal::USR1);
        }
        reap(stage, &mut exit, &mut running);
    }
    exit.left_behind = sweep(stage, &mut exit, &mut running);
    // All that could print is gone: once this process lets go as well, the last line is carried.
    drop(log);
    if let Some(carrier) = carrier.filter(|_| processes::descendants(std::process::id()).is_empty()) {
        carrier.join().map_err(|_| io::Error::other("the thread that carries the log panicked"))??;
    }
    (exit.cpu_s, exit.max_rss_kib) = usage();
    exit.memory_ran_out = exit.code != Some(0) && self::memory_kills() > memory_kills;
    Ok(exit)
}

/// How many processes the system has killed for want of memory since it started; 0 where it does not say.
fn memory_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Takes the lock on this work; `None` if the engine goes away meanwhile.
fn lock(attempt: &Path, wakers: &mut Wakers) -> io::Result<Option<File>> {
    let work = attempt.parent().and_then(Path::parent).unwrap_or(attempt);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(work.join(LOCK))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(e),
        }
        if wakers.wait(Duration::from_millis(5))? {
            return Ok(None);
        }
    }
}

/// Starts the stage in a process group of its own, which dies with this process.
fn start(argv: &[OsString], log: &File) -> io::Result<Pid> {
    let mut command = Command::new(&argv[0]);
    command
        .env_remove(redact::VARIABLE)
        .args(&argv[1..])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .process_group(0);
    #[cfg(target_os = "linux")]
    {
        let supervisor = rustix::process::getpid();
        // SAFETY: between fork and exec only two system calls are made; neither allocates.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The supervisor may have died before the line above.
                if rustix::process::getppid() == Some(supervisor) {
                    Ok(())
                } else {
                    Err(io::ErrorKind::BrokenPipe.into())
                }
            });
        }
    }
    // Not `Child::wait`: `reap` collects every child, orphans included.
    Ok(Pid::from_child(&command.spawn()?))
}

/// Collects all children that ended; notes how the stage did.
fn reap(stage: Pid, exit: &mut Exit, running: &mut bool) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == stage {
            *running = false;
            exit.code = status.exit_status();
            exit.signal = status.terminating_signal();
        }
    }
}

/// Kills all descendants until there are none; how many there were at the first look.
fn sweep(stage: Pid, exit: &mut Exit, running: &mut bool) -> usize {
    let mut first = None;
    // A process that the kernel cannot end (stuck in a device) must not hold the engine for ever.
    for _ in 0..5000 {
        if !*running && no_children() {
            return first.unwrap_or(0);
        }
        // Once the stage is collected, its number may name somebody else's group.
        if *running || cfg!(not(target_os = "linux")) {
            let _ = rustix::process::kill_process_group(stage, Signal::KILL);
        }
        let left = processes::descendants(std::process::id());
        processes::kill_all(&left);
        reap(stage, exit, running);
        let count = *first.get_or_insert(left.len());
        if left.is_empty() && !*running {
            return count;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    first.unwrap_or(0)
}

/// Whether nothing is left below this process. Every orphan below it becomes its child, so
/// without children there are no descendants, and `/proc` need not be searched.
fn no_children() -> bool {
    cfg!(target_os = "linux") && matches!(rustix::process::wait(WaitOptions::NOHANG), Err(rustix::io::Errno::CHILD))
}

/// Processor seconds of all children, and the largest one in KiB.
fn usage() -> (f64, u64) {
    // SAFETY: getrusage fills the struct it is given, for which all zeros is a valid value.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_CHILDREN, &mut used) != 0 {
            return (0.0, 0);
        }
        used
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    (seconds(used.ru_utime) + seconds(used.ru_stime), u64::try_from(used.ru_maxrss).unwrap_or(0))
}

/// `exit.json`, complete or not there. Not synced: it tells a person what happened, and decides nothing.
fn write_exit(attempt: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = attempt.join("exit.json.tmp");
    std::fs::write(&temporary, serde_json::to_vec(exit)?)?;
    std::fs::rename(temporary, attempt.join(EXIT))
}
