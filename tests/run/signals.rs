//! What signals do to an engine and its stages, and that nothing outlives an engine, however it dies.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use olmo_pipe::run::{RunEvent, RunStatus, Status};

use super::items::{steps, training};
use super::project::*;

#[test]
fn sigusr1_lets_workers_save_and_hurts_nobody() {
    let project = training();
    project.stage("other", &format!("touch @other.here\nwhile [ ! -e @go ]; do sleep 0.02; done\n{COPY}"));
    let pipeline = project.read("pipeline.yaml");
    project.write("pipeline.yaml", &pipeline.replace("stages:\n", "stages:\n  other: {uses: other}\n"));
    project.write("hold-2", "");
    let two = std::thread::available_parallelism().map_or(1, |n| n.get()) >= 2;
    if !two {
        project.write("go", "");
    }
    let engine = project.spawn(&["run", "e.yaml"]);
    if two {
        project.wait_for("other.here");
    }
    wait_until("two steps", || project.path("steps").exists() && steps(&project).len() == 2);
    // The record says that the worker is up: before, the signal would come to nobody.
    wait_until("the start", || project.status("train") == Status::Running);
    signal(&engine, libc::SIGUSR1);
    project.wait_for("saved");
    project.write("go", "");
    fs::remove_file(project.path("hold-2")).unwrap();
    let output = engine.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(project.events(&project.last_run()).contains(&RunEvent::Saving));
}

#[test]
fn a_closed_terminal_ends_a_run_in_order_unless_it_was_started_to_outlive_it() {
    let project = Project::new();
    project.stage("a", &format!("touch @waits\nwhile [ ! -e @go ]; do sleep 0.02; done\n{COPY}"));
    project.experiment("  a: {uses: a}\n", "");
    let mut command = project.command(&["run", "e.yaml"]);
    // These tests may themselves run under `nohup`, whose disposition the engine would inherit and keep.
    // SAFETY: `signal` may be called between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::signal(libc::SIGHUP, libc::SIG_DFL) {
            libc::SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let engine = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    project.wait_for("waits");
    signal(&engine, libc::SIGHUP);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(129), "{}", said(&output));
    assert_eq!(project.last_run().status, RunStatus::Interrupted);
    fs::remove_file(project.path("waits")).unwrap();
    let script = format!("trap '' HUP; exec '{}' run e.yaml", env!("CARGO_BIN_EXE_olmo-pipe"));
    let engine = project.command_of("/bin/sh", &["-c", &script]).spawn().unwrap();
    project.wait_for("waits");
    signal(&engine, libc::SIGHUP);
    project.write("go", "");
    let output = engine.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn nothing_outlives_an_engine_however_it_dies() {
    for how in [libc::SIGKILL, libc::SIGABRT, libc::SIGQUIT, libc::SIGILL] {
        let project = Project::new();
        project.stage("a", &format!("{ESCAPE}sleep 300\n"));
        project.experiment("  a: {uses: a}\n", "");
        let engine = project.spawn(&["run", "e.yaml"]);
        project.wait_for("escaped");
        let pid = project.read("escaped");
        assert!(lives(&pid));
        signal(&engine, how);
        let output = engine.wait_with_output().unwrap();
        assert_eq!(output.status.code(), None, "it died of signal {how}");
        wait_until("the end of all", || !lives(&pid));
    }
}
