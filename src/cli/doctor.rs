//! `olmo-pipe doctor`: what this machine can compute with, what is missing, and how to get it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{Common, Exit, Problem, answer, answer_json, current_folder};
use crate::exec::{Backend, ExecError, Worker};
use crate::report::escape_control;
use crate::run::{Host, gpus};

#[derive(Args)]
pub struct Doctor {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// All that was found; its JSON is described in docs/json.md.
#[derive(Serialize)]
struct Report {
    format: u32,
    engine: &'static str,
    host: Host,
    /// Bytes that programs may still take.
    memory_available: Option<u64>,
    backends: Vec<BackendReport>,
    gpus: Vec<String>,
    driver: Option<String>,
    libtorch: Vec<Tree>,
    /// Programs that `scripts/libtorch` needs.
    tools: Vec<Tool>,
    store: Place,
}

#[derive(Serialize)]
struct BackendReport {
    name: &'static str,
    worker: PathBuf,
    ready: bool,
    /// The library behind it and its version; else what is wrong.
    what: String,
    way_out: Option<String>,
}

/// A libtorch that `scripts/libtorch` fetched.
#[derive(Serialize)]
struct Tree {
    kind: &'static str,
    path: PathBuf,
    found: bool,
}

#[derive(Serialize)]
struct Tool {
    name: &'static str,
    found: bool,
    way_out: &'static str,
}

#[derive(Serialize)]
struct Place {
    path: PathBuf,
    free_bytes: Option<u64>,
}

/// The version that `scripts/libtorch` fetches.
const LIBTORCH: &str = "2.11.0";
/// CUDA 13 runs on drivers from this major version on.
const LEAST_DRIVER: u32 = 580;

impl Doctor {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let report = Report::look(common)?;
        let usable = report.backends.first().is_some_and(|flex| flex.ready);
        match self.json {
            true => answer_json(&report),
            false => answer(&report.text()),
        }
        Ok(if usable { Exit::Success } else { Exit::Environment })
    }
}

impl Report {
    fn look(common: &Common) -> Result<Self, Problem> {
        let gpus = gpus::visible();
        let driver = driver();
        let backends = vec![flex(), libtorch(), cuda(&gpus, driver.as_deref())];
        let tool = |name: &'static str, found: bool, way_out: &'static str| Tool { name, found, way_out };
        let answers = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let tools = vec![
            tool("pip", answers("python3", &["-m", "pip", "--version"]), "sudo apt-get install python3-pip"),
            tool("c++", answers("c++", &["--version"]), "sudo apt-get install g++"),
        ];
        let store = common.store_folder(&crate::spec::project_root(&current_folder()?));
        Ok(Self {
            format: 1,
            engine: env!("CARGO_PKG_VERSION"),
            host: Host::here(),
            memory_available: memory_available(),
            backends,
            gpus,
            driver,
            libtorch: ["cpu", "cuda"].map(tree).into(),
            tools,
            store: Place { free_bytes: free_bytes(&store), path: store },
        })
    }

    fn text(&self) -> String {
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let mut text = String::new();
        let _ = writeln!(text, "engine    {} on {} {}", self.engine, self.host.os, self.host.arch);
        let (cpu, cores) = (self.host.cpu.as_deref().unwrap_or("a CPU"), self.host.cores.unwrap_or(1));
        let memory = self.memory_available.map(|bytes| format!(", {} of memory free", gib(bytes))).unwrap_or_default();
        let _ = writeln!(text, "cpu       {}, {cores} cores{memory}", escape_control(cpu));
        let gpus = match self.gpus.len() {
            0 => "none that this process may use".to_owned(),
            count => format!("{count}: {}", escape_control(&self.gpus.join(", "))),
        };
        let driver = self.driver.as_ref().map(|d| format!("; driver {}", escape_control(d))).unwrap_or_default();
        let _ = writeln!(text, "gpus      {gpus}{driver}");
        for backend in &self.backends {
            let state = if backend.ready { "ready" } else { "not ready" };
            let _ = writeln!(text, "backend   {:<13} {state}: {}", backend.name, escape_control(&backend.what));
            if let Some(way_out) = &backend.way_out {
                let _ = writeln!(text, "          {:<13} -> {way_out}", "");
            }
        }
        for tree in &self.libtorch {
            let state = if tree.found { "is in" } else { "not fetched; would lie in" };
            let _ = writeln!(text, "libtorch  {:<13} {state} {}", tree.kind, tree.path.display());
        }
        for tool in &self.tools {
            let state = if tool.found { "found" } else { "missing (only building libtorch's worker needs it)" };
            let _ = writeln!(text, "tool      {:<13} {state}", tool.name);
            if !tool.found {
                let _ = writeln!(text, "          {:<13} -> {}", "", tool.way_out);
            }
        }
        let free = self.store.free_bytes.map(|bytes| format!(", {} free", gib(bytes))).unwrap_or_default();
        let _ = writeln!(text, "store     {}{free}", self.store.path.display());
        text
    }
}

