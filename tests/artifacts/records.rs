//! Artifacts and run records: records with variables, and records that are damaged, incomplete or
//! dated in the future. Also exports during collections.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use olmo_pipe::artifacts::Reference;
use olmo_pipe::run;

use crate::run::project::*;

/// A project whose data is in the folder that the environment variable DATA names.
fn with_variable() -> Project {
    let mut project = Project::new();
    project.stage("a", "cat \"$5\"/* > \"$2/text\"\n");
    project.write("data/in.txt", "data\n");
    project.experiment("  a: {uses: a, with: {file: '${env.DATA}/in.txt'}}\n", "text: '${stages.a.text}'");
    project.variables.push(("DATA".into(), project.path("data").display().to_string()));
    project
}

/// Runs the command without the variable, as cron would.
fn without_variable(project: &mut Project) {
    project.variables.clear();
}

const HARDEST: [&str; 6] = ["artifacts", "gc", "--max-size", "1B", "--grace", "0"];

fn run_folder(project: &Project) -> PathBuf {
    run::folder(&project.store(), &project.last_run().id)
}

#[test]
fn a_result_is_found_and_kept_without_the_variable_that_its_run_had() {
    let mut project = with_variable();
    project.succeeds(&["run", "e.yaml"]);
    let expected = project.read("out/e/text/text");
    without_variable(&mut project);
    for arguments in [&["artifacts", "show", "latest:text"][..], &["artifacts", "lineage", "e:text"]] {
        project.succeeds(arguments);
    }
    let said = project.succeeds(&HARDEST);
    assert!(said.contains("newest results"), "{said}");
    project.succeeds(&["artifacts", "export", "latest:text", "--to", "back"]);
    assert_eq!(project.read("back/text"), expected);
}

#[test]
fn what_a_damaged_or_missing_record_might_name_is_kept_and_said() {
    for damage in ["garbage", "missing"] {
        let project = with_variable();
        project.succeeds(&["run", "e.yaml"]);
        let record = run_folder(&project).join("resolved.json");
        match damage {
            "garbage" => fs::write(&record, "{").unwrap(),
            _ => fs::remove_file(&record).unwrap(),
        }
        let artifact = Reference::resolve(&project.store(), "e:a.text").unwrap();
        let said = project.succeeds(&HARDEST);
        assert!(said.contains("is kept until") && said.contains("runs rm"), "{damage}: {said}");
        assert!(project.store().is_whole(artifact), "{damage}");
        // Without the record, there is no reason left to keep it.
        let id = project.last_run().id.to_string();
        project.succeeds(&["runs", "rm", &id]);
        project.succeeds(&HARDEST);
        assert!(!project.store().is_whole(artifact), "{damage}");
    }
}

#[test]
fn events_that_cannot_be_read_keep_everything() {
    let project = with_variable();
    project.succeeds(&["run", "e.yaml"]);
    let artifact = Reference::resolve(&project.store(), "e:a.text").unwrap();
    let events = run_folder(&project).join("events.jsonl");
    fs::remove_file(&events).unwrap();
    fs::create_dir(&events).unwrap();
    let said = project.succeeds(&[&HARDEST[..], &["--keep-results", "0"]].concat());
    assert!(said.contains("everything is kept"), "{said}");
    assert!(project.store().is_whole(artifact));
}

#[test]
fn the_sources_of_a_run_that_could_go_on_are_kept_though_its_record_is_damaged() {
    let project = with_variable();
    let script = fs::read_to_string(project.path("stages/a/run.sh")).unwrap();
    project.write("stages/a/run.sh", "exit 1\n");
    assert_eq!(project.run(&["run", "e.yaml"]).status.code(), Some(1));
    let sources = project.store().artifacts().unwrap().count();
    assert!(sources > 0);
    let record = run_folder(&project).join("resolved.json");
    fs::write(&record, "{").unwrap();
    let said = project.succeeds(&HARDEST);
    assert!(said.contains("every artifact that no stage made is kept"), "{said}");
    assert_eq!(project.store().artifacts().unwrap().count(), sources);
    project.write("stages/a/run.sh", &script);
    project.succeeds(&["run", "e.yaml"]);
}

