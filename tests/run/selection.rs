//! Selecting the stages of a run, and forcing stages to run in spite of cached results.

use olmo_pipe::run::Status;
use serde_json::Value;

use super::project::*;

#[test]
fn until_leaves_out_what_comes_after() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml", "--until", "b"]);
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 1), ("c", 1)]));
    assert_eq!(project.read("out/e/first/text"), "hello\n");
    let output = project.run(&["run", "e.yaml", "--until", "bb"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("did you mean `b`"), "{}", said(&output));
}

#[test]
fn from_runs_what_comes_after_and_needs_what_comes_before() {
    let project = diamond();
    let output = project.run(&["run", "e.yaml", "--from", "b"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("but `a`, which it needs, has no result"), "{}", said(&output));
    assert!(project.runs().is_empty());
    project.succeeds(&["run", "e.yaml", "c"]);
    project.succeeds(&["run", "e.yaml", "--from", "b"]);
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
    let cached: Vec<String> =
        project.statuses().into_iter().filter(|(_, s)| *s == Status::Cached).map(|(name, _)| name).collect();
    assert_eq!(cached, ["a", "c"]);
}

#[test]
fn a_forced_stage_runs_again_and_equal_bytes_stop_there() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    project.succeeds(&["run", "e.yaml", "--force", "b"]);
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 2), ("c", 1), ("d", 1)]));
    assert_eq!(project.status("d"), Status::Cached);
    project.stage("b", &format!("{COPY}cat @salt >> \"$2/text\"\n"));
    project.write("salt", "1\n");
    project.succeeds(&["run", "e.yaml"]);
    // Nothing in the key has changed, so only a forced run notices the difference.
    project.write("salt", "2\n");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.ran()["b"], 3);
    project.succeeds(&["run", "e.yaml", "--force", "b"]);
    assert_eq!(project.ran(), counts(&[("a", 1), ("b", 4), ("c", 1), ("d", 3)]));
    assert_eq!(project.read("out/e/text/text"), "\nb\nhello\n2\nc\nhello\n");
    let output = project.run(&["run", "e.yaml", "--force", "bb"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn without_reading_the_cache_everything_runs_once_and_its_results_are_kept() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    project.succeeds(&["run", "e.yaml", "--no-cache-read"]);
    assert_eq!(project.ran(), counts(&[("a", 2), ("b", 2), ("c", 2), ("d", 2)]));
    assert!(project.succeeds(&["run", "e.yaml"]).contains("all 4 stages cached"));
}

#[test]
fn a_selection_belongs_to_its_run_and_resume_keeps_it() {
    let project = diamond();
    project.stage("c", "[ -e @go ] || exit 1\necho c > \"$2/text\"\n");
    assert_eq!(project.run(&["run", "e.yaml", "--until", "c"]).status.code(), Some(1));
    project.write("go", "");
    let id = project.last_run().id;
    project.succeeds(&["resume", id.as_str()]);
    assert!(!project.ran().contains_key("d"));
    assert_eq!(project.last_run().id, id);
}

#[test]
fn a_run_prints_its_events_as_lines_of_json() {
    let project = diamond();
    let output = project.run(&["run", "e.yaml", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(output.stderr.is_empty(), "{}", said(&output));
    let events: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().all(|line| line["format"] == 1 && line["at"].is_u64()), "{events:?}");
    let kinds: Vec<&str> = events.iter().map(|line| line["event"]["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("opened", "closed"));
    assert_eq!(kinds.iter().filter(|kind| **kind == "finished").count(), 4);
    let page = include_str!("../../docs/json.md");
    for line in &events {
        for name in line["event"].as_object().unwrap().keys().map(String::as_str).chain(kinds.iter().copied()) {
            assert!(
                ["kind", "place"].contains(&name) || page.contains(&format!("`{name}`")),
                "docs/json.md lacks `{name}`"
            );
        }
    }
    let shown: Value =
        serde_json::from_str(&project.succeeds(&["runs", "show", project.last_run().id.as_str(), "--json"])).unwrap();
    assert_eq!((&shown["format"], &shown["run"]["status"]), (&1.into(), &"succeeded".into()));
    let stage = &shown["run"]["stages"]["a"];
    for value in [&shown["run"], stage, &stage["instances"][0], &stage["instances"][0]["used"]] {
        for name in value.as_object().unwrap().keys() {
            assert!(page.contains(&format!("`{name}`")), "docs/json.md lacks `{name}`");
        }
    }
}
