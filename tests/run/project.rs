//! [`Project`]: a project in its own folder, with helpers for the tests of runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use olmo_pipe::run::{self, RunEvent, RunState, Status};
use olmo_pipe::store::Store;

/// Timeout for events that must occur. Tests never measure it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A project in its own folder.
pub(crate) struct Project {
    pub dir: tempfile::TempDir,
    pub variables: Vec<(String, String)>,
}

/// A script that writes `say` and all inputs to the output, and its name to the file `ran`.
pub(crate) const COPY: &str = r#"echo "$0" | sed 's|.*/stages/||; s|/run.sh||' >> "@ran"
{ echo "$1"; [ -z "$3" ] || cat "$3"/*/*; } > "$2/text"
"#;

impl Project {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("olmo-pipe.yaml"), "").unwrap();
        Self { dir, variables: Vec::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Adds a command stage with a list of texts, a param `say` and an output `text`. `@NAME` in
    /// the script is the file NAME of the project.
    pub(crate) fn stage(&self, name: &str, script: &str) {
        self.stage_with(name, script, "text: {type: text}", "cpus: 1, memory_mib: 16");
    }

    pub(crate) fn stage_with(&self, name: &str, script: &str, outputs: &str, resources: &str) {
        let output = outputs.split(':').next().unwrap();
        let contract = format!(
            "stage: {name}\nversion: 1\nsummary: For a test.\ninputs:\n  from: {{type: text, list: true, optional: true}}\n\
             \x20 one: {{type: text, optional: true}}\n  file: {{type: file, optional: true}}\n\
             outputs: {{{outputs}}}\nparams: {{say: {{type: string, default: ''}}}}\nresources: {{{resources}}}\n\
             command:\n  argv: [/bin/sh, '${{stage.dir}}/run.sh', '${{params.say}}', '${{outputs.{output}}}', \
             '${{inputs.from}}', '${{inputs.one}}', '${{inputs.file}}']\n  files: [run.sh]\n"
        );
        self.write(&format!("stages/{name}/stage.yaml"), &contract);
        let script = script.replace('@', &format!("{}/", self.dir.path().display()));
        self.write(&format!("stages/{name}/run.sh"), &format!("set -eu\n{script}"));
    }

    /// Writes the experiment `e.yaml` with these stages and outputs.
    pub(crate) fn experiment(&self, stages: &str, outputs: &str) {
        self.write("pipeline.yaml", &format!("pipeline: p\nparams: {{say: {{type: string, default: hello}}}}\nstages:\n{stages}outputs: {{{outputs}}}\n"));
        self.write("e.yaml", "experiment: e\nuses: pipeline.yaml\n");
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_olmo-pipe"), arguments)
    }

    /// A command that runs `program` in the project, with the environment of its engines.
    pub(crate) fn command_of(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        for name in ["OLMO_PIPE_FAILPOINT", "OLMO_PIPE_STORE", "OLMO_PIPE_GPUS", "CUDA_VISIBLE_DEVICES"] {
            command.env_remove(name);
        }
        command.env("OLMO_PIPE_GRACE_S", "20");
        // The project has its own leases, so that other engines do not affect it.
        command.env("OLMO_PIPE_LEASES", self.path("leases"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed. Returns its output.
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{said}");
        said
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.path(".olmo-pipe")).unwrap()
    }

    pub(crate) fn runs(&self) -> Vec<RunState> {
        run::list(&self.store()).unwrap()
    }

    pub(crate) fn last_run(&self) -> RunState {
        self.runs().pop().unwrap()
    }

    /// The status of each stage in the last run.
    pub(crate) fn statuses(&self) -> BTreeMap<String, Status> {
        self.last_run().stages.iter().map(|(name, stage)| (name.to_owned(), stage.status)).collect()
    }

    pub(crate) fn status(&self, stage: &str) -> Status {
        self.statuses()[stage]
    }

    pub(crate) fn events(&self, state: &RunState) -> Vec<RunEvent> {
        let folder = run::folder(&self.store(), &state.id);
        run::read_events(&folder).unwrap().records.into_iter().map(|record| record.event).collect()
    }

    /// How often each stage's script ran.
    pub(crate) fn ran(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in fs::read_to_string(self.path("ran")).unwrap_or_default().lines() {
            *counts.entry(line.to_owned()).or_insert(0) += 1;
        }
        counts
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn wait_for(&self, name: &str) {
        wait_until(name, || self.path(name).exists());
    }
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) fn wait_until(what: &str, mut true_now: impl FnMut() -> bool) {
    let since = Instant::now();
    while !true_now() {
        assert!(since.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn signal(child: &Child, signal: i32) {
    // SAFETY: kill takes integers. The child was not reaped yet, so the PID is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

pub(crate) fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// a -> b -> d, a -> c -> d.
pub(crate) fn diamond() -> Project {
    let project = Project::new();
    for name in ["a", "b", "c", "d"] {
        project.stage(name, COPY);
    }
    project.experiment(
        "  a: {uses: a, with: {say: '${params.say}'}}\n\
         \x20 b: {uses: b, with: {from: ['${stages.a.text}'], say: b}}\n\
         \x20 c: {uses: c, with: {from: ['${stages.a.text}'], say: c}}\n\
         \x20 d: {uses: d, with: {from: ['${stages.b.text}', '${stages.c.text}']}}\n",
        "text: '${stages.d.text}', first: '${stages.a.text}'",
    );
    project
}

/// A script that starts a grandchild outside its process group and session, which ignores SIGTERM
/// and runs for minutes.
pub(crate) const ESCAPE: &str = "( setsid sh -c 'trap \"\" TERM INT HUP; echo $$ > @escaped.part; mv @escaped.part @escaped; sleep 300' & ) &\n\
                      trap '' TERM INT\n";

pub(crate) fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Runs `arguments` with the failpoint `point`, at which the run must die.
pub(crate) fn dies_at(project: &Project, point: &str, arguments: &[&str]) {
    let output = project.command(arguments).env("OLMO_PIPE_FAILPOINT", point).output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{point} was not reached\n{}", said(&output));
    // The stages die a moment later. Until then, they could still see what the test does next.
    for work in fs::read_dir(project.path(".olmo-pipe/work-v1")).unwrap() {
        if let Ok(lock) = fs::File::open(work.unwrap().path().join("supervisor.lock")) {
            lock.lock().unwrap();
        }
    }
}

/// The folder of the only unfinished stage.
pub(crate) fn work(project: &Project) -> PathBuf {
    let mut folders: Vec<PathBuf> = fs::read_dir(project.path(".olmo-pipe/work-v1"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("items.jsonl").exists() || folder.join("attempts/1/request.json").exists())
        .collect();
    folders.pop().unwrap_or_default()
}
