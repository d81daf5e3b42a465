//! What computes: which worker is asked for, and what is said where it is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use olmo_pipe::cli::Exit;
use serde_json::Value;

/// A folder with the default worker alone.
fn bare(dir: &Path) -> PathBuf {
    let worker = Path::new(env!("CARGO_BIN_EXE_olmo-pipe")).with_file_name("olmo-worker");
    assert!(worker.exists(), "these tests need the worker beside the engine: cargo build --release");
    let path = dir.join("olmo-worker");
    std::os::unix::fs::symlink(worker, &path).unwrap();
    path
}

fn said(output: &Output) -> String {
    [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat()
}

fn asked(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    let root = env!("CARGO_MANIFEST_DIR");
    command.args(arguments).arg("--store").arg(dir.join("store")).current_dir(root);
    command.env("OLMO_PIPE_WORKER", dir.join("olmo-worker")).env("OLMO_PIPE_LEASES", dir.join("leases"));
    command.env("OLMO_PIPE_LIBTORCH", dir).env("CUDA_VISIBLE_DEVICES", "");
    command.env_remove("OLMO_PIPE_GPUS").output().unwrap()
}

#[test]
fn a_backend_without_its_worker_and_a_gpu_that_nobody_asked_for_are_told_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    bare(dir.path());
    let run = |value: &str| {
        let set = format!("stages.train.with.{value}");
        asked(dir.path(), &["run", "experiments/finetune-tulu.yaml", "--profile", "smoke", "--set", &set])
    };
    let missing = run("backend=libtorch");
    assert_eq!(missing.status.code(), Some(i32::from(Exit::Environment.code())));
    let text = said(&missing);
    assert!(text.contains("worker::no_backend") && text.contains("scripts/libtorch cpu --build"), "{text}");
    assert!(text.contains("backend: flex"), "{text}");
    let gpu = run("device=cuda");
    assert_eq!(gpu.status.code(), Some(i32::from(Exit::Environment.code())));
    let text = said(&gpu);
    assert!(text.contains("resources: {gpus: 1}") && text.contains("device: cpu"), "{text}");
    let both = asked(
        dir.path(),
        &[
            "validate",
            "experiments/finetune-tulu.yaml",
            "--profile",
            "smoke",
            "--set",
            "stages.train.with.device=cuda",
            "--set",
            "stages.train.with.backend=flex",
        ],
    );
    assert_eq!(both.status.code(), Some(i32::from(Exit::BadInput.code())));
    assert!(said(&both).contains("flex computes on the CPU"), "{}", said(&both));
    // Nothing ran.
    assert!(std::fs::read_dir(dir.path().join("store/runs-v1")).map_or(true, |mut runs| runs.next().is_none()));
}

#[test]
fn the_doctor_names_what_is_ready_what_is_not_and_the_command_for_it() {
    let dir = tempfile::tempdir().unwrap();
    bare(dir.path());
    let output = asked(dir.path(), &["doctor", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let backends = report["backends"].as_array().unwrap();
    let names: Vec<&str> = backends.iter().map(|backend| backend["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["flex", "libtorch", "libtorch-cuda"]);
    assert_eq!((backends[0]["ready"].as_bool(), backends[1]["ready"].as_bool()), (Some(true), Some(false)));
    assert_eq!(backends[1]["way_out"], "scripts/libtorch cpu --build");
    assert_eq!(backends[2]["ready"], false);
    assert_eq!((&report["gpus"], &report["libtorch"][0]["found"]), (&serde_json::json!([]), &Value::Bool(false)));
    let text = said(&asked(dir.path(), &["doctor"]));
    assert!(
        text.contains("flex") && text.contains("ready") && text.contains("-> scripts/libtorch cpu --build"),
        "{text}"
    );

    // Without any worker the machine can compute nothing, and the exit says so.
    std::fs::remove_file(dir.path().join("olmo-worker")).unwrap();
    let nothing = asked(dir.path(), &["doctor"]);
    assert_eq!(nothing.status.code(), Some(i32::from(Exit::Environment.code())));
    assert!(said(&nothing).contains("cargo build --release"), "{}", said(&nothing));
}
