//! Output that cannot be written: full disks, readers that exited, and readers that stopped
//! reading.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use crate::run::project::*;

/// A full pipe. The read end has to be kept open.
fn full_pipe() -> (std::io::PipeReader, OwnedFd) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: both calls take an open file descriptor and integers.
    unsafe {
        use std::os::fd::AsRawFd as _;
        assert_eq!(libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK), 0);
        while writer.write(&[b'x'; 4096]).is_ok() {}
        while writer.write(b"x").is_ok() {}
        assert_eq!(libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, 0), 0);
    }
    (reader, writer.into())
}

/// `b` runs after `a` and then waits.
fn two_stages() -> Project {
    let project = Project::new();
    project.stage("a", COPY);
    project.stage("b", &format!("touch @b.here\nwhile [ ! -e @go ]; do sleep 0.02; done\n{COPY}"));
    project.experiment("  a: {uses: a}\n  b: {uses: b, with: {one: '${stages.a.text}'}}\n", "text: '${stages.b.text}'");
    project
}

#[test]
fn a_run_whose_reader_has_stopped_goes_on_and_obeys_signals() {
    for arguments in [&["run", "e.yaml"][..], &["run", "e.yaml", "--json"]] {
        let project = two_stages();
        let (_reader, output) = full_pipe();
        let error = output.try_clone().unwrap();
        let mut engine = project.command(arguments).stdout(output).stderr(error).spawn().unwrap();
        project.wait_for("b.here");
        signal(&engine, libc::SIGTERM);
        assert_eq!(engine.wait().unwrap().code(), Some(143), "{arguments:?}");
    }
}

#[test]
fn a_run_that_ends_before_its_reader_reads_on_loses_nothing() {
    let project = two_stages();
    project.write("go", "");
    let (mut reader, output) = full_pipe();
    let mut engine =
        project.command(&["run", "e.yaml", "--json"]).stdout(output).stderr(Stdio::null()).spawn().unwrap();
    project.wait_for("out/e/text");
    let mut text = Vec::new();
    let reading = std::thread::spawn(move || reader.read_to_end(&mut text).map(|_| text));
    assert_eq!(engine.wait().unwrap().code(), Some(0));
    let text = String::from_utf8(reading.join().unwrap().unwrap()).unwrap();
    let lines: Vec<serde_json::Value> =
        text.trim_start_matches('x').lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.first().unwrap()["event"]["kind"], "opened");
    assert_eq!(lines.last().unwrap()["event"]["kind"], "closed");
    assert_eq!(lines.iter().filter(|line| line["event"]["kind"] == "finished").count(), 2);
}

