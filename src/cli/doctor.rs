//! `olmo-pipe doctor`: which backends work on this machine, what is missing, and how to get it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use olmo_base::Diagnose as _;
use olmo_stage::Compute;
use serde::Serialize;
use serde_json::Value;

use crate::cli::common::{Common, current_folder};
use crate::cli::nvidia::{self, Device, LEAST_DRIVER};
use crate::exec::backend::{build_command, worker_path};
use crate::exec::{ExecError, Worker};
use crate::run::{Host, gpus};
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe doctor")]
pub(super) struct Doctor {
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

/// The findings; docs/json.md describes their JSON.
#[derive(Serialize)]
struct Report {
    format: u32,
    engine: &'static str,
    host: Host,
    /// Memory available to programs, in bytes.
    memory_available: Option<u64>,
    backends: Vec<BackendReport>,
    /// UUIDs of the GPUs visible to this process; `devices` describes each of them.
    gpus: Vec<String>,
    devices: Vec<Device>,
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
    /// The library and its version if the backend is ready, else the problem.
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

impl Doctor {
    pub(super) fn run(self, common: &Common) -> Result<Exit, Problem> {
        let report = Report::collect(common)?;
        let usable = report.backends.first().is_some_and(|flex| flex.ready);
        match self.json {
            true => answer_json(&report),
            false => answer(&report.text()),
        }
        Ok(if usable { Exit::Success } else { Exit::Environment })
    }
}

impl Report {
    fn collect(common: &Common) -> Result<Self, Problem> {
        let gpus = gpus::visible();
        let driver = nvidia::driver();
        let machine = Machine { gpus: &gpus, driver: driver.as_deref() };
        let backends = [Compute::FLEX, Compute::LIBTORCH, Compute::CUDA].map(|compute| machine.inspect(compute));
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
            host: Host::current(),
            memory_available: memory_available(),
            backends: backends.into(),
            devices: nvidia::devices(&gpus),
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
        let driver = self.driver.as_ref().map_or("no driver".into(), |d| format!("driver {}", escape_control(d)));
        let none = if self.devices.is_empty() { "none visible to this process; " } else { "" };
        let _ = writeln!(text, "gpus      {none}{driver}");
        for (index, device) in self.devices.iter().enumerate() {
            let name = escape_control(device.name.as_deref().unwrap_or("a GPU"));
            let memory = device.memory_bytes.map(|bytes| format!(", {}", gib(bytes))).unwrap_or_default();
            let capability = device.compute_capability.as_ref();
            let capability = capability.map(|text| format!(", compute capability {}", escape_control(text)));
            let uuid = escape_control(&device.uuid);
            let _ =
                writeln!(text, "gpu       cuda:{index:<8} {name}{memory}{} ({uuid})", capability.unwrap_or_default());
        }
        for backend in &self.backends {
            let state = if backend.ready { "ready" } else { "not ready" };
            let _ = writeln!(text, "backend   {:<13} {state}: {}", backend.name, escape_control(&backend.what));
            if let Some(way_out) = &backend.way_out {
                let _ = writeln!(text, "          {:<13} -> {way_out}", "");
            }
        }
        for tree in &self.libtorch {
            let state = if tree.found { "found in" } else { "not fetched; it would be in" };
            let _ = writeln!(text, "libtorch  {:<13} {state} {}", tree.kind, tree.path.display());
        }
        for tool in &self.tools {
            let state = if tool.found { "found" } else { "missing (needed only to build the libtorch worker)" };
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

/// The hardware that a backend can use.
struct Machine<'m> {
    gpus: &'m [String],
    driver: Option<&'m str>,
}

impl Machine<'_> {
    fn inspect(&self, compute: Compute) -> BackendReport {
        let worker = match worker(compute) {
            Ok(worker) => worker,
            // Without a GPU, a missing GPU worker is not worth reporting.
            Err(ExecError::BackendMissing { .. }) if compute == Compute::CUDA && !self.has_any() => {
                return not_ready(compute, "no GPU is visible to this process".into(), None);
            }
            Err(error) => return broken(compute, &error),
        };
        if let Some(why) = other_build(&worker) {
            return not_ready(compute, why, Some(build_command(compute).into()));
        }
        let name = if compute == Compute::CUDA { "libtorch" } else { compute.name() };
        let library = worker.backends().get(name).cloned().unwrap_or_default();
        let found = match compute {
            Compute::CUDA => self.cuda(&worker).map(|more| format!("{library}{more}")),
            _ => Ok(library),
        };
        match found {
            Ok(what) => BackendReport {
                name: compute.name(),
                worker: worker.path().to_owned(),
                ready: true,
                what,
                way_out: None,
            },
            Err((what, way_out)) => not_ready(compute, what, Some(way_out)),
        }
    }

    fn has_any(&self) -> bool {
        !self.gpus.is_empty() || self.driver.is_some()
    }

    /// Details of a worker that can compute on a GPU; else the problem and how to fix it.
    fn cuda(&self, worker: &Worker) -> Result<String, (String, String)> {
        let asked = Command::new(worker.path()).arg("devices").stdin(Stdio::null()).output();
        let answer: Value = asked.ok().and_then(|out| serde_json::from_slice(&out.stdout).ok()).unwrap_or_default();
        let cuda = &answer["cuda"];
        let devices = match (cuda["built"].as_bool(), cuda["devices"].as_u64()) {
            (Some(true), devices) => devices.unwrap_or_default(),
            _ if !self.has_any() => {
                let what = "its worker was built for the CPU, and no GPU is visible to this process";
                return Err((what.into(), build_command(Compute::CUDA).into()));
            }
            _ => return Err(("its worker was built for the CPU".into(), build_command(Compute::CUDA).into())),
        };
        let without = "without a GPU, set `device: cpu`";
        match self.driver {
            _ if devices > 0 => {}
            None => {
                let way_out = format!(
                    "install NVIDIA's driver {LEAST_DRIVER} or newer (a container gets the host's with --gpus all); {without}"
                );
                return Err(("libtorch with CUDA, but no NVIDIA driver is installed".into(), way_out));
            }
            Some(driver) if nvidia::is_old(driver) => {
                let what = format!("libtorch with CUDA 13, but driver {driver} is too old for it");
                return Err((what, format!("install NVIDIA's driver {LEAST_DRIVER} or newer; {without}")));
            }
            Some(driver) if self.gpus.is_empty() => {
                let hidden = std::env::var("CUDA_VISIBLE_DEVICES").ok();
                let hidden = hidden.map(|value| format!("CUDA_VISIBLE_DEVICES is \"{value}\"; "));
                let way_out = format!("{}`nvidia-smi -L` should list one; {without}", hidden.unwrap_or_default());
                return Err((
                    format!("libtorch with CUDA, driver {driver}, but no GPU is visible to this process"),
                    way_out,
                ));
            }
            Some(driver) => {
                let what = format!("libtorch with CUDA, driver {driver}, but libtorch finds none of the GPUs");
                return Err((what, format!("`nvidia-smi` should list one without errors; {without}")));
            }
        }
        let kernels = &cuda["kernels"];
        let at = |name: &str| kernels[name].as_str();
        match (at("compiler"), at("folder")) {
            (Some(compiler), _) => {
                let cache = at("cache").map(|folder| format!(", kernels cached in {folder}")).unwrap_or_default();
                Ok(format!(", {compiler}{cache}"))
            }
            (None, Some(folder)) => Ok(format!(", no NVRTC, kernels from {folder}")),
            (None, None) => {
                let why = at("why").unwrap_or("its worker reports no kernel compiler");
                Err((format!("libtorch with CUDA, {devices} GPUs: {why}"), build_command(Compute::CUDA).into()))
            }
        }
    }
}

fn worker(compute: Compute) -> Result<Worker, ExecError> {
    Worker::find(&worker_path(compute, &Worker::default_path())).map_err(|error| match error {
        ExecError::WorkerMissing(path) => ExecError::missing(path, compute),
        other => other,
    })
}

/// Why the worker does not match this engine, if it does not.
fn other_build(worker: &Worker) -> Option<String> {
    let differs = |(name, text): &(&str, &str)| {
        let description: olmo_stage::Description = serde_json::from_str(text).ok()?;
        worker.check(name, &description).err()
    };
    Some(crate::builtin::STAGES.iter().find_map(differs)?.to_string())
}

fn not_ready(compute: Compute, what: String, way_out: Option<String>) -> BackendReport {
    let worker = worker_path(compute, &Worker::default_path());
    BackendReport { name: compute.name(), worker, ready: false, what, way_out }
}

fn broken(compute: Compute, error: &ExecError) -> BackendReport {
    let what = match error {
        ExecError::BackendMissing { .. } => "its worker is not built".to_owned(),
        other => other.to_string(),
    };
    let way_out = match error {
        ExecError::BackendMissing { .. } => Some(build_command(compute).to_owned()),
        // The general hint does not mention libtorch.
        ExecError::WorkerBroken { why, .. } if compute != Compute::FLEX && why.contains("lib") => {
            Some(format!("libtorch is not where it was when the worker was built: {}", build_command(compute)))
        }
        other => other.hint(),
    };
    not_ready(compute, what, way_out)
}

/// Where `scripts/libtorch` puts the libtorch of `kind`.
fn tree(kind: &'static str) -> Tree {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("OLMO_PIPE_LIBTORCH")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("olmo-pipe")))
        .or_else(|| Some(folder("HOME")?.join(".cache/olmo-pipe")))
        .unwrap_or_default();
    let path = cache.join(format!("libtorch-{LIBTORCH}-{kind}"));
    Tree { kind, found: path.join("torch/lib/libtorch.so").exists(), path }
}

/// Free memory in bytes, capped by the process's control groups.
fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
    Some(crate::run::memory_limit().map_or(free, |limit| limit.min(free)))
}

/// Free bytes on the file system of `folder`, which need not exist yet.
fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let fs = rustix::fs::statvfs(there).ok()?;
    Some(fs.f_bavail.saturating_mul(fs.f_frsize))
}
