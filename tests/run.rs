//! Runs through the real command: which stages run again, what remains after a failure, a signal or
//! a kill at any moment, and how two processes share a store.

mod detached;
mod integrity;
mod items;
mod leases;
pub(crate) mod project;
mod retries;
mod selection;
mod signals;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use olmo_pipe::run::{self, RunEvent, RunState, RunStatus, Status};
use serde_json::Value;

use project::*;

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
    // SAFETY: kill takes integers. The stage's parent lives as long as the stage.
    assert_eq!(unsafe { libc::kill(supervisor, libc::SIGKILL) }, 0);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("its supervisor was killed"), "{}", said(&output));
    wait_until("its end", || !lives(&stage));
}

#[test]
fn stages_that_do_not_need_each_other_run_at_the_same_time() {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        olmo_base::testing::skip("this machine has one processor");
        return;
    }
    let project = diamond();
    // Each waits until the other has started.
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
    // If they ran at the same time, each would see the other.
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
    // The signal also ends the `sleep`, which must not end the stage.
    project.stage("a", "trap 'touch @asked' TERM\ntouch @waits\nwhile true; do sleep 0.05 || true; done\n");
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

#[test]
fn a_run_killed_at_any_point_is_finished_by_resume_and_nothing_finished_runs_twice() {
    let points =
        ["run.started", "run.stage_started:2", "run.stage_committed:1", "run.stage_committed:3", "run.finished"];
    for point in points {
        let project = diamond();
        dies_at(&project, point, &["run", "e.yaml"]);
        // A child that has forked but not called exec yet still holds the run's lock for a moment.
        wait_until("the run to be seen as interrupted", || project.last_run().status == RunStatus::Interrupted);
        let killed = project.last_run();
        project.succeeds(&["resume", killed.id.as_str()]);
        let state = project.last_run();
        assert_eq!((state.id.as_str(), state.status), (killed.id.as_str(), RunStatus::Succeeded), "{point}");
        assert_eq!(project.read("out/e/text/text"), "\nb\nhello\nc\nhello\n", "{point}");
        // A stage that was running at the kill may run again. A finished one must not.
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
            // The engine was killed after the action of a, or the third of four actions, was
            // stored. Only a stage that ran at the same time may run again.
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
    for text in ["data/in.txt", &olmo_base::Digest::of(b"before").hex(), &olmo_base::Digest::of(b"after!").hex()] {
        assert!(said(&output).contains(text), "{text}: {}", said(&output));
    }
    project.write("data/in.txt", "before");
    project.write("go", "");
    // The experiment's file is not read again, since the record contains the experiment.
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
    assert!(!output.status.success() && said(&output).contains("still running"), "{}", said(&output));
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
    let hex = olmo_base::Digest::of(bytes).hex();
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
    // Size and name are unchanged, so only reading the object shows the damage.
    damage(&object(&project, b"b\nhello\n"), b"b\nhellO\n");
    let said = project.succeeds(&["run", "e.yaml", "--set", "stages.d.with.say=again"]);
    assert!(said.contains("damaged") && said.contains("running `b` again"), "{said}");
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 2), ("c", 1), ("d", 2)]));
    assert_eq!(project.read("out/e/text/text"), "again\nb\nhello\nc\nhello\n");
    assert_eq!(fs::read_dir(project.path(".olmo-pipe/quarantine")).unwrap().count(), 1);
    // First the export finds the damage, then a lookup finds that an object is missing.
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
    // This differs in more fields than the first run.
    project.succeeds(&["run", "e.yaml", "--set", "stages.a.with.say=z", "--set", "stages.b.with.say=z"]);
    project.write("data.txt", "other");
    let output = project.run(&["plan", "e.yaml", "--explain", "--exit-code"]);
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("1 key field changed:\n"), "{said}");
    let change = said.lines().find(|line| line.contains("inputs.file changed: ")).unwrap();
    assert!(change.ends_with("/data.txt)") && change.contains(" -> "), "{said}");
    assert!(said.contains("if they do not change, it is a hit"), "{said}");

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
    for same in ["latest", "e"] {
        assert_eq!(project.succeeds(&["runs", "show", same, "--json"]), shown);
    }
    assert!(serde_json::from_str::<Value>(&shown).is_ok());
    assert!(shown.contains("\"finished\""), "{shown}");
}

#[test]
fn a_fan_of_hundreds_needs_few_open_files() {
    let project = Project::new();
    project.stage("a", "echo x > \"$2/text\"\n");
    let stages: String = (0..120).map(|n| format!("  s{n}: {{uses: a, with: {{say: '{n}'}}}}\n")).collect();
    project.experiment(&stages, "");
    // Far fewer than the number of stages that are ready to start.
    let script = format!("ulimit -n 64; exec '{}' run e.yaml", env!("CARGO_BIN_EXE_olmo-pipe"));
    let output = project.command_of("/bin/sh", &["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}
