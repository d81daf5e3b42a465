//! Runs in the background, and the commands that other terminals use on them: attach, cancel, logs
//! and rm.

use std::fs;
use std::io::{BufRead as _, BufReader};

use olmo_pipe::run::{RunStatus, Status};
use serde_json::Value;

use super::project::*;

/// Stage `a` prints `one`, waits for the file `go`, and prints `two`. Stage `b` runs after it.
fn waiting() -> Project {
    let project = Project::new();
    project.stage("a", &format!("echo one\ntouch @waits\nwhile [ ! -e @go ]; do sleep 0.02; done\necho two\n{COPY}"));
    project.stage("b", &format!("printf 'no line end'\n{COPY}"));
    project.experiment("  a: {uses: a}\n  b: {uses: b, with: {one: '${stages.a.text}'}}\n", "text: '${stages.b.text}'");
    project
}

fn detached(project: &Project) -> String {
    let output = project.run(&["run", "e.yaml", "--detach"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("runs attach"), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_detached_run_goes_on_when_its_starter_has_ended_and_can_be_watched_to_its_end() {
    let project = waiting();
    let id = detached(&project);
    project.wait_for("waits");
    assert_eq!(project.last_run().id.as_str(), id);
    assert_eq!(project.last_run().status, RunStatus::Running);
    let watcher = project.spawn(&["runs", "attach", &id]);
    let lines = project.spawn(&["runs", "attach", &id, "--json"]);
    project.write("go", "");
    let output = watcher.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(&format!("run {id} succeeded")), "{}", said(&output));
    assert!(said(&output).contains("2 ran, 0 cached"), "{}", said(&output));
    let lines = lines.wait_with_output().unwrap();
    let events: Vec<Value> =
        String::from_utf8(lines.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["format"], 1);
    assert_eq!(events[0]["event"]["kind"], "opened");
    assert_eq!(events.last().unwrap()["event"]["outcome"], "succeeded");
    // Its output is in a file of its record, and attaching afterwards shows the same.
    let log = project.read(&format!(".olmo-pipe/runs-v1/{id}/engine.log"));
    assert!(log.contains("succeeded in"), "{log}");
    assert!(project.succeeds(&["runs", "attach", &id]).contains("succeeded"));
    assert_eq!(project.read("out/e/text/text"), "\n");
}

#[test]
fn a_detached_run_that_cannot_begin_says_so_where_it_was_started() {
    let project = waiting();
    let output = project.run(&["run", "e.yaml", "nothing", "--detach"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("no stage `nothing`"), "{}", said(&output));
    assert!(project.runs().is_empty());
}

#[test]
fn a_watcher_that_goes_away_leaves_the_run_and_cancel_stops_it_in_order() {
    let project = waiting();
    let id = detached(&project);
    project.wait_for("waits");
    let mut watcher = project.spawn(&["runs", "attach", &id]);
    let mut shown = BufReader::new(watcher.stderr.take().unwrap());
    shown.read_line(&mut String::new()).unwrap();
    signal(&watcher, libc::SIGINT);
    assert!(watcher.wait().unwrap().success());
    assert_eq!(project.last_run().status, RunStatus::Running);
    let output = project.run(&["runs", "rm", &id]);
    assert!(!output.status.success() && said(&output).contains("still running"), "{}", said(&output));
    let said_so = project.succeeds(&["runs", "cancel", &id]);
    assert!(said_so.contains("interrupted") && said_so.contains(&format!("resume {id}")), "{said_so}");
    assert_eq!(project.status("a"), Status::Interrupted);
    let output = project.run(&["runs", "cancel", &id]);
    assert!(!output.status.success() && said(&output).contains("is not running"), "{}", said(&output));
    project.write("go", "");
    project.succeeds(&["resume", &id]);
    project.succeeds(&["runs", "rm", &id]);
    assert!(project.runs().is_empty());
    assert!(project.succeeds(&["run", "e.yaml"]).contains("all 2 stages cached"), "what was made stays");
}

#[test]
fn a_watcher_is_told_when_the_engine_dies() {
    let project = waiting();
    let mut engine = project.spawn(&["run", "e.yaml"]);
    project.wait_for("waits");
    let id = project.last_run().id;
    let watcher = project.spawn(&["runs", "attach", id.as_str()]);
    engine.kill().unwrap();
    engine.wait().unwrap();
    let output = watcher.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("is gone") && said(&output).contains(&format!("resume {id}")), "{}", said(&output));
}

#[test]
fn cancel_kills_what_does_not_stop() {
    let mut project = Project::new();
    // Waiting for the stage to end would take an hour.
    project.variables.push(("OLMO_PIPE_GRACE_S".into(), "3600".into()));
    project.stage("a", "trap '' TERM INT\ntouch @waits\nwhile true; do sleep 0.05; done\n");
    project.experiment("  a: {uses: a}\n", "");
    let id = detached(&project);
    project.wait_for("waits");
    project.succeeds(&["runs", "cancel", "--kill", &id]);
    assert_eq!(project.last_run().status, RunStatus::Interrupted);
}

#[test]
fn logs_are_followed_while_they_are_written_and_are_there_afterwards() {
    let project = waiting();
    let id = detached(&project);
    project.wait_for("waits");
    let mut follower = project.spawn(&["runs", "logs", &id, "-f"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "a | one");
    project.write("go", "");
    assert_eq!(lines.collect::<Vec<_>>(), ["a | two", "b | no line end"]);
    assert!(follower.wait().unwrap().success());
    let only = project.run(&["runs", "logs", &id, "a"]);
    assert_eq!(String::from_utf8(only.stdout).unwrap(), "one\ntwo\n");
    let output = project.run(&["runs", "logs", &id, "c"]);
    assert_eq!(output.status.code(), Some(2));
    fs::remove_dir_all(project.path(".olmo-pipe/work-v1")).unwrap();
    assert_eq!(
        String::from_utf8(project.run(&["runs", "logs", &id]).stdout).unwrap(),
        "a | one\na | two\nb | no line end\n"
    );
}
