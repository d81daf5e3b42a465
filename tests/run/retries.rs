//! Stages that fail, hang or take too long, and which of them are retried.

use olmo_pipe::run::{RunEvent, Status};

use super::project::*;

/// A project with stage `a`, which ends with `ending` until it has run `times` times.
fn failing(times: u32, ending: &str, with: &str) -> Project {
    let project = Project::new();
    let script = format!("echo x >> @count\nif [ $(wc -l < @count) -le {times} ]; then\n{ending}\nfi\n{COPY}");
    project.stage("a", &script);
    project.experiment(&format!("  a: {{uses: a, {with}}}\n"), "text: '${stages.a.text}'");
    project
}

fn count(project: &Project) -> usize {
    project.read("count").lines().count()
}

#[test]
fn a_failed_stage_is_tried_again_as_often_as_asked_for() {
    let project = failing(2, "exit 3", "retry: {max: 2, backoff: 1s}");
    let said_so = project.succeeds(&["run", "e.yaml"]);
    assert!(said_so.contains("retrying in 1.0 s (1 of 2)"), "{said_so}");
    let run = project.last_run();
    let tries: Vec<(u64, u32)> = project
        .events(&run)
        .iter()
        .filter_map(|e| match e {
            RunEvent::Retrying { pause_s, tried, .. } => Some((*pause_s, *tried)),
            _ => None,
        })
        .collect();
    assert_eq!(tries, [(1, 1), (2, 2)], "the pause doubles");
    let instance = &run.stages.get("a").unwrap().instances[0];
    assert_eq!((instance.retries, instance.started, instance.status), (2, 3, Status::Finished));
    assert_eq!(instance.failure, None);
    let project = failing(9, "exit 3", "retry: {max: 1, backoff: 1s}");
    assert_eq!(project.run(&["run", "e.yaml"]).status.code(), Some(1));
    assert_eq!(count(&project), 2);
}

#[test]
fn only_the_failures_that_are_named_are_tried_again() {
    let on = "retry: {max: 1, on: [oom, preempted], backoff: 1s}";
    let error = failing(1, "exit 3", on);
    assert_eq!(error.run(&["run", "e.yaml"]).status.code(), Some(1));
    assert_eq!(count(&error), 1);
    for ending in ["echo 'RuntimeError: CUDA out of memory.' >&2; exit 1", "exit 75", "kill -9 $$", "kill -TERM $$"] {
        let project = failing(1, ending, on);
        project.succeeds(&["run", "e.yaml"]);
        assert_eq!(count(&project), 2, "{ending}");
    }
}

#[test]
fn a_stage_that_rests_holds_nothing_and_stops_with_its_run() {
    let project = failing(9, "exit 3", "retry: {max: 5, backoff: 10m}");
    let engine = project.spawn(&["run", "e.yaml"]);
    wait_until("the rest", || {
        project.runs().last().is_some_and(|run| run.stages.get("a").is_some_and(|s| s.status == Status::Waiting))
    });
    assert_eq!(std::fs::read_dir(project.path("leases")).unwrap().count(), 1, "no lease but the ledger");
    signal(&engine, libc::SIGTERM);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert_eq!(count(&project), 1);
}

#[test]
fn a_stage_that_tells_and_prints_nothing_is_stopped_and_one_that_does_is_not() {
    let project = failing(9, "exec sleep 300", "stall: 1s");
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no events or output for 1 s"), "{}", said(&output));
    let again = failing(1, "exec sleep 300", "stall: 1s, retry: {max: 1, on: [stalled], backoff: 1s}");
    again.succeeds(&["run", "e.yaml"]);
    // It takes longer than `stall` in total, but is never silent for more than half of that.
    let chatty = failing(9, "for n in $(seq 30); do echo $n; sleep 0.2; done", "stall: 4s");
    chatty.succeeds(&["run", "e.yaml"]);
}

#[test]
fn a_timeout_counts_for_each_try() {
    let project = failing(1, "exec sleep 300", "timeout: 2s, retry: {max: 1, on: [timeout], backoff: 1s}");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(count(&project), 2);
}

#[test]
fn a_wrong_rule_is_an_error_at_its_place() {
    for (rule, words) in [
        ("retry: {max: 1, on: [omm]}", "`stages.a.retry.on"),
        ("retry: {on: [oom]}", "needs the key `max`"),
        ("retry: {max: -1}", "`stages.a.retry.max`"),
        ("stall: soon", "a time like"),
    ] {
        let project = failing(1, "exit 1", rule);
        let output = project.run(&["validate", "e.yaml"]);
        assert_eq!(output.status.code(), Some(2), "{rule}");
        let text = said(&output);
        assert!(text.contains(words) && text.contains("pipeline.yaml:4"), "{rule}: {text}");
        assert_eq!(text.matches("error[").count(), 1, "{rule}: {text}");
    }
    let project = failing(1, "exit 1", "timeout: 1h");
    let output = project.run(&["validate", "e.yaml", "--set", "stages.a.retry={max: x}"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    project.succeeds(&["run", "e.yaml", "--set", "stages.a.retry={max: 1, backoff: 1s}"]);
}
