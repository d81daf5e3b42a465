//! The supervisor, `olmo-pipe __supervise`: two small processes between the engine and a stage, so
//! that no stage outlives its engine, however either of them ends.
//!
//! The engine starts the **guard**, which leads a session of its own (Ctrl-C on the terminal reaches
//! the engine alone) and forks the **supervisor**, which starts the stage. Both adopt every orphan
//! below them and hold the reading end of a pipe whose writing end only the engine has. When the
//! pipe ends, because the engine closed it or died, the supervisor kills every descendant; when the
//! supervisor dies, the guard does. Neither has the project's or the store's name in its arguments,
//! so a `pkill -f` that aims at the engine misses them. If all three are killed at once, what the
//! stage left behind still holds `supervisor.lock`, and the next engine ends it
//! ([`crate::exec::attempt::Work::end_leftovers`]).
//!
//! The guard passes SIGTERM, SIGINT and SIGUSR1 on to the supervisor, which passes the first two on
//! to the stage's process group and SIGUSR1 (save now) to its first process, kills what the stage
//! leaves behind, and reports the end last, on its standard output and as `exit.json`:
//! `{"code":0}`, `{"signal":9}` or `{"error":"cannot start …"}` with what the stage used.
//!
//! Two locks lie beside the folder of attempts. `supervisor.lock` is held by guard, supervisor and
//! every process of the stage that has not closed it: so the next attempt at the same work starts
//! after the last process of this one is gone, and what the stage occupies counts as occupied until
//! then ([`crate::run`], leases). `guard.lock` is held by guard and supervisor alone.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
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

/// The hidden command.
pub const COMMAND: &str = "__supervise";
/// What the stage's process wrote to its standard output and error, in the attempt's folder.
pub const LOG: &str = "stage.log";
/// How the stage's process ended, in the attempt's folder.
pub const EXIT: &str = "exit.json";
/// Beside the folder of attempts; see the module.
pub const LOCK: &str = "supervisor.lock";
/// Beside the folder of attempts; see the module.
pub const GUARD: &str = "guard.lock";
/// How long the supervisor may take to end a stage whose engine is gone.
const END_WITHIN: Duration = Duration::from_secs(20);

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

/// Runs the command, with the order on standard input.
pub fn main() -> ExitCode {
    signals::reset();
    let order = match Order::receive(&mut *stdin()) {
        Ok(order) => order,
        Err(e) => {
            // Not through `eprintln!`, which panics where nobody can read.
            let _ = writeln!(io::stderr(), "{COMMAND} is started by olmo-pipe itself: {e}");
            return ExitCode::from(2);
        }
    };
    // Fails only if this process leads a group already, as when typed by hand; then it stays there.
    let _ = rustix::process::setsid();
    adopt_orphans();
    let locks = match &order.place {
        Place::Attempt(folder) => match lock(folder) {
            Ok(Some(locks)) => Some(locks),
            Ok(None) => return report(&order, &failed("the engine is gone")),
            Err(e) => return report(&order, &failed(format!("cannot lock the stage's work: {e}"))),
        },
        Place::Files(_) => None,
    };
    // SAFETY: this process has one thread, so the child may do whatever this one may.
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

/// Tells the engine, and whoever looks into the attempt's folder.
fn report(order: &Order, exit: &Exit) -> ExitCode {
    let text = serde_json::to_string(exit).unwrap_or_default();
    // To the engine first: a pipe needs no room on the disk. It may be gone.
    let _ = writeln!(io::stdout(), "{text}");
    if let Place::Attempt(folder) = &order.place
        && let Err(e) = write_exit(folder, exit)
    {
        let _ = writeln!(io::stderr(), "cannot write {}: {e}", folder.join(EXIT).display());
    }
    ExitCode::SUCCESS
}

/// Whatever loses its parent below this process becomes its child.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// The pipe from the engine, without a buffer that would hide what it holds from `poll`.
fn stdin() -> std::mem::ManuallyDrop<File> {
    // SAFETY: the standard library keeps the descriptor open; the value never closes it.
    std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDIN_FILENO) })
}

