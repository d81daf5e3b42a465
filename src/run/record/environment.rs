//! [`Environment`]: the machine and the code with which an engine ran stages. It goes only into the
//! run's record: no output and no key may depend on it.
//!
//! `environment.jsonl` in the run's folder is a journal with one line for each engine that started
//! a stage. It is written in the background while stages run, so a fully cached run does not pay
//! for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use olmo_base::units::now_ms;
use olmo_base::{Digest, journal};
use serde::{Deserialize, Serialize};

use crate::exec::Worker;

pub(super) const FILE: &str = "environment.jsonl";
/// How long `git status` may take.
const GIT_TIMEOUT: Duration = Duration::from_secs(20);
/// How many names of changed files are recorded at most.
const MAX_CHANGED: usize = 100;

/// The machine and the code with which an engine ran stages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// When its first stage started, in milliseconds since 1970.
    pub at: u64,
    pub pid: u32,
    /// Version of the engine.
    pub engine: String,
    pub host: Host,
    /// `None` if the project is not in a git repository, or git is not installed.
    pub git: Option<Git>,
    /// `None` if no worker was found. Command stages need none.
    pub worker: Option<WorkerBuild>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub name: Option<String>,
    /// `linux`, and so on.
    pub os: String,
    pub kernel: Option<String>,
    /// `x86_64`, and so on.
    pub arch: String,
    pub cpu: Option<String>,
    pub cores: Option<usize>,
}

/// The project's commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Git {
    pub commit: String,
    pub branch: Option<String>,
    /// Whether a tracked file differs from the commit.
    pub dirty: bool,
    /// The first of the changed files.
    pub changed: Vec<String>,
}

/// The program that holds the built-in stages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerBuild {
    pub build: String,
    /// Digest of the program's file.
    pub digest: Option<Digest>,
    /// The library of each backend, with its version.
    pub backends: std::collections::BTreeMap<String, String>,
}

impl Environment {
    /// Collects the environment of a project whose root is `root`, with the worker at `worker`.
    fn collect(at: u64, root: &Path, worker: &Path) -> Self {
        let worker = Worker::find(worker).ok().map(|found| WorkerBuild {
            build: found.build().to_owned(),
            digest: Digest::of_file(found.path()).ok().map(|(digest, _)| digest),
            backends: found.backends().clone(),
        });
        let (pid, engine) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
        Self { at, pid, engine, host: Host::current(), git: Git::read(root), worker }
    }

    /// The environments that the engines of the run in `folder` recorded, oldest first.
    pub fn read(folder: &Path) -> std::io::Result<Vec<Self>> {
        read(folder).map(|contents| contents.records)
    }
}

/// The journal of the run in `folder`, up to its first damaged line.
pub(super) fn read(folder: &Path) -> std::io::Result<journal::Contents<Environment>> {
    journal::read_prefix(&folder.join(FILE))
}

/// Records the environment in a background thread, which is joined on drop.
pub(super) struct EnvironmentRecorder(Option<JoinHandle<()>>);

impl EnvironmentRecorder {
    /// Starts to record the environment of the run in `folder`.
    pub(super) fn start(folder: &Path, root: &Path, worker: PathBuf) -> Self {
        let (at, folder, root) = (now_ms(), folder.to_owned(), root.to_owned());
        let thread = std::thread::Builder::new().name("environment".into()).spawn(move || {
            let environment = Environment::collect(at, &root, &worker);
            // A run must not fail because of its provenance.
            let written = journal::Writer::open(&folder.join(FILE), true).and_then(|mut w| w.append(&environment));
            if let Err(error) = written {
                tracing::warn!("cannot record the environment of the run: {error}");
            }
        });
        Self(thread.ok())
    }
}