#[test]
fn output_that_a_full_disk_swallows_is_reported_with_its_own_code() {
    let full = || -> Option<File> { OpenOptions::new().write(true).open("/dev/full").ok() };
    if full().is_none() {
        olmo_base::testing::skip("this system has no /dev/full");
        return;
    }
    let project = two_stages();
    project.write("go", "");
    let commands: &[&[&str]] = &[
        &["run", "e.yaml"],
        &["run", "e.yaml", "--json"],
        &["plan", "e.yaml"],
        &["validate", "e.yaml"],
        &["show", "e.yaml"],
        &["graph", "e.yaml"],
        &["runs", "list"],
        &["artifacts", "list"],
        &["artifacts", "verify"],
        &["recipes", "ls"],
        &["completion", "bash"],
        &["doctor"],
        &["--help"],
        &["run", "--help"],
        &["--version"],
    ];
    for arguments in commands {
        let output = project.command(arguments).stdout(full().unwrap()).output().unwrap();
        assert_eq!(output.status.code(), Some(74), "{arguments:?}\n{}", said(&output));
        assert!(said(&output).contains("error[cli::output]: cannot write to standard output"), "{}", said(&output));
    }
    assert!(project.path("out/e/text").exists(), "what the run did is done");
    // Errors keep their own exit codes even if they cannot be printed.
    let output = project.command(&["plan", "none.yaml"]).stderr(full().unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let output = project.command(&["run", "e.yaml"]).stderr(full().unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
}

#[test]
fn a_reader_that_goes_away_ends_nothing_and_is_no_error() {
    let project = two_stages();
    project.write("go", "");
    for arguments in [&["run", "e.yaml"][..], &["run", "e.yaml", "--json"], &["plan", "e.yaml"], &["--help"]] {
        let (reader, output) = std::io::pipe().unwrap();
        drop(reader);
        let error = OwnedFd::from(output.try_clone().unwrap());
        let status = project.command(arguments).stdout(OwnedFd::from(output)).stderr(error).status().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
    assert!(project.path("out/e/text").exists());
}

#[test]
fn what_a_stage_prints_beyond_the_limit_is_left_out_and_that_is_said() {
    let mut project = Project::new();
    project.variables.push(("OLMO_PIPE_LOG_MIB".into(), "1".into()));
    project.stage("a", &format!("echo begin\nseq 1000000\nprintf '%0100000d' 0\necho end\n{COPY}exit 1\n"));
    project.experiment("  a: {uses: a}\n", "");
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = said(&output);
    assert!(shown.contains("more characters)") && shown.len() < 20_000, "a long line is cut: {} bytes", shown.len());
    let log = olmo_pipe::run::logs(&olmo_pipe::run::folder(&project.store(), &project.last_run().id)).pop().unwrap();
    assert!(std::fs::metadata(&log).unwrap().len() <= 1 << 20);
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.starts_with("begin\n1\n2\n") && text.ends_with("end\n"), "{text:.100}");
    assert!(text.contains("bytes of this log are left out here]"));
    project.variables[0].1 = "lots".into();
    let output = project.run(&["run", "e.yaml"]);
    assert!(
        said(&output).contains("exec::variable") && said(&output).contains("OLMO_PIPE_LOG_MIB"),
        "{}",
        said(&output)
    );
}

#[test]
fn what_a_stage_puts_in_the_place_of_its_log_is_not_waited_for() {
    for make in ["mkfifo", "mkdir", "ln -s /dev/zero"] {
        let project = Project::new();
        let replace = format!("for name in stage.log perf.jsonl; do rm -f ../$name; {make} ../$name; done\n");
        project.stage("a", &format!("{replace}{COPY}"));
        project.stage("b", &format!("{replace}exit 3\n"));
        project.experiment("  a: {uses: a}\n  b: {uses: b}\n", "");
        let output = project.run(&["run", "e.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("exit code 3"), "{make}: {}", said(&output));
        assert_eq!(project.status("a"), olmo_pipe::run::Status::Finished);
        let id = project.last_run().id;
        assert_eq!(project.run(&["runs", "logs", id.as_str()]).status.code(), Some(0));
    }
}

#[test]
fn limits_on_file_sizes_and_threads_are_reported() {
    let project = two_stages();
    project.write("go", "");
    let program = env!("CARGO_BIN_EXE_olmo-pipe");
    // The shell counts in units of 512 bytes or of 1 KiB.
    for blocks in [0, 1, 2, 8] {
        let script = format!("ulimit -f {blocks}; exec '{program}' run e.yaml");
        let output = project.command_of("/bin/sh", &["-c", &script]).output().unwrap();
        let code = output.status.code();
        assert!(code.is_some_and(|code| code < 126), "{blocks}: {:?} {}", output.status, said(&output));
        assert!(code == Some(0) || said(&output).contains("File too large"), "{blocks}: {}", said(&output));
    }
}

#[test]
fn a_system_that_gives_no_threads_is_told_of_without_a_panic() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let project = two_stages();
    project.write("go", "");
    // The limit does not apply to root. In that case, the test runs as nobody.
    // SAFETY: the call takes no arguments and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if is_root {
        let everybody = std::fs::Permissions::from_mode(0o777);
        for folder in ["", "stages", "stages/a", "stages/b"] {
            std::fs::set_permissions(project.path(folder), everybody.clone()).unwrap();
        }
    }
    for limit in [1, 2, 3, 4, 5, 6, 8] {
        let mut command = project.command(&["run", "e.yaml"]);
        // SAFETY: between fork and exec, only system calls are made.
        unsafe {
            command.pre_exec(move || {
                let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                let done = libc::setrlimit(libc::RLIMIT_NPROC, &limit) == 0
                    && (!is_root || (libc::setgid(65534) == 0 && libc::setuid(65534) == 0));
                if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        let output = match command.output() {
            Ok(output) => output,
            Err(e) => {
                olmo_base::testing::skip(&e.to_string());
                return;
            }
        };
        let code = output.status.code();
        assert!([Some(0), Some(1), Some(3), Some(4)].contains(&code), "{limit}: {:?} {}", output.status, said(&output));
        assert!(!said(&output).contains("panicked"), "{limit}: {}", said(&output));
    }
}
