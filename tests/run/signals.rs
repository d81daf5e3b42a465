//! The effects of signals on an engine and its stages. No process outlives its engine, however it
//! dies.

use std::fs;
use std::os::unix::process::CommandExt as _;
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
    // Wait until the record says that the worker has started. Before that, the signal would be
    // lost.
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
    // The tests may run under `nohup`. The engine would inherit and keep its disposition of SIGHUP.
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

/// A command with `arguments`, whose parent has ignored and blocked all possible signals.
fn in_a_deaf_shell(project: &Project, arguments: &[&str]) -> std::process::Command {
    let mut command = project.command(arguments);
    // SAFETY: between fork and exec, only system calls are made.
    unsafe {
        command.pre_exec(|| {
            for signal in (1..=31).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGHUP].contains(signal)) {
                libc::signal(signal, libc::SIG_IGN);
            }
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            match libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    command
}

#[test]
fn signals_that_a_parent_ignored_and_blocked_reach_engine_and_stage() {
    for (sent, code) in [(libc::SIGTERM, Some(143)), (libc::SIGINT, Some(130)), (libc::SIGQUIT, None)] {
        let project = Project::new();
        project.stage("a", "grep ^Sig /proc/self/status > @part; mv @part @signals\nsleep 300\n");
        project.experiment("  a: {uses: a}\n", "");
        let mut engine = in_a_deaf_shell(&project, &["run", "e.yaml"]);
        let engine = engine.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        project.wait_for("signals");
        signal(&engine, sent);
        let output = engine.wait_with_output().unwrap();
        assert_eq!(output.status.code(), code, "{}", said(&output));
        // The lowest 31 bits are the signals with names. The shell itself sets none of them.
        for line in
            project.read("signals").lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn"))
        {
            let bits = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            assert_eq!(bits & 0x7fff_ffff, 0, "{line}");
        }
    }
}

/// The parent of process `pid`.
fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A project with stage `a`, which leaves behind a daemon and waits for the file `go`.
fn leaving_a_daemon() -> Project {
    let project = Project::new();
    let wait = "echo $$ > @stage.part; mv @stage.part @stage\nwhile [ ! -e @go ]; do sleep 0.02; done\n";
    project.stage("a", &format!("[ -e @go ] || {{ {ESCAPE}{wait}}}\n{COPY}"));
    project.experiment("  a: {uses: a}\n", "text: '${stages.a.text}'");
    project
}

/// PIDs of the engine, guard and supervisor of the stage that wrote its PID to `stage`.
fn chain(project: &Project) -> [i32; 3] {
    let stage: i32 = project.read("stage").trim().parse().unwrap();
    let supervisor = parent(stage);
    let guard = parent(supervisor);
    [parent(guard), guard, supervisor]
}

fn kill_at_once(pids: &[i32]) {
    for pid in pids {
        // SAFETY: kill takes integers. The processes belong to this test and were not reaped yet.
        assert_eq!(unsafe { libc::kill(*pid, libc::SIGKILL) }, 0);
    }
}

#[test]
fn nothing_outlives_an_engine_and_any_of_its_supervisors_that_are_killed_together() {
    for (who, killed) in [
        ("engine, supervisor", vec![0, 2]),
        ("engine, guard", vec![0, 1]),
        ("guard, supervisor", vec![1, 2]),
        ("guard", vec![1]),
        ("supervisor", vec![2]),
    ] {
        let project = leaving_a_daemon();
        let engine = project.spawn(&["run", "e.yaml"]);
        project.wait_for("escaped");
        project.wait_for("stage");
        let pids = chain(&project);
        assert_eq!(pids[0], engine.id() as i32);
        let killed: Vec<i32> = killed.into_iter().map(|index| pids[index]).collect();
        kill_at_once(&killed);
        let output = engine.wait_with_output().unwrap();
        let daemon = project.read("escaped");
        wait_until(&format!("the end of all after {who}"), || !lives(&daemon) && !lives(&project.read("stage")));
        if killed[0] != pids[0] {
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(said(&output).contains("its supervisor was killed"), "{}", said(&output));
        }
    }
}

#[test]
fn what_outlives_all_its_supervisors_frees_no_lease_and_is_ended_by_the_next_engine() {
    let project = leaving_a_daemon();
    let engine = project.spawn(&["run", "e.yaml"]);
    project.wait_for("escaped");
    project.wait_for("stage");
    let pids = chain(&project);
    // Stop them first, so that none of them can act while the others are killed.
    for pid in &pids {
        // SAFETY: as in `kill_at_once`.
        assert_eq!(unsafe { libc::kill(*pid, libc::SIGSTOP) }, 0);
    }
    kill_at_once(&pids);
    engine.wait_with_output().unwrap();
    let daemon = project.read("escaped");
    wait_until("the end of the stage's first process", || !lives(&project.read("stage")));
    assert!(lives(&daemon), "nothing is left that could have ended it");
    let work = fs::read_dir(project.path(".olmo-pipe/work-v1")).unwrap().next().unwrap().unwrap().path();
    let lock = fs::File::open(work.join("supervisor.lock")).unwrap();
    assert!(lock.try_lock().is_err(), "the daemon holds what the lease looks at");
    // This is another stage of another experiment in this store. It kills the daemon anyway.
    project.write("go", "");
    project.stage("b", COPY);
    project.write("other.yaml", "experiment: other\nuses: q.yaml\n");
    project.write("q.yaml", "pipeline: q\nstages: {b: {uses: b}}\n");
    project.succeeds(&["run", "other.yaml"]);
    wait_until("the end of the daemon", || !lives(&daemon));
    assert!(lock.try_lock().is_ok());
    drop(lock);
    project.succeeds(&["run", "e.yaml"]);
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