impl Drop for EnvironmentRecorder {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

impl Host {
    pub(crate) fn current() -> Self {
        let line = |path: &str| fs::read_to_string(path).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let model = text.lines().find(|l| l.starts_with("model name"))?;
            Some(model.split_once(':')?.1.trim().to_owned())
        });
        Self {
            name: line("/proc/sys/kernel/hostname"),
            os: std::env::consts::OS.into(),
            kernel: line("/proc/sys/kernel/osrelease"),
            arch: std::env::consts::ARCH.into(),
            cpu,
            cores: std::thread::available_parallelism().ok().map(usize::from),
        }
    }
}

impl Git {
    pub(crate) fn read(root: &Path) -> Option<Self> {
        let mut git = Command::new("git");
        // A repository's own settings may make git start programs. `status` would start only these
        // two, so they are turned off.
        git.args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "status", "--porcelain=v2"]);
        git.args(["--branch", "--untracked-files=no"]).current_dir(root);
        git.env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C");
        for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            git.env_remove(variable);
        }
        let mut child = git.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut stdout = child.stdout.take()?;
        let reader = std::thread::Builder::new().spawn(move || {
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut std::io::Read::take(&mut stdout, 16 << 20), &mut text).map(|_| text)
        });
        let Ok(reader) = reader else {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        };
        let since = Instant::now();
        let ended = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status.success(),
                Ok(None) if since.elapsed() < GIT_TIMEOUT => std::thread::sleep(Duration::from_millis(5)),
                _ => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break false;
                }
            }
        };
        let text = reader.join().ok()?.ok()?;
        if ended { Self::parse(&String::from_utf8_lossy(&text)) } else { None }
    }

    /// Parses the output of `git status --porcelain=v2 --branch`.
    fn parse(text: &str) -> Option<Self> {
        let mut git = Self::default();
        for line in text.lines() {
            if let Some(header) = line.strip_prefix("# ") {
                match header.split_once(' ') {
                    // "(initial)" before the first commit.
                    Some(("branch.oid", oid)) => git.commit = oid.to_owned(),
                    Some(("branch.head", head)) if head != "(detached)" => git.branch = Some(head.to_owned()),
                    _ => {}
                }
                continue;
            }
            // 1 XY sub mH mI mW hH hI path; 2 … score path<TAB>old; u XY sub m1 m2 m3 mW h1 h2 h3
            // path
            let fields = match line.split(' ').next() {
                Some("1") => 9,
                Some("2") => 10,
                Some("u") => 11,
                _ => continue,
            };
            git.dirty = true;
            let path = line.splitn(fields, ' ').last().and_then(|p| p.split('\t').next());
            if let Some(path) = path.filter(|_| git.changed.len() < MAX_CHANGED) {
                git.changed.push(path.to_owned());
            }
        }
        (!git.commit.is_empty()).then_some(git)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_git_status_is_parsed() {
        let text = "# branch.oid 1c0ffee\n# branch.head main\n# branch.ab +0 -0\n\
                    1 .M N... 100644 100644 100644 aaa bbb a file with spaces\n\
                    2 R. N... 100644 100644 100644 aaa bbb R100 new name\told name\n";
        let git = Git::parse(text).unwrap();
        assert_eq!((git.commit.as_str(), git.branch.as_deref(), git.dirty), ("1c0ffee", Some("main"), true));
        assert_eq!(git.changed, ["a file with spaces", "new name"]);
        let clean = Git::parse("# branch.oid 1c0ffee\n# branch.head (detached)\n").unwrap();
        assert_eq!((clean.branch, clean.dirty), (None, false));
        assert_eq!(Git::parse(""), None);
    }

    #[test]
    fn a_recorded_environment_is_read_back_and_a_missing_worker_is_none() {
        let dir = tempfile::tempdir().unwrap();
        drop(EnvironmentRecorder::start(dir.path(), dir.path(), "/nowhere/olmo-worker".into()));
        drop(EnvironmentRecorder::start(dir.path(), dir.path(), "/nowhere/olmo-worker".into()));
        let all = Environment::read(dir.path()).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((&all[0].worker, all[0].pid, &all[0].git), (&None, std::process::id(), &None));
        assert_eq!(all[0].host, all[1].host);
    }
}
