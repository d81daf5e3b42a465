//! What stages say before anything runs: `validate` and `run` show it where it was written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn olmo_pipe(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env_remove("OLMO_PIPE_STORE");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A project with the command stage `count`, whose rule is that `most` is not below `least`.
fn project(check: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("olmo-pipe.yaml", "");
    write(
        "stages/count/stage.yaml",
        "stage: count\nversion: 1\nsummary: Counts.\ninputs: {text: {type: file}}\noutputs: {out: {type: text}}\n\
         params: {least: {type: integer, default: 1}, most: {type: integer, default: 9}}\n\
         command:\n  argv: [/bin/sh, -c, 'echo x > \"$0/x\"', '${outputs.out}']\n  check: [/bin/sh, '${stage.dir}/check.sh']\n",
    );
    write("stages/count/check.sh", check);
    write("data.txt", "a\n");
    write(
        "p.yaml",
        "pipeline: p\nparams: {most: {type: integer, default: 9}}\nstages:\n  n: {uses: count, with: {text: data.txt, least: 3, most: '${params.most}'}}\n",
    );
    write("e.yaml", "experiment: e\nuses: p.yaml\nparams:\n  most: 2\n");
    dir
}

/// Complains if the question holds `most` below 3; keeps the question.
const CHECK: &str = r#"cat > "$TMPDIR/q"
case $(cat "$TMPDIR/q") in
*'"most":2'*) echo '[{"level":"error","code":"count::order","param":"most","message":"`most` is below `least`","hint":"raise it"}]' ;;
*'"most":3'*) echo '[{"level":"warning","code":"count::same","param":"most","message":"only one number fits"}]' ;;
*) echo '[]' ;;
esac
"#;

#[test]
fn a_command_stages_rule_is_shown_where_the_value_was_written() {
    let dir = project(CHECK);
    let expected = "error[count::order]: `most` is below `least`\n --> e.yaml:4:9\n  |\n4 |   most: 2\n  |         ^\n  = note: stage `n` says so\n  = help: raise it\n";
    for command in [&["validate", "e.yaml"][..], &["run", "e.yaml"]] {
        let output = olmo_pipe(dir.path(), command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let shown = text(&output.stderr);
        assert!(shown.replace("\n  |\n  =", "\n  =").contains(expected), "{command:?}\n{shown}");
    }
    assert!(!dir.path().join(".olmo-pipe/runs-v1").read_dir().is_ok_and(|mut d| d.next().is_some()), "no run began");

    let json = olmo_pipe(dir.path(), &["validate", "e.yaml", "--json", "--set", "params.most=3"]);
    assert_eq!(json.status.code(), Some(0), "{}", text(&json.stderr));
    let found: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(found["errors"].as_array().unwrap().len(), 0);
    assert_eq!(found["warnings"][0]["code"], "count::same");

    let ran = olmo_pipe(dir.path(), &["run", "e.yaml", "--set", "params.most=3"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    assert!(text(&ran.stderr).contains("only one number fits"), "a warning stops nothing, and is told");
    // What has its result is not asked again.
    fs::write(dir.path().join("stages/count/check.sh"), "exit 3").unwrap();
    assert_eq!(olmo_pipe(dir.path(), &["run", "e.yaml", "--set", "params.most=3"]).status.code(), Some(0));
}

#[test]
fn a_checking_program_that_fails_or_babbles_is_named() {
    for (script, words) in [("echo broken >&2; exit 3", "broken"), ("echo hello", "no list of findings")] {
        let output = olmo_pipe(project(script).path(), &["validate", "e.yaml"]);
        assert_eq!(output.status.code(), Some(3));
        let shown = text(&output.stderr);
        assert!(shown.contains("error[exec::check]") && shown.contains("`count`") && shown.contains(words), "{shown}");
    }
}

#[test]
fn validate_asks_the_built_in_stages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let store = tempfile::tempdir().unwrap();
    let at = store.path().join("none");
    let sound = olmo_pipe(root, &["validate", "experiments/finetune-tulu.yaml", "--store", at.to_str().unwrap()]);
    assert_eq!((sound.status.code(), text(&sound.stderr)), (Some(0), String::new()));
    assert!(!at.exists(), "looking makes no store");
    let set = "params.model={d_model: 100, n_heads: 3, n_layers: 2, mlp_hidden_size: 64}";
    let bad = olmo_pipe(
        root,
        &[
            "validate",
            "experiments/finetune-tulu.yaml",
            "--set",
            set,
            "--set",
            "params.save_interval=4000",
            "--store",
            at.to_str().unwrap(),
        ],
    );
    assert_eq!(bad.status.code(), Some(2));
    let shown = text(&bad.stderr);
    assert!(
        shown.contains("error[train::model_config]: `d_model` (100) must be a multiple of `n_heads` (3)"),
        "{shown}"
    );
    assert!(shown.contains("warning[train::interval]: every 4000 steps, in a run of 1600"), "{shown}");
    assert!(shown.contains("comes from the command line"), "{shown}");
}

#[test]
fn without_a_worker_the_rules_cannot_be_asked_and_that_is_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let worker = dir.path().join("worker");
    fs::write(&worker, "#!/bin/sh\necho nonsense\n").unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    command.args(["validate", "experiments/finetune-tulu.yaml", "--store"]).arg(dir.path().join("store"));
    let output = command.current_dir(root).env("OLMO_PIPE_WORKER", &worker).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("worker::broken"), "{}", text(&output.stderr));
}
