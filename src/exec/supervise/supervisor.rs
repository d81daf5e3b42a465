//! The supervisor, `olmo-pipe __supervise`: two small processes between the engine and a stage.
//! They make sure that no stage outlives its engine, however either of them ends.
//!
//! The engine starts the **guard**, which leads its own session, so that Ctrl-C on the terminal
//! reaches only the engine. The guard forks the **supervisor**, which starts the stage. Both adopt
//! all orphans below them, and hold the read end of a pipe whose write end only the engine has.
//! When the pipe closes, because the engine closed it or died, the supervisor kills all its
//! descendants. If the supervisor dies, the guard does so. Neither has the name of the project or
//! the store in its arguments, so `pkill -f` with such a name hits only the engine. If engine,
//! guard and supervisor are all killed at once, the remaining processes of the stage still hold
//! `supervisor.lock`, and the next engine kills them
//! ([`crate::exec::attempt::Work::kill_leftovers`]).
//!
//! The guard forwards SIGTERM, SIGINT and SIGUSR1 to the supervisor. The supervisor forwards
//! SIGTERM and SIGINT to the stage's process group, and SIGUSR1 (save now) only to the stage's
//! first process. When the stage ends, the supervisor kills the processes that it left behind.
//! Last, it reports the end on its standard output and in `exit.json`: `{"code":0}`, `{"signal":9}`
//! or `{"error":"cannot start …"}`, with the resources that the stage used.
//!
//! There are two locks next to the folder of attempts. `supervisor.lock` is held by the guard, the
//! supervisor, and every process of the stage that has not closed it. Therefore the next attempt at
//! the same work starts only after the last process of this one has ended, and until then the
//! stage's resources count as in use (see the leases). `guard.lock` is held only by the guard and
//! the supervisor.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use olmo_base::LockedFile;
use olmo_base::files::{self, Durability, open_or_create_regular};
use olmo_stage::signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::exec::supervise::order::{Order, Place};
use crate::exec::supervise::processes;
use crate::exec::supervise::redact::{self, Redactor};
use crate::exec::supervise::stage_log::StageLog;

/// The name of the hidden command.
pub const COMMAND: &str = "__supervise";
/// File in the attempt's folder with the standard output and error of the stage's process.
pub const LOG: &str = "stage.log";
/// File in the attempt's folder that says how the stage's process ended.
pub(super) const EXIT: &str = "exit.json";
/// Lock file next to the folder of attempts, held by every process of an attempt.
pub const LOCK: &str = "supervisor.lock";
/// Lock file next to the folder of attempts, held only by the guard and the supervisor.
pub const GUARD: &str = "guard.lock";
/// How long the supervisor may take to end a stage whose engine has died.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// How the stage's process ended, and the resources that it and its children used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// The exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of processes that were still alive when the stage ended or had to end, and were
    /// killed.
    #[serde(default)]
    pub left_behind: usize,
    /// Whether the system ran out of memory and killed a process while the stage ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory_ran_out: bool,
    /// CPU time in seconds.
    #[serde(default)]
    pub cpu_s: f64,
    /// Peak memory of the largest process in KiB.
    #[serde(default)]
    pub max_rss_kib: u64,
}

/// Runs the hidden command, which reads its order from standard input.
pub fn main() -> ExitCode {
    signals::reset();
    let order = match Order::receive(&mut *stdin()) {
        Ok(order) => order,
        Err(e) => {
            // `eprintln!` would panic if standard error is closed.
            let _ = writeln!(io::stderr(), "{COMMAND} can only be started by olmo-pipe itself: {e}");
            return ExitCode::from(2);
        }
    };
    // This fails only if the process already leads a group, as when started by hand. Then it stays
    // in its session.
    let _ = rustix::process::setsid();
    adopt_orphans();
    let locks = match &order.place {
        Place::Attempt(folder) => match lock(folder) {
            Ok(Some(locks)) => Some(locks),
            Ok(None) => return report(&order, &failed("the engine has died")),
            Err(e) => return report(&order, &failed(format!("cannot lock the stage's work: {e}"))),
        },
        Place::Files(_) => None,
    };
    // SAFETY: this process has a single thread, so the child may call any function.
    match unsafe { libc::fork() } {
        -1 => report(&order, &failed(format!("cannot start a process: {}", io::Error::last_os_error()))),
        0 => {
            adopt_orphans();
            let exit = supervise(&order, locks.as_ref());
            report(&order, &exit.unwrap_or_else(|e| failed(format!("the supervisor failed: {e}"))))
        }
        child => guard(Pid::from_raw(child)),
    }
}

fn failed(why: impl Into<String>) -> Exit {
    Exit { error: Some(why.into()), ..Exit::default() }
}

/// Reports `exit` to the engine and writes it to the attempt's folder.
fn report(order: &Order, exit: &Exit) -> ExitCode {
    let text = serde_json::to_string(exit).unwrap_or_default();
    // Report to the engine first, since a pipe works even if the disk is full. The engine may have
    // died.
    let _ = writeln!(io::stdout(), "{text}");
    if let Place::Attempt(folder) = &order.place
        && let Err(e) = write_exit(folder, exit)
    {
        let _ = writeln!(io::stderr(), "cannot write {}: {e}", folder.join(EXIT).display());
    }
    ExitCode::SUCCESS
}

