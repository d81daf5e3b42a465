//! The store under kills, races and full disks, with real processes that are killed by real
//! signals.

mod beside;
mod intruders;
mod outputs;
mod readers;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use olmo_base::{ActionKey, ArtifactId, Diagnose as _, Digest};
use olmo_pipe::key::{KeyInput, KeyRecord};
use olmo_pipe::store::{Action, Handover, Output, Store, StoreError};
use olmo_stage::PortType;

const CHILD: &str = "OLMO_PIPE_STORE_TEST_CHILD";
const FILES: [(&str, &str); 4] =
    [("config.json", "{}"), ("deep/a", "same"), ("deep/b", "same"), ("weights", "some weights")];

/// Every failpoint of a commit, in order, with how often a commit of [`FILES`] passes it. Two of
/// the files are equal and become one object.
const POINTS: [(&str, u32); 7] = [
    ("store.object_temp_written", 3),
    ("store.object_renamed", 3),
    ("store.manifest_temp_written", 1),
    ("store.manifest_renamed", 1),
    ("store.folder_taken", 1),
    ("store.action_temp_written", 1),
    ("store.action_renamed", 1),
];

/// Starts this test binary again, to run [`child_process`] with `task` on `folder`.
fn child(task: &str, folder: &Path) -> Command {
    let name = match module_path!().split_once("::") {
        Some((_, module)) => format!("{module}::child_process"),
        None => "child_process".into(),
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--ignored", "--nocapture"]);
    command.env(CHILD, format!("{task} {}", folder.display()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "the other tests run it as a process of its own"]
fn child_process() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (task, folder) = task.split_once(' ').expect("TASK FOLDER");
    let folder = Path::new(folder);
    match task {
        "commit" => drop(commit(folder, "out").unwrap()),
        "commit_limited" => {
            let error = limited(folder).unwrap_err();
            assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
            println!("no space, as expected: {error}");
        }
        "race" => {
            for n in 0..20 {
                let out = format!("out-{}-{n}", std::process::id());
                fill(&folder.join(&out));
                commit(folder, &out).unwrap();
            }
        }
        "hold_lock" => {
            let store = Store::open(&folder.join("store")).unwrap();
            let _lock = store.lock_key(ActionKey::new(Digest::of(b"key"))).unwrap().expect("nobody else holds it");
            fs::write(folder.join("locked"), "").unwrap();
            loop {
                std::thread::park();
            }
        }
        other => panic!("no task {other}"),
    }
}

fn fill(folder: &Path) {
    for (path, text) in FILES {
        let full = folder.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }
}

fn action(model: ArtifactId) -> Action {
    let input = KeyInput { label: None, digest: ArtifactId::new(Digest::of(b"data")) };
    let key = KeyRecord {
        format: 1,
        stage: "train".into(),
        version: 1,
        params: BTreeMap::new(),
        inputs: BTreeMap::from([("data".to_owned(), vec![input])]),
        backend: Some("flex".into()),
        precision: None,
        command: None,
    };
    Action::new(key, BTreeMap::from([("model".to_owned(), Output::Single(model))]))
}

/// Commits `folder/out` and its action to `folder/store`.
fn commit(folder: &Path, out: &str) -> Result<(ActionKey, ArtifactId), StoreError> {
    let store = Store::open(&folder.join("store"))?;
    let model = store.commit_tree(PortType::Model, &folder.join(out))?;
    let action = action(model);
    let key = action.key.digest();
    store.commit_action(key, &action)?;
    Ok((key, model))
}

#[test]
fn a_kill_at_any_point_of_a_commit_leaves_a_sound_store_and_the_commit_can_be_repeated() {
    let mut deaths = 0;
    for (point, times) in POINTS {
        for n in 1..=times {
            let dir = tempfile::tempdir().unwrap();
            fill(&dir.path().join("out"));
            let run = child("commit", dir.path()).env("OLMO_PIPE_FAILPOINT", format!("{point}:{n}")).output().unwrap();
            assert_eq!(
                run.status.signal(),
                Some(libc::SIGKILL),
                "{point}:{n}: {}",
                String::from_utf8_lossy(&run.stderr)
            );
            deaths += 1;

            let store = Store::open(&dir.path().join("store")).unwrap();
            assert_eq!(store.verify().unwrap(), [], "{point}:{n}");
            assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0, "{point}:{n}: swept");
            let seen = store.artifacts().unwrap().collect::<Result<Vec<_>, _>>().unwrap();
            assert!(seen.iter().all(|info| store.is_whole(info.digest)), "{point}:{n}");

            let (key, model) = commit(dir.path(), "out").unwrap();
            let whole = store.action(key).unwrap().expect("a hit after the commit");
            assert_eq!(whole.outputs["model"], Output::Single(model));
            store.materialize(model, &dir.path().join("back"), Handover::Copy).unwrap();
            for (path, text) in FILES {
                assert_eq!(fs::read_to_string(dir.path().join("back").join(path)).unwrap(), text);
            }
            assert_eq!(store.verify().unwrap(), []);
        }
    }
    assert_eq!(deaths, 11);
}

#[test]
fn the_table_of_failpoints_is_complete() {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/olmo-store/src")];
    let mut named = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| l.split('"'));
        named.extend(code.filter(|s| s.starts_with("store.")).map(str::to_owned));
    }
    named.sort();
    let mut known: Vec<String> = POINTS.iter().map(|(p, _)| (*p).to_owned()).collect();
    known.sort();
    assert_eq!(named, known);
}

