//! Runs through the real command: what is run again and what is not, what a failure, a signal
//! and a kill at any moment leave behind, and how two processes share one store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use olmo_pipe::run::{self, RunEvent, RunState, RunStatus, Status};
use olmo_pipe::store::Store;
use olmo_stage::Event;
use olmo_stage::worker::{Context, Entry, StageError, main_run};
use serde_json::Value;

/// How long a test waits for something that must come; never what it measures.
const PATIENCE: Duration = Duration::from_secs(60);

/// A project in a folder of its own.
struct Project {
    dir: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// Writes `say` and all inputs into the output, and its own name into the file `ran`.
const COPY: &str = r#"echo "$0" | sed 's|.*/stages/||; s|/run.sh||' >> "@ran"
{ echo "$1"; [ -z "$3" ] || cat "$3"/*/*; } > "$2/text"
"#;

impl Project {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("olmo-pipe.yaml"), "").unwrap();
        Self { dir, variables: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A command stage with a list of texts, a param `say` and one output `text`. `@NAME` in
    /// the script is the file NAME of the project.
    fn stage(&self, name: &str, script: &str) {
        self.stage_with(name, script, "text: {type: text}", "cpus: 1, memory_mib: 16");
    }

    fn stage_with(&self, name: &str, script: &str, outputs: &str, resources: &str) {
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

    /// The experiment `e.yaml` with these stages and outputs.
    fn experiment(&self, stages: &str, outputs: &str) {
        self.write("pipeline.yaml", &format!("pipeline: p\nparams: {{say: {{type: string, default: hello}}}}\nstages:\n{stages}outputs: {{{outputs}}}\n"));
        self.write("e.yaml", "experiment: e\nuses: pipeline.yaml\n");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_remove("OLMO_PIPE_FAILPOINT").env_remove("OLMO_PIPE_STORE").env_remove("CUDA_VISIBLE_DEVICES");
        command.env("OLMO_PIPE_GRACE_S", "20");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs to success; what it printed.
    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{said}");
        said
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn store(&self) -> Store {
        Store::open(&self.path(".olmo-pipe")).unwrap()
    }

    fn runs(&self) -> Vec<RunState> {
        run::list(&self.store()).unwrap()
    }

    fn last_run(&self) -> RunState {
        self.runs().pop().unwrap()
    }

    /// The status of every stage in the last run.
    fn statuses(&self) -> BTreeMap<String, Status> {
        self.last_run().stages.iter().map(|(name, stage)| (name.to_owned(), stage.status)).collect()
    }

    fn status(&self, stage: &str) -> Status {
        self.statuses()[stage]
    }

    fn events(&self, state: &RunState) -> Vec<RunEvent> {
        let folder = run::folder(&self.store(), &state.id);
        run::read_events(&folder).unwrap().into_iter().map(|record| record.event).collect()
    }

    /// How often each stage's script ran.
    fn ran(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in fs::read_to_string(self.path("ran")).unwrap_or_default().lines() {
            *counts.entry(line.to_owned()).or_insert(0) += 1;
        }
        counts
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn wait_for(&self, name: &str) {
        wait_until(name, || self.path(name).exists());
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn wait_until(what: &str, mut true_now: impl FnMut() -> bool) {
    let since = Instant::now();
    while !true_now() {
        assert!(since.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: kill takes plain integers; the child was not waited for, so the number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// a -> b -> d, a -> c -> d.
fn diamond() -> Project {
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

#[test]
fn a_second_run_is_all_hits_and_the_results_lie_under_their_names() {
    let project = diamond();
    let said = project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.read("out/e/text/text"), "\nb\nhello\nc\nhello\n");
    assert!(said.contains("out/e/text") && said.contains("out/e/first"), "{said}");
    assert!(project.statuses().values().all(|s| *s == Status::Finished));
    fs::write(project.path("out/e/text/text"), "edited by hand").unwrap();
    let said = project.succeeds(&["run", "e.yaml"]);
    assert!(said.contains("all 4 stages cached"), "{said}");
    assert!(project.statuses().values().all(|s| *s == Status::Cached));
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
    assert_eq!(project.read("out/e/text/text"), "\nb\nhello\nc\nhello\n");
}

#[test]
fn a_changed_param_runs_again_only_what_depends_on_it() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    project.succeeds(&["run", "e.yaml", "--set", "stages.b.with.say=other"]);
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 2), ("c", 1), ("d", 2)]));
    assert_eq!(project.status("c"), Status::Cached);
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.ran().values().sum::<usize>(), 6, "the first results are still there");
}

#[test]
fn a_change_that_gives_the_same_bytes_is_cut_off() {
    let project = diamond();
    project.stage("a", &format!("{COPY}echo same > \"$2/text\"\n"));
    project.succeeds(&["run", "e.yaml"]);
    let said = project.succeeds(&["run", "e.yaml", "--set", "params.say=other"]);
    assert_eq!(project.ran(), counts(&[("a", 2), ("b", 1), ("c", 1), ("d", 1)]));
    let events = project.events(&project.last_run());
    let cut_off = |stage: &str| {
        events.iter().any(|e| matches!(e, RunEvent::Cached { place, cut_off: true, .. } if place.stage == stage))
    };
    assert!(cut_off("b") && cut_off("c"), "{said}");
}

#[test]
fn a_changed_script_is_another_stage_and_an_edit_while_it_runs_is_not_published() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    project.stage("d", &format!("{COPY}: changed\n"));
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 1), ("c", 1), ("d", 2)]));
    project.stage("d", &format!("{COPY}echo '# edited' >> \"$0\"\n"));
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("changed while it ran"), "{}", said(&output));
}

#[test]
fn a_failed_stage_shows_its_last_lines_and_only_its_dependants_are_skipped() {
    let project = diamond();
    project.stage("b", "for n in $(seq 30); do echo \"line $n\"; done; echo to stderr >&2; exit 3\n");
    let output = project.run(&["run", "e.yaml"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("exit code 3") && said.contains("line 30") && said.contains("to stderr"), "{said}");
    assert!(!said.contains("line 10\n"), "twenty lines are enough: {said}");
    assert_eq!(
        project.statuses().into_values().collect::<Vec<_>>(),
        [Status::Finished, Status::Failed, Status::Finished, Status::Skipped]
    );
    let state = project.last_run();
    assert_eq!(state.status, RunStatus::Failed);
    let logs = run::logs(&run::folder(&project.store(), &state.id));
    assert!(logs.iter().any(|log| fs::read_to_string(log).unwrap().starts_with("line 1\n")), "{logs:?}");
    assert!(!project.path("out/e").exists(), "no results of a run that failed");
    project.stage("b", COPY);
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
}

#[test]
fn a_stage_that_makes_nothing_or_cannot_start_has_failed() {
    let project = diamond();
    project.stage("c", "true\n");
    let output = project.run(&["run", "e.yaml"]);
    assert!(said(&output).contains("made no files for its output `text`"), "{}", said(&output));
    let project = diamond();
    let contract = project.read("stages/c/stage.yaml").replace("/bin/sh", "/no/such/program");
    project.write("stages/c/stage.yaml", &contract);
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("cannot start `/no/such/program`"), "{}", said(&output));
}

#[test]
fn a_killed_supervisor_takes_its_stage_along_and_is_told() {
    let project = Project::new();
    project.stage("a", "echo $$ > @pid.part; mv @pid.part @pid\nsleep 300\n");
    project.experiment("  a: {uses: a}\n", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    project.wait_for("pid");
    let stage = project.read("pid");
    let stat = fs::read_to_string(format!("/proc/{}/stat", stage.trim())).unwrap();
    let supervisor = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    // SAFETY: kill takes plain integers; the stage's parent lives as long as the stage.
    assert_eq!(unsafe { libc::kill(supervisor, libc::SIGKILL) }, 0);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("killed its supervisor"), "{}", said(&output));
    wait_until("its end", || !lives(&stage));
}

#[test]
fn stages_that_do_not_need_each_other_run_at_the_same_time() {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        eprintln!("skipped: this machine has one processor");
        return;
    }
    let project = diamond();
    // Each waits for the other to have begun.
    let meet = |me: &str, other: &str| {
        format!(
            "touch @{me}.here\nfor n in $(seq 600); do [ -e @{other}.here ] && break; sleep 0.05; done; [ -e @{other}.here ]\n{COPY}"
        )
    };
    project.stage("b", &meet("b", "c"));
    project.stage("c", &meet("c", "b"));
    project.succeeds(&["run", "e.yaml"]);
}

#[test]
fn stages_never_occupy_more_than_the_machine_has() {
    let project = diamond();
    // Either would see the other, were they to run at the same time.
    let alone = format!("mkdir @busy\nsleep 0.2\nrmdir @busy\n{COPY}");
    project.stage_with("b", &alone, "text: {type: text}", "cpus: 0, memory_mib: 16");
    project.stage_with("c", &alone, "text: {type: text}", "cpus: 1, memory_mib: 16");
    project.succeeds(&["run", "e.yaml"]);
    project.stage_with("c", &alone, "text: {type: text}", "cpus: 1, gpus: 99");
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("99 gpus"), "{}", said(&output));
}

#[test]
fn only_what_a_target_needs_is_run() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml", "b"]);
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 1)]));
    let output = project.run(&["run", "e.yaml", "bb"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("did you mean `b`"), "{}", said(&output));
}

#[test]
fn a_command_sees_a_clean_folder_and_a_clean_environment() {
    let mut project = Project::new();
    project.variables.push(("SECRET".into(), "do not tell".into()));
    project.write("data/in.txt", "data\n");
    project.stage(
        "look",
        "{ env | cut -d= -f1 | sort | tr '\\n' ' '; find . | sort | tr '\\n' ' '; cat \"$5\"/*; } > \"$2/text\"\n",
    );
    project.experiment("  look: {uses: look, with: {file: data/in.txt}}\n", "text: '${stages.look.text}'");
    project.succeeds(&["run", "e.yaml"]);
    let seen = project.read("out/e/text/text");
    assert!(!seen.contains("SECRET"), "{seen}");
    assert!(seen.contains("PATH") && seen.ends_with("data\n"), "{seen}");
    assert!(seen.contains(". ./in ./in/file ./in/file/in.txt ./out ./out/text ./out/text/text data"), "{seen}");
}

/// Starts a grandchild that left its parent, its group and its session, ignores SIGTERM, and
/// lives for minutes.
const ESCAPE: &str = "( setsid sh -c 'trap \"\" TERM INT HUP; echo $$ > @escaped.part; mv @escaped.part @escaped; sleep 300' & ) &\n\
                      trap '' TERM INT\n";

fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_stage_that_forks_twice_and_ignores_sigterm_dies_with_the_engine() {
    let project = Project::new();
    project.stage("a", &format!("{ESCAPE}sleep 300\n"));
    project.experiment("  a: {uses: a}\n", "");
    let mut engine = project.spawn(&["run", "e.yaml"]);
    project.wait_for("escaped");
    let pid = project.read("escaped");
    assert!(lives(&pid));
    wait_until("the start in the record", || project.status("a") == Status::Running);
    engine.kill().unwrap();
    let since = Instant::now();
    engine.wait().unwrap();
    wait_until("its end", || !lives(&pid));
    eprintln!("gone {:?} after SIGKILL to the engine", since.elapsed());
    assert_eq!(project.last_run().status, RunStatus::Interrupted);
    assert_eq!(project.status("a"), Status::Interrupted);
}

#[test]
fn what_a_stage_leaves_running_is_killed_when_it_ends() {
    let project = Project::new();
    project.stage("a", &format!("{ESCAPE}while [ ! -e @escaped ]; do sleep 0.01; done\necho done > \"$2/text\"\n"));
    project.experiment("  a: {uses: a}\n", "");
    project.succeeds(&["run", "e.yaml"]);
    assert!(!lives(&project.read("escaped")));
}

#[test]
fn sigterm_stops_in_order_and_the_same_command_goes_on() {
    let project = diamond();
    project.stage("b", &format!("if [ ! -e @second ]; then touch @second @waits; exec sleep 300; fi\n{COPY}"));
    let engine = project.spawn(&["run", "e.yaml"]);
    project.wait_for("waits");
    signal(&engine, libc::SIGTERM);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    let state = project.last_run();
    assert_eq!(state.status, RunStatus::Interrupted);
    assert!(said(&output).contains(&format!("olmo-pipe resume {}", state.id)), "{}", said(&output));
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.ran()["a"], 1);
}

#[test]
fn a_second_sigint_kills_what_does_not_stop() {
    let project = Project::new();
    project.stage("a", "trap 'touch @asked' TERM\ntouch @waits\nwhile true; do sleep 0.05; done\n");
    project.experiment("  a: {uses: a}\n", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    project.wait_for("waits");
    signal(&engine, libc::SIGINT);
    project.wait_for("asked");
    signal(&engine, libc::SIGINT);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
}

#[test]
fn a_stage_that_takes_too_long_is_stopped() {
    let project = Project::new();
    project.stage("a", "exec sleep 300\n");
    project.experiment("  a: {uses: a, timeout: 1s}\n", "");
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("timeout of 1 s"), "{}", said(&output));
}

/// Runs `arguments` with `point` armed; the run must die there.
fn dies_at(project: &Project, point: &str, arguments: &[&str]) {
    let output = project.command(arguments).env("OLMO_PIPE_FAILPOINT", point).output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{point} was not reached\n{}", said(&output));
    // Its stages die a moment later; until then they could still see what the test does next.
    for work in fs::read_dir(project.path(".olmo-pipe/work-v1")).unwrap() {
        if let Ok(lock) = fs::File::open(work.unwrap().path().join("supervisor.lock")) {
            lock.lock().unwrap();
        }
    }
}

#[test]
fn a_run_killed_at_any_point_is_finished_by_resume_and_nothing_finished_runs_twice() {
    let points =
        ["run.started", "run.stage_started:2", "run.stage_committed:1", "run.stage_committed:3", "run.finished"];
    for point in points {
        let project = diamond();
        dies_at(&project, point, &["run", "e.yaml"]);
        // A child that was forked but not yet replaced still holds the run's lock for a moment.
        wait_until("the run to be seen as interrupted", || project.last_run().status == RunStatus::Interrupted);
        let killed = project.last_run();
        project.succeeds(&["resume", killed.id.as_str()]);
        let state = project.last_run();
        assert_eq!((state.id.as_str(), state.status), (killed.id.as_str(), RunStatus::Succeeded), "{point}");
        assert_eq!(project.read("out/e/text/text"), "\nb\nhello\nc\nhello\n", "{point}");
        // A stage that was running at the kill may run again; one that had finished may not.
        let done = |events: &[RunEvent]| -> BTreeMap<String, usize> {
            let mut done = BTreeMap::new();
            for event in events {
                if let RunEvent::Finished { place, .. } = event {
                    *done.entry(place.stage.clone()).or_insert(0) += 1;
                }
            }
            done
        };
        let finished = done(&project.events(&state));
        assert!(finished.values().all(|n| *n == 1), "{point}: {finished:?}");
        let twice: Vec<_> = project.ran().into_iter().filter(|(_, n)| *n > 1).collect();
        match point {
            "run.stage_started:2" => assert!(twice.len() <= 2, "{point}: {twice:?}"),
            "run.started" | "run.finished" => assert_eq!(twice, [], "{point}"),
            // Killed when a's action was there, or the third of four's; only what ran beside it may run again.
            _ => assert!(twice.len() <= 1 && !twice.iter().any(|(name, _)| name == "a"), "{point}: {twice:?}"),
        }
    }
}

#[test]
fn resume_stops_when_a_source_changed_and_names_it() {
    let project = Project::new();
    project.write("data/in.txt", "before");
    project.stage("a", &format!("{COPY}cat \"$5\"/* >> \"$2/text\"; [ -e @go ]\n"));
    project.experiment("  a: {uses: a, with: {file: data/in.txt}}\n", "text: '${stages.a.text}'");
    assert_eq!(project.run(&["run", "e.yaml"]).status.code(), Some(1));
    let id = project.last_run().id;
    project.write("data/in.txt", "after!");
    let output = project.run(&["resume", id.as_str()]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    for text in ["data/in.txt", &olmo_stage::Digest::of(b"before").hex(), &olmo_stage::Digest::of(b"after!").hex()] {
        assert!(said(&output).contains(text), "{text}: {}", said(&output));
    }
    project.write("data/in.txt", "before");
    project.write("go", "");
    // The experiment itself is not read again: its record holds it.
    fs::remove_file(project.path("e.yaml")).unwrap();
    project.succeeds(&["resume", &id.as_str()[..17]]);
    assert_eq!(project.read("out/e/text/text"), "\nbefore");
    let output = project.run(&["resume", "1999"]);
    assert!(said(&output).contains("no run"), "{}", said(&output));
}

#[test]
fn a_run_that_goes_on_elsewhere_cannot_be_resumed_and_is_seen_as_running() {
    let project = Project::new();
    project.stage("a", &format!("touch @waits\nwhile [ ! -e @go ]; do sleep 0.02; done\n{COPY}"));
    project.experiment("  a: {uses: a}\n", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    project.wait_for("waits");
    wait_until("the start in the record", || project.status("a") == Status::Running);
    let state = project.last_run();
    assert_eq!(state.status, RunStatus::Running);
    let output = project.run(&["resume", state.id.as_str()]);
    assert!(!output.status.success() && said(&output).contains("still going on"), "{}", said(&output));
    project.write("go", "");
    assert!(engine.wait_with_output().unwrap().status.success());
    assert_eq!(project.last_run().status, RunStatus::Succeeded);
}

#[test]
fn two_processes_with_the_same_experiment_share_their_work() {
    let project = diamond();
    project.stage("a", &format!("touch @waits\nwhile [ ! -e @go ]; do sleep 0.02; done\n{COPY}"));
    let first = project.spawn(&["run", "e.yaml"]);
    project.wait_for("waits");
    let second = project.spawn(&["run", "e.yaml"]);
    let waits = |state: &RunState| project.events(state).iter().any(|e| matches!(e, RunEvent::Waiting { .. }));
    wait_until("the second to wait", || project.runs().iter().any(waits));
    project.write("go", "");
    for engine in [first, second] {
        let output = engine.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
    assert_eq!(project.runs().iter().filter(|r| r.status == RunStatus::Succeeded).count(), 2);
}

#[test]
fn a_waiting_process_does_the_work_when_the_other_is_killed() {
    let project = Project::new();
    project.stage("a", &format!("touch @waits\nwhile [ ! -e @go ]; do sleep 0.02; done\n{COPY}"));
    project.experiment("  a: {uses: a}\n", "");
    let mut first = project.spawn(&["run", "e.yaml"]);
    project.wait_for("waits");
    let second = project.spawn(&["run", "e.yaml"]);
    let waits = |state: &RunState| project.events(state).iter().any(|e| matches!(e, RunEvent::Waiting { .. }));
    wait_until("the second to wait", || project.runs().iter().any(waits));
    first.kill().unwrap();
    first.wait().unwrap();
    project.write("go", "");
    let output = second.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// The one object in the store with these bytes.
fn object(project: &Project, bytes: &[u8]) -> PathBuf {
    let hex = olmo_stage::Digest::of(bytes).hex();
    project.path(".olmo-pipe/objects-v1").join(&hex[..2]).join(&hex[2..])
}

fn damage(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_object_is_noticed_and_made_again() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    // Same size and name: only reading it tells.
    damage(&object(&project, b"b\nhello\n"), b"b\nhellO\n");
    let said = project.succeeds(&["run", "e.yaml", "--set", "stages.d.with.say=again"]);
    assert!(said.contains("damaged") && said.contains("`b` makes it again"), "{said}");
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 2), ("c", 1), ("d", 2)]));
    assert_eq!(project.read("out/e/text/text"), "again\nb\nhello\nc\nhello\n");
    assert_eq!(fs::read_dir(project.path(".olmo-pipe/quarantine")).unwrap().count(), 1);
    // Found on the way out, and found by a look: gone.
    fs::remove_dir_all(project.path("out")).unwrap();
    damage(&object(&project, b"again\nb\nhello\nc\nhello\n"), b"agaiN\nb\nhello\nc\nhello\n");
    project.succeeds(&["run", "e.yaml", "--set", "stages.d.with.say=again"]);
    assert_eq!(project.ran()["d"], 3);
    fs::remove_file(object(&project, b"hello\n")).unwrap();
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.ran(), counts(&[("a", 2), ("b", 2), ("c", 1), ("d", 3)]));
}

#[test]
fn a_plan_says_why() {
    let project = diamond();
    let plan = |arguments: &[&str]| -> BTreeMap<String, (String, String)> {
        let output = project.run(&[&["plan", "e.yaml", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", said(&output));
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |stage: &Value, field: &str| stage[field].as_str().unwrap().to_owned();
        plan["stages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| (text(s, "name"), (text(s, "state"), text(s, "reason"))))
            .collect()
    };
    let first = plan(&[]);
    assert_eq!(first["a"], ("run".into(), "no earlier result".into()));
    assert_eq!(first["d"], ("waits".into(), "its inputs are made by `b`, `c` first".into()));
    project.succeeds(&["run", "e.yaml"]);
    assert!(plan(&[]).values().all(|(state, _)| state == "hit"));
    let changed = plan(&["--set", "stages.b.with.say=other"]);
    assert_eq!(changed["b"], ("run".into(), "params.say changed: \"b\" -> \"other\"".into()));
    assert_eq!((&*changed["a"].0, &*changed["c"].0, &*changed["d"].0), ("hit", "hit", "cut_off_possible"));
    let both = plan(&["--set", "stages.b.with.say=other", "--set", "stages.d.with.say=other"]);
    assert_eq!(both["d"].0, "waits", "it runs whatever its inputs are");
    assert!(both["d"].1.ends_with("first; params.say changed: its default -> \"other\""), "{}", both["d"].1);
    assert_eq!(project.ran().values().sum::<usize>(), 4, "a plan runs nothing");
}

#[test]
fn an_explained_plan_compares_with_the_nearest_earlier_result_and_names_the_file() {
    let project = Project::new();
    for stage in ["a", "b"] {
        project.stage(stage, COPY);
    }
    project.write("data.txt", "one");
    project.experiment(
        "  a: {uses: a, with: {file: data.txt, say: x}}\n  b: {uses: b, with: {one: '${stages.a.text}'}}\n",
        "",
    );
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.run(&["plan", "e.yaml", "--exit-code"]).status.code(), Some(0));
    // Farther away than the first run.
    project.succeeds(&["run", "e.yaml", "--set", "stages.a.with.say=z", "--set", "stages.b.with.say=z"]);
    project.write("data.txt", "other");
    let output = project.run(&["plan", "e.yaml", "--explain", "--exit-code"]);
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("1 of what it is made of changed:\n"), "{said}");
    let change = said.lines().find(|line| line.contains("inputs.file changed: ")).unwrap();
    assert!(change.ends_with("/data.txt)") && change.contains(" -> "), "{said}");
    assert!(said.contains("if they come out as before, it is a hit"), "{said}");

    project.write("stages/a/run.sh", "exit 1");
    let plan: Value =
        serde_json::from_slice(&project.run(&["plan", "e.yaml", "--json", "--exit-code"]).stdout).unwrap();
    let fields = plan["stages"][0]["changes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap());
    assert_eq!(fields.collect::<Vec<_>>(), ["command.files.\"run.sh\"", "inputs.file"]);
}

#[test]
fn a_plan_sees_that_another_process_works_on_the_same() {
    let project = Project::new();
    project.stage("a", &format!("{COPY}touch @started\nwhile [ ! -e @go ]; do sleep 0.02; done\n"));
    project.experiment("  a: {uses: a, with: {say: x}}\n", "");
    let mut child = project.spawn(&["run", "e.yaml"]);
    project.wait_for("started");
    let plan: Value = serde_json::from_slice(&project.run(&["plan", "e.yaml", "--json"]).stdout).unwrap();
    assert_eq!(plan["stages"][0]["state"], "shared");
    project.write("go", "");
    assert!(child.wait().unwrap().success());
}

#[test]
fn runs_are_listed_and_shown_as_json() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    let id = project.last_run().id;
    let list: Value = serde_json::from_slice(&project.run(&["runs", "list", "--json"]).stdout).unwrap();
    assert_eq!(list["runs"][0]["id"], id.as_str());
    assert_eq!(list["runs"][0]["status"], "succeeded");
    let shown = project.succeeds(&["runs", "show", id.as_str(), "--json"]);
    assert!(serde_json::from_str::<Value>(&shown).is_ok());
    assert!(shown.contains("\"finished\""), "{shown}");
}

// What follows needs a worker. The worker of these tests is this test program itself, with a
// `train` that counts steps: the engine's side of list ports is tested here, not the training.

/// The part of `train`: a checkpoint after each step, all of them files with the step's number.
/// It waits at step N while the file `hold-N` is in the project.
fn count_steps(context: &mut Context) -> Result<(), StageError> {
    let project = PathBuf::from(std::env::var_os("TEST_PROJECT").unwrap());
    let told = |text: String| {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(project.join("steps")).unwrap();
        writeln!(file, "{text}").unwrap();
    };
    let steps: u64 =
        context.request.params["max_duration"].as_str().unwrap().trim_end_matches("steps").parse().unwrap();
    let seed = context.request.params["seed"].clone();
    let keep = context.request.items.get("checkpoints").cloned().unwrap_or_default();
    // As a trainer whose last checkpoint cannot be used: it goes back by one.
    let back = usize::from(project.join("go-back").exists());
    let keep: Vec<_> = keep[..keep.len().saturating_sub(back)].iter().collect();
    let mut done = 0;
    if let Some(last) = keep.last() {
        done = fs::read_to_string(last.path.join("trainer.json")).unwrap().parse().unwrap();
        let keep = keep.iter().map(|item| item.label.clone().unwrap()).collect();
        context.event(&Event::Resumed { step: done, port: "checkpoints".into(), keep });
    }
    for step in done + 1..=steps {
        let label = format!("step{step}");
        let folder = context.item_dir("checkpoints", &label)?;
        fs::create_dir_all(folder.join("model")).unwrap();
        fs::write(folder.join("model/weights"), format!("{seed} {step}")).unwrap();
        fs::write(folder.join("trainer.json"), step.to_string()).unwrap();
        told(step.to_string());
        context.metrics(step, [("loss".to_owned(), 1.0 / step as f64)].into());
        context.item_done("checkpoints", &label);
        while project.join(format!("hold-{step}")).exists() {
            std::thread::sleep(Duration::from_millis(5));
            context.check_stop()?;
        }
        context.check_stop()?;
    }
    for port in ["model", "metrics"] {
        fs::write(context.output(port)?.join("file"), format!("{seed} {steps}")).unwrap();
    }
    Ok(())
}

/// Not a test of its own: what the engine starts as its worker.
#[test]
fn plays_the_worker() {
    let Some(attempt) = std::env::var_os("TEST_ATTEMPT") else { return };
    fn no_description() -> olmo_stage::Description {
        unreachable!("the wrapper script answers `describe`")
    }
    main_run(Path::new(&attempt), |_| Some(Entry { describe: no_description, run: count_steps }));
}

/// A project with `train` (by the worker above) and one `score` of each checkpoint.
fn training() -> Project {
    let mut project = Project::new();
    let description = olmo_pipe::builtin::STAGES.iter().find(|(name, _)| *name == "train").unwrap().1;
    project.write(
        "describe.json",
        &format!("{{\"protocol\": 1, \"build\": \"test\", \"stages\": {{\"train\": {description}}}}}"),
    );
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = describe ]; then exec cat '{here}/describe.json'; fi\n\
         TEST_ATTEMPT=\"$2\" TEST_PROJECT='{here}' exec '{test}' --exact run::plays_the_worker --nocapture\n",
        here = project.dir.path().display(),
        test = test.display(),
    );
    project.write("worker", &script);
    fs::set_permissions(project.path("worker"), fs::Permissions::from_mode(0o755)).unwrap();
    project.variables.push(("OLMO_PIPE_WORKER".into(), project.path("worker").display().to_string()));
    project.write("data/tokens", "tokens");
    project.stage("score", "");
    let contract = project.read("stages/score/stage.yaml").replace("one: {type: text", "one: {type: model");
    project.write("stages/score/stage.yaml", &contract);
    project.write(
        "stages/score/run.sh",
        // One write a line: scores run at the same time.
        &format!(
            "set -eu\necho \"$(cat \"$4/weights\")\" >> '{}/scored'\ncat \"$4/weights\" > \"$2/text\"\n",
            project.dir.path().display()
        ),
    );
    project.stage("all", COPY);
    project.experiment(
        "  train:\n    uses: train\n    with: {data: data, max_duration: 4steps, global_train_batch_size: 1, optimizer: {learning_rate: 0.1}, seed: 7}\n\
         \x20   resources: {cpus: 1, memory_mib: 16}\n\
         \x20 score: {uses: score, for_each: '${stages.train.checkpoints}', with: {one: '${item}'}}\n\
         \x20 all: {uses: all, with: {from: '${stages.score.text}'}}\n",
        "text: '${stages.all.text}', checkpoints: '${stages.train.checkpoints}'",
    );
    project
}

fn steps(project: &Project) -> Vec<u64> {
    project.read("steps").lines().map(|line| line.parse().unwrap()).collect()
}

fn scored(project: &Project) -> Vec<String> {
    let mut lines: Vec<String> = project.read("scored").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

const ALL_SCORES: &str = "\n7 17 27 37 4";

#[test]
fn an_item_is_worked_on_while_its_stage_still_runs() {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        eprintln!("skipped: this machine has one processor");
        return;
    }
    let project = training();
    project.write("hold-2", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    let both = |state: &RunState| {
        let score = state.stages.get("score");
        score.is_some_and(|s| s.instances.iter().filter(|i| i.status == Status::Finished).count() == 2)
    };
    wait_until("two scores", || project.runs().last().is_some_and(both));
    assert_eq!(project.status("train"), Status::Running);
    fs::remove_file(project.path("hold-2")).unwrap();
    let output = engine.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(project.read("out/e/text/text"), ALL_SCORES);
    assert_eq!(project.read("out/e/checkpoints/step3/model/weights"), "7 3");
    assert!(project.succeeds(&["run", "e.yaml"]).contains("all 3 stages cached"));
    // Equal models are scored once, under whatever label: the seed alone changes them.
    project.succeeds(&["run", "e.yaml", "--set", "stages.train.with.optimizer.learning_rate=0.2"]);
    assert_eq!(scored(&project), ["7 1", "7 2", "7 3", "7 4"]);
    assert_eq!(steps(&project).len(), 8);
}

#[test]
fn a_run_killed_after_an_item_goes_on_behind_it() {
    for (point, first) in [("run.item_committed:2", 3), ("run.item_committed:4", 5)] {
        let project = training();
        // It must not be ahead of what the engine has noted.
        project.write("hold-2", "");
        if first == 5 {
            fs::remove_file(project.path("hold-2")).unwrap();
            project.write("hold-4", "");
        }
        dies_at(&project, point, &["run", "e.yaml"]);
        for hold in ["hold-2", "hold-4"] {
            let _ = fs::remove_file(project.path(hold));
        }
        let before = steps(&project).len();
        project.succeeds(&["resume", project.last_run().id.as_str()]);
        assert_eq!(steps(&project), [1, 2, 3, 4], "{point}: no step twice");
        assert_eq!(before as u64 + 1, first);
        assert_eq!(project.read("out/e/text/text"), ALL_SCORES, "{point}");
        let state = project.last_run();
        let resumed = project.events(&state).iter().find_map(|e| match e {
            RunEvent::Resumed { step, .. } => Some(*step),
            _ => None,
        });
        assert_eq!(resumed, Some(first - 1), "{point}");
        let after = project.events(&state).iter().rev().find_map(|e| match e {
            RunEvent::Started { place, after, continues: true, .. } if place.stage == "train" => after.clone(),
            _ => None,
        });
        assert_eq!(after, Some(format!("step{}", first - 1)), "{point}");
    }
}

#[test]
fn an_item_that_was_reported_but_not_yet_committed_is_not_lost() {
    let project = training();
    // Killed while the first of at least two reported items goes into the store.
    project.write("hold-3", "");
    dies_at(&project, "store.manifest_renamed:2", &["run", "e.yaml", "train"]);
    fs::remove_file(project.path("hold-3")).unwrap();
    let reported = steps(&project).len();
    project.succeeds(&["resume", project.last_run().id.as_str()]);
    assert_eq!(steps(&project).len(), 4.max(reported), "{:?}", steps(&project));
}

#[test]
fn sigterm_lets_a_worker_save_and_the_same_command_continues_it() {
    let project = training();
    project.write("hold-3", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    wait_until("three steps", || project.path("steps").exists() && steps(&project).len() == 3);
    signal(&engine, libc::SIGTERM);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    fs::remove_file(project.path("hold-3")).unwrap();
    let plan = project.succeeds(&["plan", "e.yaml", "--json"]);
    assert!(plan.contains("\"continue\"") && plan.contains("stopped after step3"), "{plan}");
    let said = project.succeeds(&["run", "e.yaml"]);
    assert!(said.contains("goes on after step3"), "{said}");
    assert_eq!(steps(&project), [1, 2, 3, 4]);
    assert_eq!(project.read("out/e/text/text"), ALL_SCORES);
}

#[test]
fn items_that_a_continued_stage_gives_up_leave_the_list_and_come_again() {
    let project = training();
    project.write("hold-3", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    wait_until("three steps", || project.path("steps").exists() && steps(&project).len() == 3);
    signal(&engine, libc::SIGTERM);
    assert_eq!(engine.wait_with_output().unwrap().status.code(), Some(143));
    fs::remove_file(project.path("hold-3")).unwrap();
    project.write("go-back", "");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(steps(&project), [1, 2, 3, 3, 4]);
    assert_eq!(scored(&project), ["7 1", "7 2", "7 3", "7 4"], "equal bytes are scored once");
    assert_eq!(project.read("out/e/text/text"), ALL_SCORES);
}

#[test]
fn a_failed_item_fails_its_stage_and_the_other_items_go_on() {
    let project = training();
    let script = project.read("stages/score/run.sh");
    project.write(
        "stages/score/run.sh",
        &script.replace("set -eu\n", "set -eu\n[ \"$(cat \"$4/weights\")\" != '7 2' ]\n"),
    );
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(scored(&project), ["7 1", "7 3", "7 4"]);
    assert_eq!((project.status("score"), project.status("all")), (Status::Failed, Status::Skipped));
    assert!(said(&output).contains("score[step2]"), "{}", said(&output));
}

#[test]
fn a_worker_that_is_missing_or_of_another_build_is_refused_before_anything_runs() {
    let mut project = training();
    let text = project.read("describe.json").replace("\"stage\": \"train\"", "\"stage\": \"train \"");
    project.write("describe.json", &text);
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("cargo build --release") && said(&output).contains("different builds"),
        "{}",
        said(&output)
    );
    project.variables = vec![("OLMO_PIPE_WORKER".into(), "/no/such/worker".into())];
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("cargo build --release") && said(&output).contains("/no/such/worker"),
        "{}",
        said(&output)
    );
    assert!(project.runs().is_empty(), "no run began");
}

#[test]
fn a_worker_that_dies_without_a_result_is_a_failure_with_a_reason() {
    let project = training();
    let script = project.read("worker").replace("TEST_ATTEMPT", "echo about to die; kill -9 $$; TEST_ATTEMPT");
    project.write("worker", &script);
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("SIGKILL") && said.contains("memory") && said.contains("about to die"), "{said}");
}