/// Makes this process the parent of orphans among its descendants.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// The pipe from the engine, unbuffered, since `poll` does not see buffered data.
fn stdin() -> std::mem::ManuallyDrop<File> {
    // SAFETY: the standard library keeps the descriptor open, and `ManuallyDrop` never closes it.
    std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDIN_FILENO) })
}

/// Waits for the supervisor to end, then kills all remaining processes.
fn guard(supervisor: Option<Pid>) -> ExitCode {
    let (Some(supervisor), Ok(mut wakers)) = (supervisor, Wakers::new()) else {
        // The supervisor ends by itself when the pipe closes.
        return ExitCode::from(2);
    };
    let (mut exit, mut running) = (Exit::default(), true);
    let mut gone: Option<Instant> = None;
    while running && gone.is_none_or(|since| since.elapsed() < END_TIMEOUT) {
        // The supervisor notices the closed pipe as well, and ends the stage.
        if wakers.wait(Duration::from_secs(1)).unwrap_or(true) {
            gone.get_or_insert_with(Instant::now);
        }
        let signals =
            [(&wakers.terminate, Signal::TERM), (&wakers.interrupt, Signal::INT), (&wakers.save, Signal::USR1)];
        for (flag, signal) in signals {
            if flag.swap(false, Ordering::SeqCst) {
                let _ = rustix::process::kill_process(supervisor, signal);
            }
        }
        reap(supervisor, &mut exit, &mut running);
    }
    sweep(supervisor, &mut exit, &mut running);
    ExitCode::SUCCESS
}

/// The events that wake the guard and the supervisor.
struct Wakers {
    bell: UnixStream,
    /// Whether the engine's pipe is closed.
    ended: bool,
    terminate: Arc<AtomicBool>,
    interrupt: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
}

impl Wakers {
    fn new() -> io::Result<Self> {
        let (bell, ring) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        let wakers =
            Self { bell, ended: false, terminate: Arc::default(), interrupt: Arc::default(), save: Arc::default() };
        // Register each flag first, so that it is set when the bell wakes the process.
        signal_hook::flag::register(SIGTERM, wakers.terminate.clone())?;
        signal_hook::flag::register(SIGHUP, wakers.terminate.clone())?;
        signal_hook::flag::register(SIGINT, wakers.interrupt.clone())?;
        signal_hook::flag::register(SIGUSR1, wakers.save.clone())?;
        for signal in [SIGTERM, SIGHUP, SIGINT, SIGUSR1, SIGCHLD] {
            signal_hook::low_level::pipe::register(signal, ring.try_clone()?)?;
        }
        Ok(wakers)
    }

    /// Waits until a signal arrives, the engine's pipe closes, or `pause` is over. Returns true
    /// once the pipe is closed.
    fn wait(&mut self, pause: Duration) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut fds = [PollFd::new(&self.bell, PollFlags::IN), PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        let watched = if self.ended { 1 } else { 2 };
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        match poll(&mut fds[..watched], Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let is_readable = !self.ended && !fds[1].revents().is_empty();
        let mut sink = [0u8; 256];
        while matches!(self.bell.read(&mut sink), Ok(n) if n > 0) {}
        // The engine writes nothing after the order, so a readable pipe is closed.
        self.ended |= is_readable && !matches!(rustix::io::read(stdin.as_fd(), &mut sink), Ok(n) if n > 0);
        Ok(self.ended)
    }
}

/// Standard input and output of the stage's process.
struct Streams {
    input: Stdio,
    output: File,
    error: File,
    copiers: Vec<JoinHandle<io::Result<()>>>,
}

impl Streams {
    fn open(order: &Order) -> io::Result<Self> {
        let redactor = Arc::new(Redactor::from_environment());
        match &order.place {
            Place::Attempt(folder) => {
                let log = StageLog::open(&folder.join(LOG), order.log_limit)?;
                let (output, copier) = redactor.redact_into(log)?;
                let error = output.try_clone()?;
                Ok(Self { input: Stdio::null(), output, error, copiers: vec![copier] })
            }
            Place::Files(files) => {
                let [input, output, error] = files.map(take_over);
                let (output, first) = redactor.clone().redact_into(StageLog::new(output, order.log_limit))?;
                let (error, second) = redactor.redact_into(StageLog::new(error, order.log_limit))?;
                Ok(Self { input: input.into(), output, error, copiers: vec![first, second] })
            }
        }
    }
}

/// Takes over the file descriptor `number`, which the engine left open for this process. The stage
/// does not inherit it.
fn take_over(number: RawFd) -> File {
    // SAFETY: the engine opened the descriptor for this process, and nothing else uses it.
    let file = unsafe { File::from_raw_fd(number) };
    let _ = rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC);
    file
}

