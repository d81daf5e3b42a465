//! [`Supervised`]: a stage's process under its supervisor, seen from the engine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::error::ExecError;
use super::processes;
use super::supervise::{self, Exit};

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The attempt's folder.
    pub attempt: PathBuf,
    /// Where the stage's process starts.
    pub folder: PathBuf,
    pub argv: Vec<OsString>,
    /// All of the process's environment.
    pub environment: BTreeMap<String, OsString>,
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

impl Supervised {
    /// Starts a supervisor, which starts the stage.
    pub fn start(launch: &Launch) -> Result<Self, ExecError> {
        let log = launch.attempt.join("supervisor.log");
        let file = File::create(&log).map_err(ExecError::io("make", &log))?;
        let mut supervisor = Command::new(this_program()?)
            .arg(supervise::COMMAND)
            .arg(&launch.attempt)
            .arg("--")
            .args(&launch.argv)
            .env_clear()
            .envs(&launch.environment)
            .current_dir(&launch.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(ExecError::io("start the supervisor in", &launch.folder))?;
        let pipe = supervisor.stdin.take();
        #[cfg(target_os = "linux")]
        let exited =
            rustix::process::pidfd_open(Pid::from_child(&supervisor), rustix::process::PidfdFlags::empty()).ok();
        Ok(Self {
            supervisor,
            pipe,
            attempt: launch.attempt.clone(),
            #[cfg(target_os = "linux")]
            exited,
        })
    }

    /// Waits up to `pause` for the end; `None` while it goes on.
    pub fn wait(&mut self, pause: Duration) -> Result<Option<Ended>, ExecError> {
        self.sleep(pause);
        match self.supervisor.try_wait() {
            Ok(None) => Ok(None),
            Ok(Some(_)) => {
                let mut told = Vec::new();
                if let Some(mut stdout) = self.supervisor.stdout.take() {
                    stdout.read_to_end(&mut told).map_err(ExecError::io("hear the supervisor of", &self.attempt))?;
                }
                // Nothing, or half of it: it was killed, and its children may live.
                let exit = serde_json::from_slice::<Exit>(&told).ok();
                if exit.is_none() {
                    processes::kill_session(self.supervisor.id());
                }
                Ok(Some(exit.map_or(Ended::Unseen, Ended::Seen)))
            }
            Err(e) => Err(ExecError::io("wait for the supervisor of", &self.attempt)(e)),
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

/// The running program, also after its file was replaced by a newer build.
fn this_program() -> Result<PathBuf, ExecError> {
    if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        std::env::current_exe().map_err(ExecError::io("find the program", "olmo-pipe".as_ref()))
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.pipe = None;
        // Collects the supervisor, which ends once all below it are gone.
        let _ = self.supervisor.wait();
    }
}
