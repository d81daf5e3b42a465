//! Findings of stages before anything runs: `validate` and `run` show each one at its place in the
//! file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
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

/// A project with the command stage `count`, whose rule is that `most` must not be below `least`.
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

/// A check program that reports an error if `most` is below 3. It saves the question.
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
    let expected = "error[count::order]: `most` is below `least`\n --> e.yaml:4:9\n  |\n4 |   most: 2\n  |         ^\n  = note: reported by stage `n`\n  = help: raise it\n";
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
    // A stage with a cached result is not checked again.
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
    let set = "params.architecture={preset: olmo2, d_model: 100, n_heads: 3, n_layers: 2, mlp_hidden_size: 64}";
    let bad = olmo_pipe(
        root,
        &[
            "validate",
            "experiments/finetune-tulu.yaml",
            "--set",
            set,
            "--set",
            "params.save_interval=4000steps",
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
    assert!(shown.contains("warning[train::interval]: the interval is 4000 steps, but the run has 1600"), "{shown}");
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

/// Timeout for events that must occur. Tests never measure it.
fn wait_until(what: &str, mut true_now: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !true_now() {
        assert!(since.elapsed() < std::time::Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A check program that leaves behind a daemon, which holds its output open, and then runs `end`.
fn with_daemon(end: &str) -> tempfile::TempDir {
    let dir = project("");
    let daemon = dir.path().join("daemon");
    let script = format!(
        "( setsid sh -c 'trap \"\" TERM INT HUP; echo $$ > {0}.part; mv {0}.part {0}; sleep 300' & ) &\n\
         while [ ! -e {0} ]; do sleep 0.02; done\n{end}\n",
        daemon.display()
    );
    fs::write(dir.path().join("stages/count/check.sh"), script).unwrap();
    dir
}

fn daemon_lives(dir: &Path) -> bool {
    crate::run::project::lives(&fs::read_to_string(dir.join("daemon")).unwrap())
}

#[test]
fn a_checking_program_leaves_nothing_behind() {
    let dir = with_daemon("echo '[]'");
    let output = olmo_pipe(dir.path(), &["validate", "e.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    wait_until("the end of the daemon", || !daemon_lives(dir.path()));
}

#[test]
fn a_checking_program_that_hangs_is_killed_and_named() {
    let dir = with_daemon("trap '' TERM; sleep 300");
    for command in [&["validate", "e.yaml"][..], &["run", "e.yaml"], &["plan", "e.yaml"]] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        process.args(command).current_dir(dir.path()).env_remove("OLMO_PIPE_STORE").env("OLMO_PIPE_CHECK_S", "1");
        let output = process.output().unwrap();
        // A plan does not need the answer.
        let expected = if command[0] == "plan" { Some(0) } else { Some(3) };
        assert_eq!(output.status.code(), expected, "{command:?}: {}", text(&output.stderr));
        let shown = text(&output.stderr);
        assert!(expected == Some(0) || shown.contains("did not answer within 1 s"), "{shown}");
        wait_until("the end of the daemon", || !daemon_lives(dir.path()));
        fs::remove_file(dir.path().join("daemon")).unwrap();
    }
}

#[test]
fn a_checking_program_does_not_outlive_the_command_that_asks_it() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL] {
        let dir = with_daemon("sleep 300");
        let mut process = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        process.args(["validate", "e.yaml"]).current_dir(dir.path()).env_remove("OLMO_PIPE_STORE");
        let mut process = process.spawn().unwrap();
        wait_until("the daemon", || dir.path().join("daemon").exists());
        // SAFETY: kill takes integers. The child was not reaped yet, so the PID is still its own.
        assert_eq!(unsafe { libc::kill(process.id() as i32, signal) }, 0);
        process.wait().unwrap();
        wait_until("the end of the daemon", || !daemon_lives(dir.path()));
    }
}

#[test]
fn an_answer_without_end_is_refused() {
    let dir = project("yes");
    let mut process = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    process.args(["validate", "e.yaml"]).current_dir(dir.path()).env_remove("OLMO_PIPE_STORE");
    let output = process.env("OLMO_PIPE_CHECK_S", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("did not answer within 1 s"), "{}", text(&output.stderr));
    let output = olmo_pipe(project("head -c 100000000 /dev/zero").path(), &["validate", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("more than 32 MiB"), "{}", text(&output.stderr));
}

#[test]
fn a_worker_that_hangs_is_killed_and_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let worker = dir.path().join("worker");
    fs::write(&worker, "#!/bin/sh\nsleep 300\n").unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    for arguments in [&["validate", "experiments/finetune-tulu.yaml"][..], &["schema", "--check"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(arguments).current_dir(root).env("OLMO_PIPE_STORE", dir.path().join("store"));
        let output = command.env("OLMO_PIPE_WORKER", &worker).env("OLMO_PIPE_CHECK_S", "1").output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let shown = text(&output.stderr);
        assert!(shown.contains("worker::broken") && shown.contains("did not answer within 1 s"), "{shown}");
    }
}

#[test]
fn what_a_command_cannot_be_started_with_is_refused_at_once() {
    let dir = project("echo '[]'");
    let contract = dir.path().join("stages/count/stage.yaml");
    let sound = fs::read_to_string(&contract).unwrap();
    let fifo =
        std::ffi::CString::new(dir.path().join("stages/count/pipe").into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: `fifo` is a NUL-terminated path that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    for (line, words) in [
        ("  environment: ['A=B', FINE]\n", "`A=B` cannot be the name of an environment variable"),
        ("  environment: ['']\n", "cannot be the name of an environment variable"),
        ("  secrets: ['A=B']\n", "cannot be the name of an environment variable"),
        ("  files: [pipe]\n", "is a FIFO"),
    ] {
        fs::write(&contract, format!("{sound}{line}")).unwrap();
        let output = olmo_pipe(dir.path(), &["run", "e.yaml"]);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(words), "{line}: {}", text(&output.stderr));
    }
    fs::write(&contract, sound.replace("/bin/sh, -c", "/bin/sh, \"-c\\0\"")).unwrap();
    let output = olmo_pipe(dir.path(), &["run", "e.yaml"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("NUL"), "{}", text(&output.stderr));
    // A FIFO inside a folder is found when the folder is read.
    fs::write(&contract, format!("{sound}  files: [all]\n")).unwrap();
    fs::create_dir(dir.path().join("stages/count/all")).unwrap();
    fs::rename(dir.path().join("stages/count/pipe"), dir.path().join("stages/count/all/pipe")).unwrap();
    let output = olmo_pipe(dir.path(), &["run", "e.yaml"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("is a FIFO"), "{}", text(&output.stderr));
}