#[test]
fn processes_that_commit_the_same_tree_at_once_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..3).map(|_| child("race", dir.path()).spawn().unwrap()).collect();
    for child in children {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(store.artifacts().unwrap().count(), 1);
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_killed_process_loses_its_lock() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let key = ActionKey::new(Digest::of(b"key"));
    let mut holder = child("hold_lock", dir.path()).spawn().unwrap();
    while !dir.path().join("locked").exists() {
        assert!(holder.try_wait().unwrap().is_none(), "the child ended before it had the lock");
        std::thread::yield_now();
    }
    assert!(store.lock_key(key).unwrap().is_none());
    assert_eq!(store.lock_holder(key), Some(holder.id()));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(store.lock_key(key).unwrap().is_some());
}

/// Commits under a limit on the size of files that this process may write.
fn limited(folder: &Path) -> Result<ArtifactId, StoreError> {
    let store = Store::open(&folder.join("store"))?;
    let limit = libc::rlimit { rlim_cur: 1 << 16, rlim_max: 1 << 16 };
    // SAFETY: both calls take plain values, and this process runs only this task.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let result = store.commit_tree(PortType::Model, &folder.join("out"));
    assert!(folder.join("out/weights").exists(), "a failed commit takes nothing");
    result
}

#[test]
fn a_write_that_fails_half_way_leaves_nothing_and_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("out"));
    fs::write(dir.path().join("out/weights"), vec![7u8; 1 << 20]).unwrap();
    // A second hard link forces a copy into the store, which then hits the limit.
    fs::hard_link(dir.path().join("out/weights"), dir.path().join("second name")).unwrap();
    let run = child("commit_limited", dir.path()).output().unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(store.artifacts().unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    commit(dir.path(), "out").unwrap();
    assert_eq!(store.verify().unwrap(), []);
}

/// A small file system that is unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: PathBuf) -> Option<Self> {
        fs::create_dir(&place).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(&place).output();
        mount.is_ok_and(|m| m.status.success()).then_some(Self(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_is_told_as_such_and_the_commit_works_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path().join("disk")) else {
        olmo_base::testing::skip("mounting a small tmpfs is not permitted here");
        return;
    };
    let store = Store::open(&disk.0.join("store")).unwrap();
    // The outputs are on another file system, so they are copied.
    let out = dir.path().join("out");
    fill(&out);
    fs::write(out.join("weights"), vec![7u8; 400 << 10]).unwrap();
    fs::write(disk.0.join("filler"), vec![1u8; 300 << 10]).unwrap();
    let error = store.commit_tree(PortType::Model, &out).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    assert!(error.hint().unwrap().contains("free some space"));
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(store.artifacts().unwrap().count(), 0);
    assert!(out.join("weights").exists(), "a failed commit takes nothing");

    fs::remove_file(disk.0.join("filler")).unwrap();
    let model = store.commit_tree(PortType::Model, &out).unwrap();
    assert!(store.is_whole(model));
    assert_eq!(store.verify().unwrap(), []);
    assert!(!out.join("weights").exists(), "taken across file systems");
    assert_eq!(store.commit_tree(PortType::Model, &out).unwrap(), model, "by the receipt");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "disk/ and out/: nothing is left beside them");

    // There is not enough space for a second copy, so the hand-over fails completely.
    let error = store.materialize(model, &disk.0.join("copy"), Handover::Copy).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    let names: Vec<_> = fs::read_dir(&disk.0).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["store"], "no half-made folder");
    drop(store);
}

/// Path of strace, if it is installed and allowed to trace.
fn strace() -> Option<Command> {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).output().is_ok_and(|o| o.status.success());
    works.then(|| Command::new("strace"))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// Commits the folder `out` of `dir` under strace. Returns the output of `commit-order`, and the
