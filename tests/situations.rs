//! Complete outputs in the most common situations, as snapshots.
//!
//! Times, sizes on disk, digests, run IDs and the project's folder differ between runs and are
//! replaced by placeholders.

use std::fmt::Write as _;
use std::process::Output;
use std::sync::LazyLock;

use regex::Regex;

use crate::run::project::*;

/// The texts to replace, in this order.
static CHANGING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}", "[RUN]"),
        (r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(\.[0-9]+)?Z?", "[WHEN]"),
        (r"\b[0-9a-f]{64}\b", "[DIGEST]"),
        (r"\b[0-9a-f]{8,16}\b", "[DIGEST]"),
        (r"\b[0-9]+\.[0-9] s\b", "[TIME]"),
        (r"\b[0-9]+ (ms|s)\b", "[TIME]"),
        (r"\b[0-9.]+ (B|KiB|MiB|GiB|bytes)\b", "[SIZE]"),
        (r"process [0-9]+", "process [PID]"),
        (r"olmo-pipe [0-9]+\.[0-9]+\.[0-9]+\S*", "olmo-pipe [VERSION]"),
    ]
    .map(|(pattern, name)| (Regex::new(pattern).unwrap(), name))
    .into()
});

/// Replaces the parts of `text` that differ between runs.
fn stable(project: &Project, text: &str) -> String {
    let mut text = text.replace(&project.dir.path().display().to_string(), "[PROJECT]");
    for (pattern, name) in CHANGING.iter() {
        text = pattern.replace_all(&text, *name).into_owned();
    }
    // Column widths depend on the replaced text, so runs of spaces are shortened. Markers below a
    // line of a file keep their position.
    let spaces = Regex::new("([^ ]) {3,}").unwrap();
    let line =
        |line: &str| if line.contains('^') { line.to_owned() } else { spaces.replace_all(line, "$1  ").into_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A command with its exit code and its output.
fn shown(project: &Project, arguments: &[&str], output: &Output) -> String {
    let mut text = format!("$ olmo-pipe {}\n", arguments.join(" "));
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            let _ = writeln!(text, "--- {name}\n{}", String::from_utf8_lossy(bytes).trim_end());
        }
    }
    let _ = write!(text, "--- exit {}", output.status.code().unwrap_or(-1));
    stable(project, &text)
}

/// Runs a command and compares what it prints with the snapshot `name`.
fn check(project: &Project, name: &str, arguments: &[&str]) {
    let output = project.run(arguments);
    insta::assert_snapshot!(name, shown(project, arguments, &output));
}

/// a -> b -> c. The stages run one after another, so the order of the lines is always the same.
fn chain() -> Project {
    let project = Project::new();
    for name in ["a", "b", "c"] {
        project.stage(name, COPY);
    }
    project.experiment(
        "  a: {uses: a, with: {say: '${params.say}'}}\n\
         \x20 b: {uses: b, with: {from: ['${stages.a.text}'], say: b}}\n\
         \x20 c: {uses: c, with: {from: ['${stages.b.text}']}}\n",
        "text: '${stages.c.text}'",
    );
    project
}

#[test]
fn a_first_run_a_second_one_and_a_changed_param() {
    let project = chain();
    check(&project, "validate", &["validate", "e.yaml"]);
    check(&project, "plan_before_the_first_run", &["plan", "e.yaml"]);
    check(&project, "run_first", &["run", "e.yaml"]);
    check(&project, "run_again", &["run", "e.yaml"]);
    check(&project, "plan_when_all_is_cached", &["plan", "e.yaml", "--exit-code"]);
    check(&project, "plan_after_a_change", &["plan", "e.yaml", "--set", "params.say=bye", "--explain", "--exit-code"]);
    check(&project, "run_after_a_change", &["run", "e.yaml", "--set", "params.say=bye"]);
    check(&project, "run_until", &["run", "e.yaml", "--until", "b", "--set", "params.say=again"]);
    check(&project, "show_resolved", &["show", "e.yaml", "--resolved", "--origin"]);
    check(&project, "graph", &["graph", "e.yaml"]);
}

