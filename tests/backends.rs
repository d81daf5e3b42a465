//! Backends: which worker a stage needs, and the errors if it is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use olmo_pipe::cli::Exit;
use serde_json::Value;

/// A folder with only the default worker.
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
    command(dir, arguments).output().unwrap()
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    let root = env!("CARGO_MANIFEST_DIR");
    command.args(arguments).arg("--store").arg(dir.join("store")).current_dir(root);
    command.env("OLMO_PIPE_WORKER", dir.join("olmo-worker")).env("OLMO_PIPE_LEASES", dir.join("leases"));
    command.env("OLMO_PIPE_LIBTORCH", dir).env("CUDA_VISIBLE_DEVICES", "");
    command.env_remove("OLMO_PIPE_GPUS");
    command
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
fn a_worker_without_cuda_is_told_before_anything_runs_for_a_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let worker = bare(dir.path());
    // A worker with only the backends of the default build.
    std::os::unix::fs::symlink(&worker, dir.path().join("olmo-worker-libtorch")).unwrap();
    let mut command = command(dir.path(), &["run", "experiments/finetune-tulu.yaml", "--profile", "smoke"]);
    command
        .args(["--set", "stages.train.resources.gpus=1"])
        .env("OLMO_PIPE_GPUS", "GPU-a")
        .env_remove("CUDA_VISIBLE_DEVICES");
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(i32::from(Exit::Environment.code())));
    let text = said(&refused);
    assert!(text.contains("worker::no_backend") && text.contains("was built without it"), "{text}");
    assert!(text.contains("scripts/libtorch cuda --build"), "{text}");
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

    // Without any worker, the machine cannot compute anything, and the exit code says so.
    std::fs::remove_file(dir.path().join("olmo-worker")).unwrap();
    let nothing = asked(dir.path(), &["doctor"]);
    assert_eq!(nothing.status.code(), Some(i32::from(Exit::Environment.code())));
    assert!(said(&nothing).contains("cargo build --release"), "{}", said(&nothing));
}

#[test]
fn a_worker_whose_answer_nobody_reads_to_the_end_is_content() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Command::new(bare(dir.path()));
    let mut worker = worker.arg("describe").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(worker.stdout.take());
    let output = worker.wait_with_output().unwrap();
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
}

#[test]
#[ignore = "needs olmo-worker-libtorch: scripts/libtorch cpu --build"]
fn kernels_for_another_machine_are_made_or_the_missing_compiler_is_named_on_libtorch() {
    let dir = tempfile::tempdir().unwrap();
    let worker = Path::new(env!("CARGO_BIN_EXE_olmo-pipe")).with_file_name("olmo-worker-libtorch");
    let kernels = dir.path().join("kernels");
    let output = Command::new(worker).args(["kernels", "--gpu", "sm_90"]).arg(&kernels).output().unwrap();
    let made = std::fs::read_dir(&kernels).map_or(0, Iterator::count);
    if output.status.success() {
        assert_eq!((made, said(&output).lines().count()), (4, 4), "{}", said(&output));
        assert!(kernels.join("bf16-v8-sm_90.cubin").exists());
    } else {
        assert_eq!((output.status.code(), made), (Some(2), 0));
        assert!(said(&output).contains("nvidia-cuda-nvrtc"), "{}", said(&output));
    }
}

/// Creates a program in `dir` that runs `script`.
fn program(dir: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_doctor_tells_what_keeps_a_gpu_from_computing_and_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    bare(dir.path());
    let smi = |driver: &str| {
        format!(
            "case $1 in *driver_version) echo {driver} ;; *compute_cap) echo 'GPU-1, NVIDIA H100 80GB HBM3, 81559, 9.0'\n\
             echo 'GPU-2, NVIDIA H100 80GB HBM3, 81559, 9.0' ;; *) exit 2 ;; esac"
        )
    };
    let worker = |devices: &str| {
        let describe = dir.path().join("olmo-worker").display().to_string();
        let library = r#"s/"flex": /"libtorch": "libtorch 2.11.0", "flex": /"#;
        format!(
            "case $1 in describe) '{describe}' describe --json | sed '{library}' ;; devices) echo '{devices}' ;; esac"
        )
    };
    let cuda = |devices: u32, kernels: &str| {
        worker(&format!(r#"{{"cuda": {{"built": true, "devices": {devices}, "kernels": {kernels}}}}}"#))
    };
    let nvrtc = r#"{"compiler": "NVRTC 13.0", "cache": "/cache/kernels"}"#;
    let missing = r#"{"compiler": null, "why": "no NVRTC (looked for libnvrtc.so.13)"}"#;
    let trial = r#"{"compiler": null, "folder": "/trial"}"#;
    let lost =
        "echo 'error while loading shared libraries: libtorch_cpu.so: cannot open shared object file' >&2; exit 127";
    let both = "GPU-1,GPU-2";
    let mut text = String::new();
    for (case, driver, gpus, worker) in [
        ("no GPU, no worker", None, "", None),
        ("a GPU, no worker", Some("580.65.06"), both, None),
        ("a worker for the CPU", Some("580.65.06"), both, Some(worker(r#"{"cuda": {"built": false, "devices": 0}}"#))),
        ("libtorch is gone", Some("580.65.06"), both, Some(lost.to_owned())),
        ("no driver", None, "", Some(cuda(0, nvrtc))),
        ("an old driver", Some("570.124.06"), both, Some(cuda(0, nvrtc))),
        ("no GPU left", Some("580.65.06"), "", Some(cuda(0, nvrtc))),
        ("libtorch finds none", Some("580.65.06"), both, Some(cuda(0, nvrtc))),
        ("no NVRTC", Some("580.65.06"), both, Some(cuda(2, missing))),
        ("no NVRTC, compiled kernels", Some("580.65.06"), both, Some(cuda(2, trial))),
        ("all is there", Some("580.65.06"), "GPU-2", Some(cuda(1, nvrtc))),
    ] {
        // On a machine with a driver, this case cannot be tested.
        if driver.is_none() && Path::new("/proc/driver/nvidia/version").exists() {
            return;
        }
        program(dir.path(), "nvidia-smi", &driver.map_or("exit 9".into(), smi));
        match worker {
            Some(script) => program(dir.path(), "olmo-worker-libtorch", &script),
            None => drop(std::fs::remove_file(dir.path().join("olmo-worker-libtorch"))),
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.arg("doctor").arg("--store").arg(dir.path().join("store")).current_dir(dir.path());
        command.env("OLMO_PIPE_WORKER", dir.path().join("olmo-worker")).env("OLMO_PIPE_LIBTORCH", dir.path());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", dir.path().display())).env("OLMO_PIPE_GPUS", gpus);
        let output = command.env_remove("CUDA_VISIBLE_DEVICES").output().unwrap();
        assert!(output.status.success(), "{case}: flex is there all the same: {}", said(&output));
        text += &format!("{case}\n");
        let mut of_cuda = false;
        for line in said(&output).lines() {
            of_cuda = line.starts_with("backend   libtorch-cuda") || of_cuda && line.starts_with("    ");
            if of_cuda || line.starts_with("gpu") {
                text += &format!("  {}\n", line.replace(&dir.path().display().to_string(), "HERE"));
            }
        }
    }
    insta::assert_snapshot!(text);
}
