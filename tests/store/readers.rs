//! Users who may read a store but not write to it, and users who share a store with a group.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::project::*;

/// A user ID that is neither root nor the user that runs the tests.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    // SAFETY: the call takes no arguments and cannot fail.
    unsafe { libc::getuid() == 0 }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(place) = open.pop() {
        if place.symlink_metadata().unwrap().is_dir() {
            open.extend(fs::read_dir(&place).unwrap().map(|e| e.unwrap().path()));
        }
        found.push(place);
    }
    found.sort();
    found
}

/// The program in a place where every user may execute it. The repository may be in a folder that
/// only root can enter.
fn program(project: &Project) -> String {
    let built = env!("CARGO_BIN_EXE_olmo-pipe");
    if !is_root() {
        return built.into();
    }
    let copy = project.path("olmo-pipe");
    if !copy.exists() {
        // A separate process writes it. A file that is open for writing cannot be executed, and a
        // child that another test has just forked would hold it open.
        assert!(Command::new("cp").arg(built).arg(&copy).status().unwrap().success());
    }
    copy.display().to_string()
}

/// A command in `project` as its owner, who is not root, since permissions do not apply to root.
pub(super) fn somebody(project: &Project, arguments: &[&str]) -> Command {
    let mut command = project.command_of(&program(project), arguments);
    if is_root() {
        for path in below(project.dir.path()) {
            let _ = chown(&path, Some(NOBODY), Some(NOBODY));
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A command in `project` as a user who may read everything in it, but write nothing.
fn reader(project: &Project, arguments: &[&str]) -> Command {
    let mut command = project.command_of(&program(project), arguments);
    fs::set_permissions(project.dir.path(), Permissions::from_mode(0o755)).unwrap();
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Removes or restores the owner's permission to write in `folder`.
fn set_writable(folder: &Path, writable: bool) {
    let paths = below(folder);
    for path in paths.iter().filter(|path| !path.is_symlink()) {
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        let mode = if writable { mode | 0o200 } else { mode & !0o222 };
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
}

/// All files below `folder` with data that reveals a change, except files that only save time,
/// which any user with write permission may write.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let saves_time =
        |path: &PathBuf| ["stat-v1", "tmp", "index-v1"].iter().any(|name| path.iter().any(|part| part == *name));
    let top = folder.components().count();
    let stamp = |path: PathBuf| {
        let m = path.symlink_metadata().unwrap();
        (path, (m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
    };
    let inside = |path: &PathBuf| path.components().skip(top).collect::<PathBuf>();
    below(folder).into_iter().filter(|path| !saves_time(&inside(path))).map(stamp).collect()
}

fn project() -> Project {
    let project = Project::new();
    program(&project);
    project.stage("a", COPY);
    project.stage("b", COPY);
    project.write("data.txt", "data\n");
    project.experiment(
        "  a: {uses: a, with: {say: word, file: data.txt}}\n  b: {uses: b, with: {from: ['${stages.a.text}']}}\n",
        "text: '${stages.b.text}'",
    );
    project
}

#[test]
fn commands_that_only_look_make_no_store() {
    let project = project();
    let commands: [&[&str]; 12] = [
        &["validate", "e.yaml"],
        &["plan", "e.yaml"],
        &["show", "e.yaml"],
        &["graph", "e.yaml"],
        &["runs", "list"],
        &["artifacts", "list"],
        &["artifacts", "tags"],
        &["artifacts", "du"],
        &["artifacts", "verify"],
        &["artifacts", "gc", "--dry-run"],
        &["artifacts", "list", "--store", "elsewhere"],
        &["doctor"],
    ];
    for arguments in commands {
        project.succeeds(arguments);
        assert!(!project.path(".olmo-pipe").exists() && !project.path("elsewhere").exists(), "{arguments:?}");
    }
    for arguments in [
        &["artifacts", "show", "latest:text"][..],
        &["runs", "show", "2026"],
        &["artifacts", "export", "abcd", "--to", "x"],
    ] {
        assert_eq!(project.run(arguments).status.code(), Some(2), "{arguments:?}");
        assert!(!project.path(".olmo-pipe").exists(), "{arguments:?}");
    }
}

#[test]
fn a_plan_names_the_changed_file_though_it_writes_nothing() {
    let project = project();
    project.succeeds(&["run", "e.yaml"]);
    project.write("data.txt", "other data\n");
    let before = snapshot(&project.path(".olmo-pipe"));
    let said = project.succeeds(&["plan", "e.yaml"]);
    assert!(said.contains("data.txt"), "{said}");
    assert_eq!(snapshot(&project.path(".olmo-pipe")), before);
}

#[test]
fn a_store_that_may_only_be_read_is_read() {
    let project = project();
    project.succeeds(&["run", "e.yaml"]);
    project.succeeds(&["artifacts", "list"]);
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o777)).unwrap();
    let to = elsewhere.path().join("export").display().to_string();
    set_writable(project.dir.path(), false);
    let before = snapshot(project.dir.path());
    let commands: [&[&str]; 15] = [
        &["validate", "e.yaml"],
        &["plan", "e.yaml"],
        &["show", "e.yaml"],
        &["graph", "e.yaml"],
        &["runs", "list"],
        &["runs", "show", "2"],
        &["runs", "logs", "2"],
        &["artifacts", "list"],
        &["artifacts", "tags"],
        &["artifacts", "show", "latest:text"],
        &["artifacts", "verify"],
        &["artifacts", "lineage", "latest:text"],
        &["artifacts", "provenance", "latest:text"],
        &["artifacts", "du"],
        &["artifacts", "export", "latest:text", "--to", &to],
    ];
    let ended: Vec<_> = commands.iter().map(|arguments| reader(&project, arguments).output().unwrap()).collect();
    let plan = reader(&project, &["plan", "e.yaml", "--exit-code"]).output().unwrap();
    let refused = reader(&project, &["run", "e.yaml", "--set", "params.say=other"]).output().unwrap();
    let tag = reader(&project, &["artifacts", "tag", "mine", "latest:text"]).output().unwrap();
    set_writable(project.dir.path(), true);
    for (arguments, output) in commands.iter().zip(ended) {
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
    assert!(plan.status.success(), "everything is a hit: {}", said(&plan));
    for output in [refused, tag] {
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains("--store") && said(&output).contains("Sharing a store"), "{}", said(&output));
    }
    assert_eq!(snapshot(project.dir.path()), before);
    assert_eq!(fs::read_to_string(elsewhere.path().join("export/text")).unwrap(), project.read("out/e/text/text"));
}

#[test]
fn a_list_needs_no_second_thread() {
    if !is_root() {
        olmo_base::testing::skip("the limit counts all processes of this user");
        return;
    }
    let project = project();
    project.succeeds(&["run", "e.yaml"]);
    let expected = project.succeeds(&["artifacts", "list"]);
    let mut command = reader(&project, &["artifacts", "list"]);
    // SAFETY: setrlimit takes plain values and may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
            match libc::setrlimit(libc::RLIMIT_NPROC, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), expected);
}

/// A shell that sets a umask and then executes the command.
fn with_umask(project: &Project, umask: &str, arguments: &[&str]) -> Command {
    let mut command = project.command_of("/bin/sh", &["-c", "umask $0; exec \"$@\"", umask, &program(project)]);
    command.args(arguments);
    command
}

#[test]
fn what_a_member_makes_in_a_shared_store_the_group_may_write_whatever_the_umask() {
    let project = project();
    let output = with_umask(&project, "077", &["run", "e.yaml", "--shared"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let output = with_umask(&project, "077", &["artifacts", "tag", "mine", "latest:text"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let group = fs::metadata(project.path(".olmo-pipe")).unwrap().gid();
    for path in below(&project.path(".olmo-pipe")) {
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode();
        assert_eq!(metadata.gid(), group, "{}", path.display());
        if metadata.is_dir() {
            assert_eq!(mode & 0o2070, 0o2070, "{}: {mode:o}", path.display());
        } else {
            assert!(mode & 0o040 != 0, "{}: {mode:o}", path.display());
        }
    }
    let said = project.succeeds(&["run", "e.yaml", "--shared"]);
    assert!(said.contains("cached"), "again is no change: {said}");
    // An existing store is not shared with the group.
    project.write("folder/x", "x");
    project.succeeds(&["artifacts", "import", "folder", "--type", "dir", "--store", "own"]);
    let output = project.run(&["run", "e.yaml", "--store", "own", "--shared"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(
        self::said(&output).contains("store::not_shared") && self::said(&output).contains("chmod"),
        "{}",
        self::said(&output)
    );
}

#[test]
fn members_of_a_group_use_continue_and_collect_what_others_made() {
    if !is_root() {
        olmo_base::testing::skip("only root can be two users");
        return;
    }
    let group = 54321;
    let project = project();
    fs::set_permissions(project.dir.path(), Permissions::from_mode(0o2775)).unwrap();
    for path in below(project.dir.path()) {
        chown(&path, Some(NOBODY - 1), Some(group)).unwrap();
    }
    let member = |user: u32, arguments: &[&str]| {
        let output = with_umask(&project, "022", arguments).uid(user).gid(group).output().unwrap();
        assert!(output.status.success(), "{user} {arguments:?}: {}", said(&output));
        said(&output)
    };
    member(NOBODY - 1, &["run", "e.yaml", "--shared"]);
    // Results are written next to the store, in a folder of the first member.
    assert!(Command::new("chmod").args(["-R", "g+w"]).arg(project.path("out")).status().unwrap().success());
    assert!(member(NOBODY, &["run", "e.yaml"]).contains("cached"));
    member(NOBODY, &["run", "e.yaml", "--no-cache-read"]);
    member(NOBODY, &["artifacts", "tag", "mine", "latest:text"]);
    member(NOBODY - 1, &["artifacts", "untag", "mine"]);
    member(NOBODY, &["artifacts", "verify", "--repair"]);
    member(NOBODY, &["artifacts", "gc", "--max-size", "0", "--keep-results", "0", "--grace", "0"]);
    assert_eq!(project.store().objects().unwrap(), []);
    member(NOBODY - 1, &["run", "e.yaml"]);
}