fn flex() -> BackendReport {
    let backend = Backend::Flex;
    match worker(backend) {
        Ok(worker) => match other_build(&worker) {
            None => ready(backend, &worker),
            Some(why) => not_ready(backend, why, Some(backend.build().into())),
        },
        Err(error) => broken(backend, &error),
    }
}

fn libtorch() -> BackendReport {
    let backend = Backend::LibTorch;
    match worker(backend) {
        Ok(worker) => match other_build(&worker) {
            None => ready(backend, &worker),
            Some(why) => not_ready(backend, why, Some(backend.build().into())),
        },
        Err(error) => broken(backend, &error),
    }
}

fn cuda(gpus: &[String], driver: Option<&str>) -> BackendReport {
    let backend = Backend::LibTorchCuda;
    if gpus.is_empty() && driver.is_none() {
        return not_ready(backend, "there is no GPU that this process may use".into(), None);
    }
    let worker = match worker(backend) {
        Ok(worker) => worker,
        Err(error) => return broken(backend, &error),
    };
    let asked = Command::new(worker.path()).arg("devices").stdin(Stdio::null()).output();
    let answer: Value = asked.ok().and_then(|out| serde_json::from_slice(&out.stdout).ok()).unwrap_or_default();
    let old = driver.and_then(|text| text.split('.').next()?.parse::<u32>().ok()).filter(|major| *major < LEAST_DRIVER);
    match (answer["cuda"]["built"].as_bool(), answer["cuda"]["devices"].as_u64()) {
        (Some(true), Some(1..)) => ready(backend, &worker),
        (Some(true), _) if old.is_some() => {
            let why = format!("driver {} is too old for CUDA 13", driver.unwrap_or("?"));
            not_ready(backend, why, Some(format!("install NVIDIA's driver {LEAST_DRIVER} or newer")))
        }
        (Some(true), _) if gpus.is_empty() => not_ready(backend, "this machine has no GPU".into(), None),
        (Some(true), _) => {
            not_ready(backend, "libtorch finds no GPU".into(), Some("`nvidia-smi` should list one".into()))
        }
        _ => not_ready(backend, "its worker was built for the CPU".into(), Some(backend.build().into())),
    }
}

fn worker(backend: Backend) -> Result<Worker, ExecError> {
    Worker::find(&backend.worker(&Worker::place())).map_err(|error| match error {
        ExecError::WorkerMissing(path) => ExecError::missing(path, backend),
        other => other,
    })
}

/// Why the worker does not fit this engine, if so.
fn other_build(worker: &Worker) -> Option<String> {
    let differs = |(name, text): &(&str, &str)| {
        let description: olmo_stage::Description = serde_json::from_str(text).ok()?;
        worker.check(name, &description).err()
    };
    Some(crate::builtin::STAGES.iter().find_map(differs)?.to_string())
}

fn ready(backend: Backend, worker: &Worker) -> BackendReport {
    let name = if backend == Backend::LibTorchCuda { "libtorch" } else { backend.name() };
    let what = worker.backends().get(name).cloned().unwrap_or_default();
    BackendReport { name: backend.name(), worker: worker.path().to_owned(), ready: true, what, way_out: None }
}

fn not_ready(backend: Backend, what: String, way_out: Option<String>) -> BackendReport {
    let worker = backend.worker(&Worker::place());
    BackendReport { name: backend.name(), worker, ready: false, what, way_out }
}

fn broken(backend: Backend, error: &ExecError) -> BackendReport {
    let what = match error {
        ExecError::BackendMissing { .. } => "its worker is not built".to_owned(),
        other => other.to_string(),
    };
    let way_out = match error {
        ExecError::BackendMissing { .. } => Some(backend.build().to_owned()),
        other => other.hint(),
    };
    not_ready(backend, what, way_out)
}

/// Where `scripts/libtorch` keeps what it fetches.
fn tree(kind: &'static str) -> Tree {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("OLMO_PIPE_LIBTORCH")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("olmo-pipe")))
        .or_else(|| Some(folder("HOME")?.join(".cache/olmo-pipe")))
        .unwrap_or_default();
    let path = cache.join(format!("libtorch-{LIBTORCH}-{kind}"));
    Tree { kind, found: path.join("torch/lib/libtorch.so").exists(), path }
}

/// The version of NVIDIA's driver, as the kernel or its tool says.
fn driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let word = |text: &str| text.split_whitespace().find(|word| is_version(word)).map(str::to_owned);
    word(&text).or_else(|| {
        let mut command = Command::new("nvidia-smi");
        command
            .args(["--query-gpu=driver_version", "--format=csv,noheader"])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        word(&String::from_utf8_lossy(&output.stdout))
    })
}

/// `580.65.06`.
fn is_version(word: &str) -> bool {
    word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Of the file system that `folder` lies in, or would.
fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let fs = rustix::fs::statvfs(there).ok()?;
    Some(fs.f_bavail.saturating_mul(fs.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_version_is_told_from_other_words() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x@y)";
        assert_eq!(text.split_whitespace().find(|word| is_version(word)), Some("580.65.06"));
        assert!(!is_version("1..2") && !is_version("12") && !is_version("v1.2"));
    }
}