/// trace.
fn traced_commit(dir: &Path) -> (String, String) {
    let trace = dir.join("trace");
    let commit = child("commit", dir);
    let mut check = Command::new(script("commit-order"));
    check.arg("--keep").arg(&trace).arg(commit.get_program()).args(commit.get_args());
    check.envs(commit.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let checked = check.output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
    (said, fs::read_to_string(trace).unwrap())
}

#[test]
fn the_system_calls_of_a_commit_come_in_the_right_order() {
    if strace().is_none() || !script("commit-order").exists() {
        olmo_base::testing::skip("strace is not installed, or may not trace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("out"));
    let (said, text) = traced_commit(dir.path());
    // Three objects (two files are equal), a manifest and an action.
    assert!(said.contains("commit-order: 5 names"), "{said}");

    // The check itself works: it fails if any of the important syncs is missing.
    let lines: Vec<&str> = text.lines().collect();
    let matters = |line: &str| line.contains("fsync(") && (line.contains("-v1") || line.contains("/store/tmp/"));
    let of_the_store = |line: &str| matters(line) && !line.contains("/format") && !line.contains(".gitignore");
    let last_setup = lines.iter().rposition(|l| l.contains("/format\"")).unwrap_or(0);
    let mut left_out = 0;
    for at in (last_setup + 1..lines.len()).filter(|at| of_the_store(lines[*at])) {
        let mut fewer = lines.clone();
        fewer.remove(at);
        let place = dir.path().join("fewer");
        fs::write(&place, fewer.join("\n") + "\n").unwrap();
        let checked = Command::new(script("commit-order")).arg("--trace").arg(&place).output().unwrap();
        assert!(!checked.status.success(), "without `{}`", lines[at]);
        left_out += 1;
    }
    assert!(left_out >= 8, "{text}");
}

#[test]
fn many_files_are_synced_at_the_same_time_and_each_before_it_is_named() {
    if strace().is_none() || !script("commit-order").exists() {
        olmo_base::testing::skip("strace is not installed, or may not trace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    for n in 0..200 {
        fs::write(dir.path().join(format!("out/{n}")), format!("file {n}")).unwrap();
    }
    let (said, text) = traced_commit(dir.path());
    assert!(said.contains("commit-order: 202 names"), "{said}");
    let syncs = text.lines().filter(|line| line.contains("fsync(") && line.contains("/store/tmp/"));
    let threads: std::collections::BTreeSet<&str> = syncs.filter_map(|line| line.split(' ').next()).collect();
    assert!(threads.len() > 4, "{threads:?}");
}

#[test]
fn a_kill_at_any_system_call_of_a_commit_leaves_a_sound_store() {
    if strace().is_none() {
        olmo_base::testing::skip("strace is not installed, or may not trace");
        return;
    }
    let mut deaths = 0;
    for call in [
        "fsync",
        "rename,renameat,renameat2",
        "link,linkat",
        "mkdir,mkdirat",
        "fchmod,chmod",
        "unlink,unlinkat,rmdir",
        "flock",
    ] {
        for n in 1.. {
            assert!(n < 200, "{call} is called without end");
            let dir = tempfile::tempdir().unwrap();
            fill(&dir.path().join("out"));
            let commit_child = child("commit", dir.path());
            let mut traced = strace().unwrap();
            traced.args(["-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
            traced.arg("-e").arg(format!("inject={call}:signal=KILL:when={n}"));
            traced.arg(commit_child.get_program()).args(commit_child.get_args());
            traced.envs(commit_child.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let ended = traced.output().unwrap();
            let done = ended.status.success();
            if !done {
                // strace ends in the same way as its child.
                assert_eq!(
                    ended.status.signal(),
                    Some(libc::SIGKILL),
                    "{call} {n}: {}",
                    String::from_utf8_lossy(&ended.stderr)
                );
                deaths += 1;
            }
            let store = Store::open(&dir.path().join("store")).unwrap();
            assert_eq!(store.verify().unwrap(), [], "{call} {n}");
            let (key, model) = commit(dir.path(), "out").unwrap();
            assert_eq!(store.action(key).unwrap().expect("a hit").outputs["model"], Output::Single(model));
            assert_eq!(store.verify().unwrap(), [], "{call} {n}");
            if done {
                break;
            }
        }
    }
    assert!(deaths > 40, "{deaths}");
}

#[test]
fn a_file_system_without_working_locks_is_refused_at_open() {
    if strace().is_none() {
        olmo_base::testing::skip("strace is not installed, or may not trace");
        return;
    }
    // One file system does not support flock, and another one grants every lock.
    for fault in ["error=EOPNOTSUPP", "error=ENOLCK", "retval=0"] {
        let dir = tempfile::tempdir().unwrap();
        let mut traced = strace().unwrap();
        traced.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e"]).arg(format!("inject=flock:{fault}"));
        traced.arg(env!("CARGO_BIN_EXE_olmo-pipe")).args(["artifacts", "gc", "--store"]).arg(dir.path().join("store"));
        let ended = traced.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(4), "{fault}: {said}");
        let told = said.contains("store::no_locks") || (fault != "retval=0" && said.contains("lock"));
        assert!(told && said.contains("--store"), "{fault}: {said}");
    }
}
