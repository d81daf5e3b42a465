//! [`Supervised`]: the engine's handle to a stage's process and its supervisor.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use olmo_base::{IoContext as _, PathError};
use rustix::process::{Pid, Signal};

use crate::exec::error::ExecError;
use crate::exec::grant::Grant;
use crate::exec::supervise::leftovers::kill_leftovers;
use crate::exec::supervise::order::{Order, Place};
use crate::exec::supervise::supervisor::Exit;
use crate::exec::supervise::{processes, supervisor as supervise};

/// A process to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The attempt's folder.
    pub attempt: PathBuf,
    /// The working folder of the stage's process.
    pub folder: PathBuf,
    pub argv: Vec<OsString>,
    /// The whole environment of the process, except what the executor adds for the grant.
    pub environment: BTreeMap<String, OsString>,
    /// Number of ranks of the stage. An executor may start `argv` once for each, as `srun` does. If it
    /// starts one process, that one starts the ranks.
    pub ranks: u32,
    /// The resources that the stage may use.
    pub grant: Grant,
}

/// How a stage's process ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// It exited, as the supervisor reported.
    Exited(Exit),
    /// The supervisor was killed before it could report the end.
    SupervisorKilled,
}

/// A running stage. Dropping it kills the stage with all its children.
pub struct Supervised {
    supervisor: Child,
    /// Closing this pipe tells the supervisor to kill everything.
    pipe: Option<ChildStdin>,
    attempt: PathBuf,
    #[cfg(target_os = "linux")]
    exited: Option<std::os::fd::OwnedFd>,
}

/// Overrides the limit on a stage's log, in MiB.
const LOG_VARIABLE: &str = "OLMO_PIPE_LOG_MIB";
/// The default limit on a stage's log, in MiB.
const LOG_MIB: u64 = 64;
/// The name of the guard and the supervisor in the process table. See [`supervise`] for why it does
/// not name the project.
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
        // The stage sees only its own GPUs, numbered in the order that this engine uses.
        command.env("CUDA_VISIBLE_DEVICES", launch.grant.gpus.join(",")).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        Self::spawn(command, &order, &launch.attempt)
    }

    /// Starts a supervisor for a process in `folder` whose standard input, output and error are
    /// `files`. `environment` is its whole environment.
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
        // SAFETY: between fork and exec, only system calls are made, and nothing allocates.
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
        Self::spawn(command, &order, folder)
    }

    fn spawn(mut command: Command, order: &Order, folder: &Path) -> Result<Self, ExecError> {
        command.arg0(NAME).arg(supervise::COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut supervisor = command.spawn().context_during("start the supervisor in", folder)?;
        let mut pipe = supervisor.stdin.take();
        #[cfg(target_os = "linux")]
        let exited =
            rustix::process::pidfd_open(Pid::from_child(&supervisor), rustix::process::PidfdFlags::empty()).ok();
        // If the supervisor was already killed, `wait` reports it.
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
                Err(PathError::during("write to the supervisor in", folder, e).into())
            }
            _ => Ok(supervised),
        }
    }

    /// Waits up to `pause` for the process to end. Returns `None` while it runs.
    pub fn wait(&mut self, pause: Duration) -> Result<Option<Ended>, ExecError> {
        self.sleep(pause);
        match self.supervisor.try_wait() {
            Ok(None) => Ok(None),
            Ok(Some(status)) => {
                // If only the guard was killed, the supervisor is alive, and ends the stage once
                // the pipe is closed.
                self.pipe = None;
                let mut report = Vec::new();
                if let Some(mut stdout) = self.supervisor.stdout.take() {
                    stdout.read_to_end(&mut report).context_during("read from the supervisor of", &self.attempt)?;
                }
                // If the report is missing or incomplete, the supervisor was killed, and its
                // children may be alive.
                let exit = serde_json::from_slice::<Exit>(&report).ok().filter(|_| status.success());
                if exit.is_none() {
                    processes::kill_session(self.supervisor.id());
                    // Daemons have their own sessions.
                    if let Some(work) = self.attempt.parent().and_then(Path::parent) {
                        let _ = kill_leftovers(work);
                    }
                }
                Ok(Some(exit.map_or(Ended::SupervisorKilled, Ended::Exited)))
            }
            Err(e) => Err(PathError::during("wait for the supervisor of", &self.attempt, e).into()),
        }
    }

    #[cfg(target_os = "linux")]
    fn sleep(&self, pause: Duration) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(exited) = &self.exited else { return std::thread::sleep(pause) };
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
        // Returning early is harmless: the caller only polls once more.
        let _ = poll(&mut [PollFd::new(exited, PollFlags::IN)], Some(&pause));
    }

    #[cfg(not(target_os = "linux"))]
    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    /// Asks the stage to save its state and stop. Call this only before [`Supervised::wait`] has
    /// returned the end, since the PID may be reused afterwards.
    pub fn terminate(&self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.supervisor), Signal::TERM);
    }

    /// Asks the stage to save its state and continue. The same restriction applies as for
    /// [`Supervised::terminate`].
    pub fn save(&self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.supervisor), Signal::USR1);
    }

    /// Kills the stage and all its children immediately.
    pub fn kill(&mut self) {
        self.pipe = None;
    }
}

/// The limit on a stage's log, in bytes.
fn log_limit() -> Result<u64, ExecError> {
    let Some(text) = std::env::var_os(LOG_VARIABLE).filter(|text| !text.is_empty()) else { return Ok(LOG_MIB << 20) };
    let number = text.to_str().and_then(|text| text.parse::<u64>().ok()).filter(|mib| (1..1 << 20).contains(mib));
    let wrong = || ExecError::Variable { name: LOG_VARIABLE, value: text.to_string_lossy().into(), expected: "MiB" };
    Ok(number.ok_or_else(wrong)? << 20)
}

/// Path of the running program, even if its file was replaced by a newer build.
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
        // Reap the supervisor, which ends once all its descendants have ended.
        let _ = self.supervisor.wait();
    }
}
