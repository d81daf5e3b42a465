//! [`WorkerCommand`]: a command of the worker on behalf of the user.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use olmo_base::ArtifactId;
use tempfile::TempDir;

use crate::exec::Worker;
use crate::store::{Handover, Store};
use crate::ui::{Exit, Problem};

/// A command of the worker, with artifacts laid out as folders until it ends.
pub(super) struct WorkerCommand {
    command: Command,
    path: std::path::PathBuf,
    /// Kept until the worker exits.
    folders: Vec<TempDir>,
}

impl WorkerCommand {
    /// The worker's command `name`. Help and usage show the name that the user typed.
    pub(super) fn new(name: &str) -> Self {
        let path = Worker::default_path();
        let mut command = Command::new(&path);
        command.arg0("olmo-pipe").arg(name).stdin(Stdio::null());
        Self { command, path, folders: Vec::new() }
    }

    /// Passes on what the user types.
    pub(super) fn reads_stdin(&mut self) {
        self.command.stdin(Stdio::inherit());
    }

    pub(super) fn args(&mut self, words: impl IntoIterator<Item = OsString>) {
        self.command.args(words);
    }

    /// Adds the folder of an artifact, and the objects of its store (`--objects`).
    ///
    /// # Errors
    /// The artifact cannot be laid out.
    pub(super) fn artifact(&mut self, store: &Store, artifact: ArtifactId) -> Result<(), Problem> {
        self.folder(store, artifact)?;
        self.command.arg("--objects").arg(store.objects_dir());
        Ok(())
    }

    /// Adds the folder of an artifact.
    ///
    /// # Errors
    /// The artifact cannot be laid out.
    pub(super) fn folder(&mut self, store: &Store, artifact: ArtifactId) -> Result<(), Problem> {
        // Inside the store, files are linked rather than copied; but it may be read-only here.
        let place = tempfile::tempdir_in(store.root()).or_else(|_| tempfile::tempdir()).map_err(|e| {
            Problem::new(Exit::Store, "cli::folder", &format!("cannot create a temporary folder: {e}"), None)
        })?;
        let folder = place.path().join(artifact.short());
        store.materialize(artifact, &folder, Handover::Link)?;
        self.command.arg(folder);
        self.folders.push(place);
        Ok(())
    }

    /// Runs the command in this terminal.
    ///
    /// # Errors
    /// The worker cannot be started.
    pub(super) fn run(mut self) -> Result<Exit, Problem> {
        let path = &self.path;
        let status = self.command.status().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let hint = Some("build it: cargo build --release");
                Problem::new(
                    Exit::Environment,
                    "exec::worker_missing",
                    &format!("there is no {}", path.display()),
                    hint,
                )
            }
            _ => Problem::new(Exit::Environment, "exec::worker", &format!("{}: {e}", path.display()), None),
        })?;
        Ok(match status.code() {
            Some(0) => Exit::Success,
            Some(2) => Exit::BadInput,
            Some(74) => Exit::Output,
            _ => Exit::CheckFailed,
        })
    }
}

/// Whether `word` looks like the start of a digest.
pub(super) fn is_digest_prefix(word: &str) -> bool {
    (4..=64).contains(&word.len()) && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
