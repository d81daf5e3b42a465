//! Links, FIFOs and folders in place of every file that a store opens: no command hangs or follows
//! them, and a repair makes the store valid again.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use olmo_base::Digest;
use olmo_pipe::artifacts::Reference;

use crate::run::project::*;

const KINDS: [&str; 4] = ["fifo", "link", "dangling link", "full folder"];

/// Runs a command, which must end within a generous timeout. Returns its output and its exit
/// status.
fn ends(project: &Project, arguments: &[&str], what: &str) -> Output {
    let mut command: Command = project.command(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if since.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{arguments:?} hangs with {what}: {}", said(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Replaces `path` by a file of kind `kind`.
fn intrude(project: &Project, path: &Path, kind: &str) {
    remove(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match kind {
        "fifo" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "link" => std::os::unix::fs::symlink(project.path("foreign"), path).unwrap(),
        "dangling link" => std::os::unix::fs::symlink(project.path("nowhere"), path).unwrap(),
        _ => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "somebody's").unwrap();
        }
    }
}

fn sharded(project: &Project, folder: &str, name: impl Display) -> PathBuf {
    let hex = name.to_string();
    project.path(&format!(".olmo-pipe/{folder}/{}/{}", &hex[..2], &hex[2..]))
}

/// A project after a run, with a tag, a pin and an index.
fn ran() -> Project {
    let project = Project::new();
    project.stage("a", COPY);
    project.write("data.txt", "data\n");
    project.write("foreign", "not olmo-pipe's");
    project.experiment("  a: {uses: a, with: {say: word, file: data.txt}}\n", "text: '${stages.a.text}'");
    project.succeeds(&["run", "e.yaml"]);
    project.succeeds(&["artifacts", "tag", "mine", "latest:text"]);
    project.succeeds(&["artifacts", "pin", "mine"]);
    project.succeeds(&["artifacts", "list"]);
    project
}

/// All files of a store that commands open, with names for messages.
fn places(project: &Project) -> Vec<(&'static str, PathBuf)> {
    let store = project.store();
    let artifact = Reference::resolve(&store, "latest:text").unwrap();
    let manifest = store.manifest(artifact).unwrap();
    let key = store.action_keys().unwrap()[0];
    let source = fs::canonicalize(project.path("data.txt")).unwrap();
    let inside = |name: &str| project.path(".olmo-pipe").join(name);
    vec![
        ("open.lock", inside("open.lock")),
        ("collect.lock", inside("collect.lock")),
        ("the lock of the index", inside("index-v1/lock")),
        ("sled's conf", inside("index-v1/db/conf")),
        ("sled's db", inside("index-v1/db/db")),
        ("sled's folder", inside("index-v1/db")),
        ("a lock in tmp", inside("tmp/1-x-0.lock")),
        ("the lock of a key", inside("locks-v1").join(key.hex())),
        ("the lock of a download", inside("downloads-v1/x.lock")),
        ("a pin", inside("pins-v1").join(artifact.hex())),
        ("a tag", inside("tags-v1/mine")),
        ("a manifest", sharded(project, "artifacts-v1", artifact)),
        ("an action", sharded(project, "actions-v1", key)),
        ("an object", sharded(project, "objects-v1", manifest.files["text"].digest)),
        ("a shard of actions", sharded(project, "actions-v1", key).parent().unwrap().to_owned()),
        ("a remembered digest", sharded(project, "stat-v1", Digest::of(source.as_os_str().as_encoded_bytes()))),
    ]
}

#[test]
fn whatever_stands_in_the_place_of_a_file_is_reported_never_followed_and_repaired() {
    let project = ran();
    let expected = project.read("out/e/text/text");
    for index in 0..places(&project).len() {
        for kind in KINDS {
            let (name, path) = places(&project).swap_remove(index);
            let is_folder = name == "sled's folder" || name == "a shard of actions";
            if is_folder && kind == "full folder" {
                continue;
            }
            let what = format!("a {kind} in the place of {name}");
            intrude(&project, &path, kind);
            let output = ends(&project, &["artifacts", "verify"], &what);
            assert_eq!(output.status.code(), Some(6), "{what}: {}", said(&output));
            let shown = path.display().to_string();
            assert!(said(&output).contains(&shown) && said(&output).contains("--repair"), "{what}: {}", said(&output));
            let readers: [&[&str]; 5] = [
                &["runs", "list"],
                &["artifacts", "list"],
                &["artifacts", "tags"],
                &["artifacts", "du"],
                &["plan", "e.yaml"],
            ];
            for arguments in readers {
                let output = ends(&project, arguments, &what);
                let explained =
                    output.status.success() || (output.status.code() == Some(4) && said(&output).contains("= help:"));
                assert!(explained, "{what}, {arguments:?}: {}", said(&output));
            }
            let output = ends(&project, &["run", "e.yaml"], &what);
            let explained = output.status.success() || said(&output).contains("help:");
            assert!(explained, "{what}: {}", said(&output));
            // Put it there again, in case the run has moved it away.
            intrude(&project, &path, kind);
            let output = ends(&project, &["artifacts", "verify", "--repair"], &what);
            assert!(
                output.status.success() && said(&output).contains("the store is sound"),
                "{what}: {}",
                said(&output)
            );
            let output = ends(&project, &["artifacts", "verify"], &what);
            assert!(output.status.success(), "{what}: {}", said(&output));
            let output = ends(&project, &["run", "e.yaml"], &what);
            assert!(output.status.success(), "{what}: {}", said(&output));
            assert_eq!(project.read("out/e/text/text"), expected, "{what}");
            assert_eq!(project.read("foreign"), "not olmo-pipe's", "{what}");
            assert!(!project.path("nowhere").exists(), "{what}");
            // Recreate the files that the repair removed for good.
            project.succeeds(&["artifacts", "tag", "mine", "latest:text", "--move"]);
            project.succeeds(&["artifacts", "pin", "mine"]);
            project.succeeds(&["artifacts", "list"]);
        }
    }
}

#[test]
fn a_format_that_is_no_file_is_refused_with_a_way_out() {
    let project = ran();
    for kind in KINDS {
        intrude(&project, &project.path(".olmo-pipe/format"), kind);
        for arguments in [&["runs", "list"][..], &["artifacts", "list"], &["run", "e.yaml"]] {
            let output = ends(&project, arguments, kind);
            assert_eq!(output.status.code(), Some(4), "{kind}: {}", said(&output));
            let explained = said(&output).contains("store::damaged_format") && said(&output).contains("--store");
            assert!(explained, "{kind}: {}", said(&output));
        }
    }
}