/// Waits for the end of the supervisor, and kills what is left then.
fn guard(supervisor: Option<Pid>) -> ExitCode {
    let (Some(supervisor), Ok(mut wakers)) = (supervisor, Wakers::new()) else {
        // The supervisor sees the end of the pipe.
        return ExitCode::from(2);
    };
    let (mut exit, mut running) = (Exit::default(), true);
    let mut gone: Option<Instant> = None;
    while running && gone.is_none_or(|since| since.elapsed() < END_WITHIN) {
        // The supervisor sees the same end, and acts on it.
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

/// What can wake the guard and the supervisor.
struct Wakers {
    bell: UnixStream,
    /// The engine's pipe has ended.
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

    /// Waits for a signal, the end of the engine's pipe, or `pause`; true once the pipe has ended.
    fn wait(&mut self, pause: Duration) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut fds = [PollFd::new(&self.bell, PollFlags::IN), PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        let watched = if self.ended { 1 } else { 2 };
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        match poll(&mut fds[..watched], Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let speaks = !self.ended && !fds[1].revents().is_empty();
        let mut sink = [0u8; 256];
        while matches!(self.bell.read(&mut sink), Ok(n) if n > 0) {}
        // The engine writes nothing more: what can be read is the end.
        self.ended |= speaks && !matches!(rustix::io::read(stdin.as_fd(), &mut sink), Ok(n) if n > 0);
        Ok(self.ended)
    }
}

/// Where the stage's process reads and prints.
struct Streams {
    input: Stdio,
    output: File,
    error: File,
    carriers: Vec<JoinHandle<io::Result<()>>>,
}

impl Streams {
    fn open(order: &Order) -> io::Result<Self> {
        let redactor = Arc::new(Redactor::from_environment());
        match &order.place {
            Place::Attempt(folder) => {
                let log = StageLog::open(&folder.join(LOG), order.log_limit)?;
                let (output, carrier) = redactor.before(log)?;
                let error = output.try_clone()?;
                Ok(Self { input: Stdio::null(), output, error, carriers: vec![carrier] })
            }
            Place::Files(files) => {
                let [input, output, error] = files.map(take_over);
                let (output, first) = redactor.clone().before(StageLog::new(output, order.log_limit))?;
                let (error, second) = redactor.before(StageLog::new(error, order.log_limit))?;
                Ok(Self { input: input.into(), output, error, carriers: vec![first, second] })
            }
        }
    }
}

/// The open file `number`, which the engine left open for this process and which the stage is not to inherit.
fn take_over(number: RawFd) -> File {
    // SAFETY: the engine opened it for this process, and nothing else here knows the number.
    let file = unsafe { File::from_raw_fd(number) };
    let _ = rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC);
    file
}

fn supervise(order: &Order, locks: Option<&Locks>) -> io::Result<Exit> {
    let mut wakers = Wakers::new()?;
    let Streams { input, output, error, carriers } = Streams::open(order)?;
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
        // To the one process that the engine knows to understand it: others would die of it.
        if wakers.save.swap(false, Ordering::SeqCst) {
            let _ = rustix::process::kill_process(stage, Signal::USR1);
        }
        reap(stage, &mut exit, &mut running);
    }
    exit.left_behind = sweep(stage, &mut exit, &mut running);
    // Every process that could print is gone, so the carriers end. A search of `/proc` takes longer
    // than everything else here.
    if no_children() || processes::descendants(std::process::id()).is_empty() {
        for carrier in carriers {
            carrier.join().map_err(|_| io::Error::other("the thread that carries the log panicked"))??;
        }
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

/// The locks on a stage's work.
struct Locks {
    /// Inherited by the stage, which holds it until it ends.
    stage: LockedFile,
    _guard: LockedFile,
}

/// Takes the locks on the work that the attempt in `folder` belongs to; `None` if the engine goes away meanwhile.
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
        // The engine writes nothing more: readable means that its end of the pipe is closed.
        fds[0].revents().is_empty()
    })
}

/// Starts the stage in a process group of its own, which dies with this process. It inherits the open file `inherited`.
fn start(argv: &[OsString], input: Stdio, output: File, error: File, inherited: Option<RawFd>) -> io::Result<Pid> {
    let mut command = Command::new(&argv[0]);
    command.env_remove(redact::VARIABLE).args(&argv[1..]).process_group(0);
    command.stdin(input).stdout(output).stderr(error);
    let supervisor = rustix::process::getpid();
    // SAFETY: between fork and exec only system calls are made; none allocates.
    unsafe {
        command.pre_exec(move || {
            signals::set_defaults();
            if let Some(inherited) = inherited {
                libc::fcntl(inherited, libc::F_SETFD, 0);
            }
            #[cfg(target_os = "linux")]
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The supervisor may have died before the line above.
            if rustix::process::getppid() == Some(supervisor) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
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

/// Writes `exit.json`, complete or not at all. It is not synced: it only informs the user.
fn write_exit(attempt: &Path, exit: &Exit) -> io::Result<()> {
    files::write(&attempt.join(EXIT), &serde_json::to_vec(exit)?, Durability::Process)
}
