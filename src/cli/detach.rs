//! `--detach`: the same command again, in a session of its own, with a log in place of a terminal.
//!
//! The detached process tells its run's id through a pipe once the run has its record; until
//! then its errors go where the person looks. From then on both its outputs go to
//! `runs-v1/ID/engine.log`. It ignores SIGHUP: it has no terminal that could be closed.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::display::Show;
use super::{Exit, Problem, answer, say};
use crate::report::Terminal;
use crate::run::{self as engine, RunEvent, RunId};
use crate::store::Store;

/// Tells a process that it is the detached one.
const VARIABLE: &str = "OLMO_PIPE_DETACHED";
/// In the record's folder.
pub const LOG: &str = "engine.log";

/// Whether this process was started by [`start`].
pub fn is_the_detached() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Starts this command again in the background; returns when its run has begun.
pub fn start() -> Result<Exit, Problem> {
    let failed = |e: std::io::Error| {
        Problem::new(Exit::Environment, "cli::detach", &format!("cannot start a detached run: {e}"), None)
    };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: between fork and exec only two system calls are made; neither allocates.
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
        // It did not come so far, and has said why.
        let status = child.wait().map_err(failed)?;
        let exit = Exit::ALL.iter().map(|(exit, _)| *exit).find(|exit| status.code() == Some(exit.code().into()));
        return Ok(exit.unwrap_or(Exit::Internal));
    }
    answer(&format!("{id}\n"));
    let how = format!("`olmo-pipe runs attach {id}`, `olmo-pipe runs cancel {id}`");
    say(&format!("run {id} goes on in the background: {how}\n"));
    Ok(Exit::Success)
}

/// Shows a run as `terminal` does, and at its beginning tells who started it and lets go of the
/// terminal.
pub struct Detached {
    pub terminal: Terminal,
    store: Store,
}

impl Detached {
    pub fn new(terminal: Terminal, store: &Store) -> Self {
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

    fn fetch_waits(&mut self, text: &str) {
        Show::fetch_waits(&mut self.terminal, text);
    }

    fn begins(&mut self, id: &RunId) {
        answer(&format!("{id}\n"));
        // Without a log it goes on all the same, and its record tells what happened.
        let _ = let_go(&engine::folder(&self.store, id));
    }
}

/// Both outputs go to the log in `folder` from now on.
fn let_go(folder: &Path) -> std::io::Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(folder.join(LOG));
    let file = log.or_else(|_| OpenOptions::new().write(true).open("/dev/null"))?;
    for place in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: dup2 takes two numbers of open files, and both are.
        if unsafe { libc::dup2(file.as_raw_fd(), place) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
