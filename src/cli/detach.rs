//! `--detach`: starts the same command again in its own session, with a log instead of a terminal.
//!
//! The detached process sends its run id through a pipe once the run has a record; until then its
//! errors still reach the terminal. After that, its standard output and error go to
//! `runs-v1/ID/engine.log`. It ignores SIGHUP, because it no longer has a terminal.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::run as engine;
use crate::run::{RunEvent, RunId};
use crate::store::Store;
use crate::ui::{Exit, Problem, Show, Terminal, answer, say};

/// Set in the environment of the detached process.
const VARIABLE: &str = "OLMO_PIPE_DETACHED";
/// Name of the log in the run's record folder.
pub(super) const LOG: &str = "engine.log";

/// Whether this process was started by [`start`].
pub(super) fn is_the_detached() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Starts this command again in the background; returns once its run has started.
pub(super) fn start() -> Result<Exit, Problem> {
    let failed = |e: std::io::Error| {
        Problem::new(Exit::Environment, "cli::detach", &format!("cannot start a detached run: {e}"), None)
    };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: the closure makes only two system calls between fork and exec; neither allocates.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    }
    let id = line.trim();
    if RunId::parse(id).is_none() {
        // The run did not start, and the process has already reported why.
        let status = child.wait().map_err(failed)?;
        let exit = Exit::ALL.iter().map(|(exit, _)| *exit).find(|exit| status.code() == Some(exit.code().into()));
        return Ok(exit.unwrap_or(Exit::Internal));
    }
    answer(&format!("{id}\n"));
    let how = format!("`olmo-pipe runs attach {id}`, `olmo-pipe runs cancel {id}`");
    say(&format!("run {id} continues in the background: {how}\n"));
    Ok(Exit::Success)
}

/// Shows a run as `terminal` does. When the run starts, reports its id to the process that started
/// it and redirects all further output to the log.
pub(super) struct Detached {
    pub terminal: Terminal,
    store: Store,
}

impl Detached {
    pub(super) fn new(terminal: Terminal, store: &Store) -> Self {
        Self { terminal, store: store.clone() }
    }
}

impl Show for Detached {
    fn event(&mut self, at: u64, event: &RunEvent) {
        Show::event(&mut self.terminal, at, event);
    }

    fn dropped(&mut self, count: u64) {
        Show::dropped(&mut self.terminal, count);
    }

    fn fetching(&mut self, what: &str, done: u64, total: Option<u64>) {
        Show::fetching(&mut self.terminal, what, done, total);
    }

    fn fetch_waiting(&mut self, text: &str) {
        Show::fetch_waiting(&mut self.terminal, text);
    }

    fn run_started(&mut self, id: &RunId) {
        answer(&format!("{id}\n"));
        // Without a log the run continues; its record still holds every event.
        let _ = redirect_output(&engine::folder(&self.store, id));
    }
}

/// Redirects standard output and error to the log in `folder`.
fn redirect_output(folder: &Path) -> std::io::Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(folder.join(LOG));
    let file = log.or_else(|_| OpenOptions::new().write(true).open("/dev/null"))?;
    for place in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: dup2 takes two file descriptors, and both are open.
        if unsafe { libc::dup2(file.as_raw_fd(), place) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