fn supervise(order: &Order, locks: Option<&Locks>) -> io::Result<Exit> {
    let mut wakers = Wakers::new()?;
    let Streams { input, output, error, copiers } = Streams::open(order)?;
    let memory_kills = memory_kills();
    let inherited = locks.map(|locks| locks.stage.file().as_raw_fd());
    let stage = match start(&order.argv, input, output, error, inherited) {
        Ok(pid) => pid,
        Err(e) => return Ok(failed(format!("cannot start `{}`: {e}", order.argv[0].display()))),
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
        // Only the first process is known to handle SIGUSR1. It would end any other one.
        if wakers.save.swap(false, Ordering::SeqCst) {
            let _ = rustix::process::kill_process(stage, Signal::USR1);
        }
        reap(stage, &mut exit, &mut running);
    }
    exit.left_behind = sweep(stage, &mut exit, &mut running);
    // All processes that could print have ended, so the copiers end. Search `/proc` only if
    // necessary, since that takes longer than everything else here.
    if no_children() || processes::descendants(std::process::id()).is_empty() {
        for copier in copiers {
            copier.join().map_err(|_| io::Error::other("the thread that copies the log panicked"))??;
        }
    }
    (exit.cpu_s, exit.max_rss_kib) = usage();
    exit.memory_ran_out = exit.code != Some(0) && self::memory_kills() > memory_kills;
    Ok(exit)
}

/// How many processes the system has killed since boot because it ran out of memory. 0 if it does
/// not report that.
fn memory_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// The locks on a stage's work.
struct Locks {
    /// Inherited by the stage, which holds it until its last process ends.
    stage: LockedFile,
    _guard: LockedFile,
}

/// Takes the locks on the work of the attempt in `folder`. Returns `None` if the engine dies in the
/// meantime.
fn lock(folder: &Path) -> io::Result<Option<Locks>> {
    let work = folder.parent().and_then(Path::parent).unwrap_or(folder);
    let Some(guard) = wait_for_lock(&work.join(GUARD))? else { return Ok(None) };
    let Some(stage) = wait_for_lock(&work.join(LOCK))? else { return Ok(None) };
    Ok(Some(Locks { stage: stage.share_with_children(), _guard: guard }))
}

fn wait_for_lock(path: &Path) -> io::Result<Option<LockedFile>> {
    let stdin = io::stdin();
    let pause = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    LockedFile::from_file_while(open_or_create_regular(path)?, || {
        let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&pause));
        // The engine writes nothing after the order, so a readable pipe is closed.
        fds[0].revents().is_empty()
    })
}

/// Starts the stage in its own process group. Its first process dies with this one. It inherits the
/// file descriptor `inherited`.
fn start(argv: &[OsString], input: Stdio, output: File, error: File, inherited: Option<RawFd>) -> io::Result<Pid> {
    let mut command = Command::new(&argv[0]);
    command.env_remove(redact::VARIABLE).args(&argv[1..]).process_group(0);
    command.stdin(input).stdout(output).stderr(error);
    let supervisor = rustix::process::getpid();
    // SAFETY: between fork and exec, only system calls are made, and nothing allocates.
    unsafe {
        command.pre_exec(move || {
            signals::set_defaults();
            if let Some(inherited) = inherited {
                libc::fcntl(inherited, libc::F_SETFD, 0);
            }
            #[cfg(target_os = "linux")]
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The supervisor may have died before the death signal was set.
            if rustix::process::getppid() == Some(supervisor) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
    // `Child::wait` is not used, since `reap` collects all children, including orphans.
    Ok(Pid::from_child(&command.spawn()?))
}

/// Collects all children that have ended. Records how the stage ended.
fn reap(stage: Pid, exit: &mut Exit, running: &mut bool) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == stage {
            *running = false;
            exit.code = status.exit_status();
            exit.signal = status.terminating_signal();
        }
    }
}

/// Kills all descendants until none are left. Returns how many there were at first.
fn sweep(stage: Pid, exit: &mut Exit, running: &mut bool) -> usize {
    let mut first = None;
    // Give up eventually: a process that the kernel cannot end, because it is stuck in a device
    // driver, must not block the engine forever.
    for _ in 0..5000 {
        if !*running && no_children() {
            return first.unwrap_or(0);
        }
        // Once the stage was reaped, its PID may belong to another process group.
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

/// Whether this process has no descendants. Every orphan among its descendants becomes its child,
/// so without children there are no descendants, and `/proc` need not be searched.
fn no_children() -> bool {
    cfg!(target_os = "linux") && matches!(rustix::process::wait(WaitOptions::NOHANG), Err(rustix::io::Errno::CHILD))
}

/// CPU time of all children in seconds, and the peak memory of the largest one in KiB.
fn usage() -> (f64, u64) {
    // SAFETY: getrusage fills the given struct, for which all zeros is a valid value.
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

/// Writes `exit.json` atomically. It is not synced to disk, since it only informs the user.
fn write_exit(attempt: &Path, exit: &Exit) -> io::Result<()> {
    files::write(&attempt.join(EXIT), &serde_json::to_vec(exit)?, Durability::Process)
}