#[test]
fn looking_at_the_store() {
    let project = chain();
    project.succeeds(&["run", "e.yaml"]);
    project.succeeds(&["run", "e.yaml", "--set", "params.say=bye"]);
    check(&project, "artifacts_list", &["artifacts", "list"]);
    check(&project, "artifacts_show", &["artifacts", "show", "latest:c.text"]);
    check(&project, "artifacts_lineage", &["artifacts", "lineage", "latest:c.text"]);
    check(&project, "artifacts_tag", &["artifacts", "tag", "latest:c.text", "best"]);
    check(&project, "artifacts_tags", &["artifacts", "tags"]);
    check(&project, "artifacts_du", &["artifacts", "du"]);
    check(&project, "artifacts_gc", &["artifacts", "gc", "--dry-run"]);
    check(&project, "artifacts_verify", &["artifacts", "verify"]);
    check(&project, "artifacts_unknown", &["artifacts", "show", "latest:d.text"]);
    check(&project, "runs_list", &["runs", "list"]);
    check(&project, "runs_show", &["runs", "show", &project.last_run().id.to_string()]);
    check(&project, "runs_unknown", &["runs", "show", "20260101-000000-0000"]);
}

#[test]
fn a_stage_that_fails_and_the_way_back() {
    let project = chain();
    project.stage("b", "echo working; echo 'no such column: text' >&2; exit 3\n");
    check(&project, "run_fails", &["run", "e.yaml"]);
    let id = project.last_run().id.to_string();
    check(&project, "runs_show_failed", &["runs", "show", &id]);
    check(&project, "runs_logs", &["runs", "logs", &id, "b"]);
    check(&project, "resume_changed", &["resume", &id]);
    project.stage("b", COPY);
    check(&project, "resume_after_a_fix", &["resume", &id]);
    check(&project, "run_after_a_fix", &["run", "e.yaml"]);
}

#[test]
fn mistakes_in_files_and_on_the_command_line() {
    let project = chain();
    project.write(
        "typo.yaml",
        "experiment: t\nuses: pipeline.yaml\nparams: {sya: hello}\nstages: {a: {wiht: {say: x}}}\n",
    );
    check(&project, "validate_typos", &["validate", "typo.yaml"]);
    project.write("type.yaml", "experiment: t\nuses: pipeline.yaml\nparams: {say: 3}\n");
    check(&project, "validate_wrong_type", &["validate", "type.yaml"]);
    project.write("broken.yaml", "experiment: t\nuses: [pipeline.yaml\n");
    check(&project, "validate_broken_yaml", &["validate", "broken.yaml"]);
    project.write("missing.yaml", "experiment: t\nuses: pipelines.yaml\n");
    check(&project, "validate_missing_pipeline", &["validate", "missing.yaml"]);
    check(&project, "run_a_pipeline", &["run", "pipeline.yaml"]);
    check(&project, "run_no_such_file", &["run", "f.yaml"]);
    check(&project, "set_unknown_param", &["run", "e.yaml", "--set", "params.sy=x"]);
    check(&project, "unknown_profile", &["run", "e.yaml", "--profile", "quick"]);
    check(&project, "unknown_stage", &["run", "e.yaml", "d"]);
    check(&project, "unknown_command", &["rum", "e.yaml"]);
    check(&project, "unknown_option", &["run", "e.yaml", "--sett", "params.say=x"]);
}

#[test]
fn sweeps_and_beginnings() {
    let project = chain();
    check(&project, "sweep_plan", &["plan", "e.yaml", "--sweep", "params.say=[red,blue]"]);
    project.succeeds(&["run", "e.yaml", "--sweep", "params.say=[red,blue]", "--set", "stages.a.resources.cpus=0"]);
    check(&project, "runs_compare", &["runs", "compare", &project.last_run().id.to_string()]);
    check(&project, "recipes", &["recipes", "ls"]);
    check(&project, "init", &["init", "new"]);
    check(&project, "init_again", &["init", "new", "--recipe", "nothing"]);
    check(&project, "help", &["--help"]);
    check(&project, "help_run", &["run", "--help"]);
    check(&project, "no_command", &[]);
}
