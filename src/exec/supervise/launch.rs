//! [`Supervised`]: a stage's process under its supervisor, seen from the engine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use olmo_base::{IoContext, PathError};
use rustix::process::{Pid, Signal};

use crate::exec::error::ExecError;
use crate::exec::grant::Grant;
use crate::exec::supervise::leftovers::end_leftovers;
use crate::exec::supervise::order::{Order, Place};
use crate::exec::supervise::supervisor::Exit;
use crate::exec::supervise::{processes, supervisor as supervise};

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The attempt's folder.
    pub attempt: PathBuf,
    /// Where the stage's process starts.
    pub folder: PathBuf,
    pub argv: Vec<OsString>,
    /// The whole environment of the process, except what the executor adds for the grant.
    pub environment: BTreeMap<String, OsString>,
    /// Number of processes that run `argv`, each as one rank of the stage.
    pub ranks: u32,
    /// The resources that the stage may use.
    pub grant: Grant,
}

/// How a stage's process ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// As the supervisor saw it.
    Seen(Exit),
    /// The supervisor itself was killed.
    Unseen,
}

/// A running stage. Dropping it kills the stage with all its children.
pub struct Supervised {
    supervisor: Child,
    /// Closed, it tells the supervisor to kill everything.
    pipe: Option<ChildStdin>,
    attempt: PathBuf,
    #[cfg(target_os = "linux")]
    exited: Option<std::os::fd::OwnedFd>,
}

/// Overrides how much of a stage's log is kept, in MiB.
const LOG_VARIABLE: &str = "OLMO_PIPE_LOG_MIB";
/// MiB of a stage's log that are kept.
const LOG_MIB: u64 = 64;
/// The first argument of guard and supervisor; see [`supervise`] for why it does not name the project.
const NAME: &str = "stage-guard";

impl Supervised {
    /// Starts a supervisor, which starts the stage.
    pub fn start(launch: &Launch) -> Result<Self, ExecError> {
        let log = launch.attempt.join("supervisor.log");
        let file = File::create(&log).context_during("make", &log)?;
        let place = Place::Attempt(launch.attempt.clone());
        let order = Order { place, log_limit: log_limit()?, argv: launch.argv.clone() };
        let mut command = Command::new(this_program()?);
        command.env_clear().envs(&launch.environment).current_dir(&launch.folder).stderr(file);
        // The stage sees only its own GPUs. Numbers count as this engine counts them.
        command.env("CUDA_VISIBLE_DEVICES", launch.grant.gpus.join(",")).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        Self::with(command, &order, &launch.attempt)
    }

    /// Starts a supervisor for a process that reads and prints open files: standard input, output
    /// and error. `environment` is all of its environment; it starts in `folder`.
    pub fn with_files(
        argv: Vec<OsString>,
        environment: &BTreeMap<String, OsString>,
        folder: &Path,
        files: [&File; 3],
        log_limit: u64,
    ) -> Result<Self, ExecError> {
        let files = files.map(AsRawFd::as_raw_fd);
        let order = Order { place: Place::Files(files), log_limit, argv };
        let mut command = Command::new(this_program()?);
        command.env_clear().envs(environment).current_dir(folder).stderr(Stdio::null());
        // SAFETY: between fork and exec only system calls are made; none allocates.
        unsafe {
            command.pre_exec(move || {
                for file in files {
                    if libc::fcntl(file, libc::F_SETFD, 0) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        Self::with(command, &order, folder)
    }

    fn with(mut command: Command, order: &Order, folder: &Path) -> Result<Self, ExecError> {
        command.arg0(NAME).arg(supervise::COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut supervisor = command.spawn().context_during("start the supervisor in", folder)?;
        let mut pipe = supervisor.stdin.take();
        #[cfg(target_os = "linux")]
        let exited =
            rustix::process::pidfd_open(Pid::from_child(&supervisor), rustix::process::PidfdFlags::empty()).ok();
        // One that was killed already is found out when its end is waited for.
        let sent = pipe.as_mut().map_or(Ok(()), |pipe| order.send(pipe));
        let supervised = Self {
            supervisor,
            pipe,
            attempt: folder.to_owned(),
            #[cfg(target_os = "linux")]
            exited,
        };
        match sent {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(PathError::during("speak with the supervisor in", folder, e).into())
            }
            _ => Ok(supervised),
        }
    }

    /// Waits up to `pause` for the end; `None` while it goes on.
    pub fn wait(&mut self, pause: Duration) -> Result<Option<Ended>, ExecError> {
        self.sleep(pause);
        match self.supervisor.try_wait() {
            Ok(None) => Ok(None),
            Ok(Some(status)) => {
                // If the guard alone was killed, its supervisor lives, and ends the stage now.
                self.pipe = None;
                let mut told = Vec::new();
                if let Some(mut stdout) = self.supervisor.stdout.take() {
                    stdout.read_to_end(&mut told).context_during("hear the supervisor of", &self.attempt)?;
                }
                // Nothing, or half of it: it was killed, and its children may live.
                let exit = serde_json::from_slice::<Exit>(&told).ok().filter(|_| status.success());
                if exit.is_none() {
                    processes::kill_session(self.supervisor.id());
                    // Daemons are in sessions of their own.
                    if let Some(work) = self.attempt.parent().and_then(Path::parent) {
                        let _ = end_leftovers(work);
                    }
                }
                Ok(Some(exit.map_or(Ended::Unseen, Ended::Seen)))
            }
            Err(e) => Err(PathError::during("wait for the supervisor of", &self.attempt, e).into()),
        }
    }

    #[cfg(target_os = "linux")]
    fn sleep(&self, pause: Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(exited) = &self.exited else { return std::thread::sleep(pause) };
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        // An early return only makes the caller look once more.
        let _ = poll(&mut [PollFd::new(exited, PollFlags::IN)], Some(&pause));
    }

    #[cfg(not(target_os = "linux"))]
    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    /// Asks the stage to save its state and stop. Call only before [`Supervised::wait`] told
    /// the end: afterwards the process number is somebody else's.
    pub fn terminate(&self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.supervisor), Signal::TERM);
    }

    /// Asks the stage to save its state and go on. As for [`Supervised::terminate`].
    pub fn save(&self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.supervisor), Signal::USR1);
    }

    /// Kills the stage with all its children, at once.
    pub fn kill(&mut self) {
        self.pipe = None;
    }
}

/// Bytes that are kept of a stage's log.
fn log_limit() -> Result<u64, ExecError> {
    let Some(text) = std::env::var_os(LOG_VARIABLE).filter(|text| !text.is_empty()) else { return Ok(LOG_MIB << 20) };
    let number = text.to_str().and_then(|text| text.parse::<u64>().ok()).filter(|mib| (1..1 << 20).contains(mib));
    let wrong = || ExecError::Variable { name: LOG_VARIABLE, value: text.to_string_lossy().into(), expected: "MiB" };
    Ok(number.ok_or_else(wrong)? << 20)
}

/// The running program, also after its file was replaced by a newer build.
fn this_program() -> Result<PathBuf, ExecError> {
    if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        Ok(std::env::current_exe().context_during("find the program", "olmo-pipe")?)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.pipe = None;
        // Collects the supervisor, which ends once all below it are gone.
        let _ = self.supervisor.wait();
    }
}