#[test]
fn the_newest_run_is_one_that_is_recorded() {
    let project = with_variable();
    project.succeeds(&["run", "e.yaml"]);
    let last = project.last_run().id.to_string();
    // The state of a new record for a moment: a folder with only a lock.
    let next = format!("{}{:04x}", &last[..16], u32::from_str_radix(&last[16..], 16).unwrap() + 1);
    fs::create_dir(project.path(".olmo-pipe/runs-v1").join(&next)).unwrap();
    fs::write(project.path(".olmo-pipe/runs-v1").join(&next).join("lock"), "1").unwrap();
    for name in ["latest:text", "e:text"] {
        let said = project.succeeds(&["artifacts", "show", name]);
        assert!(said.contains("artifact"), "{said}");
    }
    project.succeeds(&HARDEST);
    project.succeeds(&["artifacts", "show", "latest:text"]);
}

#[test]
fn a_run_made_while_the_clock_was_wrong_is_not_the_newest() {
    let project = Project::new();
    project.stage("a", COPY);
    project.experiment("  a: {uses: a, with: {say: '${params.say}'}}\n", "text: '${stages.a.text}'");
    project.succeeds(&["run", "e.yaml", "--set", "params.say=future"]);
    let runs = project.path(".olmo-pipe/runs-v1");
    fs::rename(run_folder(&project), runs.join("22000101-000000-0000")).unwrap();
    let said = project.succeeds(&["artifacts", "show", "latest:text"]);
    assert!(said.contains("artifact"), "it is the newest as long as it is the only one: {said}");
    project.succeeds(&["run", "e.yaml", "--set", "params.say=now"]);
    let now = project.read("out/e/text/text");
    for name in ["latest:text", "e:text"] {
        let to = name.replace(':', "-");
        let said = project.succeeds(&["artifacts", "export", name, "--to", &to]);
        assert!(said.contains("22000101-000000-0000 is dated in the future"), "{said}");
        assert_eq!(project.read(&format!("{to}/text")), now);
    }
    let said = project.succeeds(&HARDEST);
    assert!(said.contains("dated in the future"), "{said}");
    let store = project.store();
    let of = |name: &str| Reference::resolve(&store, name).unwrap();
    assert!(store.is_whole(of("latest:text")));
    assert!(!store.is_whole(of("22000101-000000-0000:a.text")), "gc keeps the newest result only");
}

#[test]
fn a_collection_leaves_what_a_run_that_begins_has_looked_at() {
    let project = Project::new();
    project.write("data", "text");
    let store = project.store();
    let beginning = store.begin_run().unwrap();
    let artifact = store.commit_reference(olmo_stage::PortType::File, &project.path("data")).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    project.succeeds(&HARDEST);
    assert!(store.manifest(artifact).is_ok());
    drop(beginning);
    project.succeeds(&HARDEST);
    assert!(store.manifest(artifact).is_err(), "nothing refers to it any more");
}

#[test]
fn a_collection_waits_for_an_export() {
    let project = Project::new();
    for n in 0..16u8 {
        fs::create_dir_all(project.path("big")).unwrap();
        fs::write(project.path(&format!("big/{n}")), vec![n; 8 << 20]).unwrap();
    }
    project.succeeds(&["artifacts", "import", "big", "--type", "dir", "--no-pin"]);
    let artifact = project.store().artifacts().unwrap().next().unwrap().unwrap().digest.hex();
    let mut export = project.command(&["artifacts", "export", &artifact, "--to", "back", "--how", "copy"]);
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = |path: PathBuf| path.is_dir();
    let since = Instant::now();
    let unfinished = project.path(&format!(".back.unfinished-{}-0", export.id()));
    while !begun(unfinished.clone()) && export.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
    project.succeeds(&HARDEST);
    let output = export.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for n in 0..16u8 {
        assert_eq!(fs::read(project.path(&format!("back/{n}"))).unwrap(), vec![n; 8 << 20]);
    }
    assert_eq!(project.store().objects().unwrap(), [], "it went after that");
    let mut missing = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    missing.args(["artifacts", "export", &artifact, "--to", "again"]).current_dir(project.dir.path());
    let output = missing.env_remove("OLMO_PIPE_STORE").output().unwrap();
    assert!(!output.status.success() && said(&output).contains("= help:"), "{}", said(&output));
}
