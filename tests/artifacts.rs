//! The `artifacts` commands, tested through the real program on runs of real stages.

mod records;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use olmo_pipe::artifacts::{Collection, Policy, Reference, ReferenceError, Root};
use olmo_pipe::run;
use olmo_pipe::store::Store;
use serde_json::Value;

/// Makes a text, three checkpoints from it, a score for each, and a copy of the last checkpoint.
const STAGES: [(&str, &str, &str); 4] = [
    ("text", "outputs: {text: {type: text}}", r#"mkdir -p "$2"; echo "$1" > "$2/text""#),
    (
        "fit",
        "inputs: {text: {type: text}}\noutputs: {checkpoints: {type: checkpoint, list: true}}",
        r#"for n in 1 2 3; do mkdir -p "$2/step$n/model"; cat "$3"/* > "$2/step$n/model/weights"; echo $n >> "$2/step$n/model/weights"; echo "state $n" > "$2/step$n/trainer.json"; done"#,
    ),
    (
        "score",
        "inputs: {model: {type: model}}\noutputs: {metrics: {type: metrics}}",
        r#"mkdir -p "$2"; tail -n 1 "$3/weights" > "$2/metrics.json""#,
    ),
    (
        "pick",
        "inputs: {from: {type: checkpoint, list: true}}\noutputs: {best: {type: checkpoint}}",
        r#"if [ -e "@fail" ]; then exit 1; fi; cp -r "$3"/step3/. "$2/""#,
    ),
];

struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self { dir: tempfile::tempdir().unwrap() };
        project.write("olmo-pipe.yaml", "");
        for (name, ports, script) in STAGES {
            let output = ports.split("outputs: {").nth(1).and_then(|p| p.split(':').next()).unwrap();
            let input = ports.strip_prefix("inputs: {").and_then(|p| p.split(':').next());
            let input = input.map_or("''".to_owned(), |port| format!("'${{inputs.{port}}}'"));
            let contract = format!(
                "stage: {name}\nversion: 1\nsummary: For a test.\n{ports}\nparams: {{say: {{type: string, default: ''}}}}\n\
                 resources: {{cpus: 1, memory_mib: 16}}\n\
                 command:\n  argv: [/bin/sh, '${{stage.dir}}/run.sh', '${{params.say}}', '${{outputs.{output}}}', {input}]\n  files: [run.sh]\n"
            );
            project.write(&format!("stages/{name}/stage.yaml"), &contract);
            let script = script.replace('@', &format!("{}/", project.dir.path().display()));
            project.write(&format!("stages/{name}/run.sh"), &format!("set -eu\n{script}\n"));
        }
        project.write(
            "pipeline.yaml",
            "pipeline: p\nparams: {say: {type: string, default: hello}}\nstages:\n\
             \x20 text: {uses: text, with: {say: '${params.say}'}}\n\
             \x20 train: {uses: fit, with: {text: '${stages.text.text}'}}\n\
             \x20 score: {uses: score, for_each: '${stages.train.checkpoints}', with: {model: '${item}'}}\n\
             \x20 pick: {uses: pick, with: {from: '${stages.train.checkpoints}'}}\n\
             outputs: {best: '${stages.pick.best}', scores: '${stages.score.metrics}'}\n",
        );
        project.write("e.yaml", "experiment: e\nuses: pipeline.yaml\n");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env_remove("OLMO_PIPE_FAILPOINT").env_remove("OLMO_PIPE_STORE");
        command.output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{}", said(&output));
        said(&output)
    }

    /// Runs the command, which must exit with `code`. Returns its output.
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{}", said(&output));
        said(&output)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}\n{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}\n{}", said(&output)))
    }

    fn store(&self) -> Store {
        Store::open(&self.path(".olmo-pipe")).unwrap()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn ran() -> Project {
    let project = Project::new();
    project.succeeds(&["run", "e.yaml"]);
    project
}

#[test]
fn every_form_of_a_reference_finds_its_artifact() {
    let project = ran();
    let store = project.store();
    let run = run::list(&store).unwrap().pop().unwrap().id;
    let resolve = |text: &str| Reference::resolve(&store, text);
    let step3 = resolve("latest:train.checkpoints[step3]").unwrap();
    let id = run.as_str();
    for text in [
        format!("{id}:train.checkpoints[step3]"),
        format!("{}:train.checkpoints[last]", &id[..10]),
        "e:pick.best".into(),
        "e:best".into(),
        step3.hex(),
        format!("@{}", &step3.hex()[..20]),
    ] {
        assert_eq!(resolve(&text).unwrap(), step3, "{text}");
    }
    assert_ne!(resolve("e:train.checkpoints[first]").unwrap(), step3);
    let score = resolve("e:score[step2].metrics").unwrap();
    assert!(store.is_whole(score));
    store.tag("good-one", step3, false).unwrap();
    assert_eq!(resolve("good-one").unwrap(), step3);

    let error = |text: &str| resolve(text).unwrap_err();
    assert!(matches!(error("e:train.checkpoints"), ReferenceError::WhichLabel { labels, .. } if labels.len() == 3));
    assert!(matches!(error("e:train.checkpoints[step9]"), ReferenceError::UnknownLabel { .. }));
    assert!(matches!(error("e:train.checkpoint"), ReferenceError::UnknownPort { .. }));
    assert!(matches!(error("e:trian.checkpoints"), ReferenceError::UnknownStage { .. }));
    assert!(matches!(error("e:train"), ReferenceError::Form { .. }));
    assert!(matches!(error("e:score.metrics"), ReferenceError::WhichItem { items, .. } if items.len() == 3));
    assert!(matches!(error("e:score[x].metrics"), ReferenceError::UnknownItem { .. }));
    assert!(matches!(error("e:pick.best[x]"), ReferenceError::NoList { .. }));
    assert!(matches!(error("f:best"), ReferenceError::UnknownRun { .. }));
    assert!(matches!(error("god-one"), ReferenceError::Unknown { .. }));
    assert!(matches!(error(""), ReferenceError::Form { .. }));
    let said = project.ends(2, &["artifacts", "show", "god-one"]);
    assert!(said.contains("good-one"), "{said}");
    let said = project.ends(2, &["artifacts", "show", "e:trian.checkpoints"]);
    assert!(said.contains("did you mean") && said.contains("train"), "{said}");
}

#[test]
fn tags_and_pins_are_given_listed_moved_and_taken_away() {
    let project = ran();
    project.succeeds(&["artifacts", "tag", "best", "latest:best"]);
    let said = project.ends(2, &["artifacts", "tag", "best", "e:train.checkpoints[first]"]);
    assert!(said.contains("store::tag_in_use") && said.contains("--move"), "{said}");
    project.succeeds(&["artifacts", "tag", "best", "e:train.checkpoints[first]", "--move"]);
    project.succeeds(&["artifacts", "pin", "best"]);
    let tags = project.json(&["artifacts", "tags", "--json"]);
    assert_eq!(tags["tags"][0]["name"], "best");
    assert_eq!(tags["pins"][0], tags["tags"][0]["artifact"]);
    assert!(project.succeeds(&["artifacts", "list"]).contains("[best]"));
    let shown = project.json(&["artifacts", "show", "best", "--json"]);
    assert_eq!((&shown["tags"][0], &shown["pinned"]), (&Value::from("best"), &Value::from(true)));
    project.succeeds(&["artifacts", "unpin", "best"]);
    project.succeeds(&["artifacts", "untag", "best"]);
    let said = project.ends(2, &["artifacts", "untag", "best"]);
    assert!(said.contains("no tag `best`") && said.contains("= help:"), "{said}");
}

#[test]
fn lineage_goes_back_to_the_sources_through_parts_of_checkpoints_and_forward_again() {
    let project = ran();
    let up = project.succeeds(&["artifacts", "lineage", "e:score[step2].metrics"]);
    let stages: Vec<&str> =
        ["of score", "model/ of", "of fit", "of text"].into_iter().filter(|w| up.contains(w)).collect();
    assert_eq!(stages.len(), 4, "{up}");
    let down = project.json(&["artifacts", "lineage", "e:text.text", "--down", "--json"]);
    // The text, three checkpoints, three `model/` parts, and three metrics. The best checkpoint is
    // the last one.
    assert_eq!(down["nodes"].as_object().unwrap().len(), 1 + 3 + 3 + 3, "{down:#}");
    let near = project.json(&["artifacts", "lineage", "e:best", "--depth", "1", "--json"]);
    assert!(near["nodes"].as_object().unwrap().len() < 6, "{near:#}");
}

#[test]
fn a_difference_names_the_files_and_the_fields_of_the_key() {
    let project = ran();
    project.succeeds(&["run", "e.yaml", "--set", "params.say=other"]);
    let runs: Vec<String> = run::list(&project.store()).unwrap().iter().map(|r| r.id.to_string()).collect();
    let (old, new) = (format!("{}:text.text", runs[0]), format!("{}:text.text", runs[1]));
    let said = project.succeeds(&["artifacts", "diff", &old, &new]);
    assert!(said.contains("changed  text") && said.contains("params.say: \"hello\" -> \"other\""), "{said}");
    let (one, two) = ("e:train.checkpoints[step1]", "e:train.checkpoints[step2]");
    let json = project.json(&["artifacts", "diff", one, two, "--json"]);
    assert_eq!(json["files"].as_array().unwrap().len(), 2);
    assert_eq!(json["key"], serde_json::json!([]), "one stage made both");
}

#[test]
fn du_counts_shared_bytes_once() {
    let project = ran();
    let usage = &project.json(&["artifacts", "du", "--json"])["usage"];
    let on_disk: u64 = project.store().objects().unwrap().iter().map(|(_, size)| size).sum();
    assert_eq!(usage["objects"][1], on_disk);
    assert!(usage["unshared"].as_u64().unwrap() > on_disk, "the best checkpoint shares the bytes of the last one");
    let groups = usage["groups"].as_array().unwrap();
    let group = |name: &str| groups.iter().find(|g| g["name"] == name).unwrap();
    assert_eq!(group("pick")["own"], 0);
    assert!(project.succeeds(&["artifacts", "du", "--by-type"]).contains("checkpoint"));
}

/// Plans a collection of everything that no root keeps.
fn plan(project: &Project, policy: Policy) -> Collection {
    Collection::plan(&project.store(), &policy).unwrap()
}

fn everything() -> Policy {
    Policy {
        max_bytes: Some(0),
        keep_checkpoints: 0,
        keep_results: 0,
        grace: std::time::Duration::ZERO,
        ..Policy::default()
    }
}

#[test]
fn each_root_keeps_what_it_names_and_nothing_else_survives_a_budget_of_nothing() {
    let project = ran();
    let all = project.store().artifacts().unwrap().count();
    let lost = |policy: Policy| plan(&project, policy).artifacts;
    assert_eq!(lost(everything()), all);
    let checkpoints = Policy { keep_checkpoints: 2, ..everything() };
    let kept = plan(&project, checkpoints).kept;
    assert_eq!(kept[&Root::Checkpoint].artifacts, 2);
    let results = plan(&project, Policy { keep_results: 1, ..everything() }).kept;
    // The best checkpoint and three scores.
    assert_eq!(results[&Root::Result].artifacts, 4);
    let store = project.store();
    let text = Reference::resolve(&store, "e:text.text").unwrap();
    let score = Reference::resolve(&store, "e:score[step1].metrics").unwrap();
    store.tag("keep-me", text, false).unwrap();
    store.pin(score).unwrap();
    let kept = plan(&project, everything()).kept;
    assert_eq!((kept[&Root::Tagged].artifacts, kept[&Root::Pinned].artifacts), (1, 1));
    let lately = Policy { grace: std::time::Duration::from_secs(3600), ..everything() };
    let kept = plan(&project, lately).kept;
    assert_eq!(kept.values().map(|share| share.artifacts).sum::<usize>(), all);

    let before = project.succeeds(&["artifacts", "list"]);
    let gc = ["artifacts", "gc", "--max-size", "0", "--keep-checkpoints", "0", "--keep-results", "0", "--grace", "0"];
    let said = project.succeeds(&[&gc[..], &["--dry-run"]].concat());
    assert!(said.contains("tags") && said.contains("would remove"), "{said}");
    assert_eq!(project.succeeds(&["artifacts", "list"]), before, "a dry run changes nothing");
    let promised = project.json(&[&gc[..], &["--dry-run", "--json"]].concat());
    let done = project.json(&[&gc[..], &["--json"]].concat());
    assert_eq!(done["removed"]["bytes"], promised["goes"]["bytes"]);
    assert_eq!(done["removed"]["objects"], promised["goes"]["objects"]);
    let left: Vec<_> = store.artifacts().unwrap().map(|a| a.unwrap().digest).collect();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|a| store.is_whole(*a)) && left.contains(&text) && left.contains(&score));
    assert_eq!(store.verify().unwrap(), []);
    // Removed artifacts are made again.
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(store.artifacts().unwrap().count(), all);
}

#[test]
fn a_budget_takes_the_longest_unused_first() {
    let project = ran();
    std::thread::sleep(std::time::Duration::from_millis(30));
    project.succeeds(&["run", "e.yaml", "--set", "params.say=other"]);
    let policy = Policy { max_bytes: Some(60), ..everything() };
    let collection = plan(&project, policy);
    let goes = &collection.actions;
    assert!(!goes.is_empty() && goes.windows(2).all(|pair| pair[0].2 <= pair[1].2));
    let last_gone = goes.last().unwrap().2;
    let store = project.store();
    let stays = store.action_keys().unwrap().into_iter().filter(|k| goes.iter().all(|(gone, ..)| gone != k));
    assert!(stays.clone().count() > 0);
    // An action whose artifacts are kept by others costs nothing and stays. Everything else is as
    // recent or more recent, since the kernel's clock advances in steps of milliseconds.
    for key in stays {
        let shared = store.recorded_action(key).unwrap().key.stage == "pick";
        assert!(shared || store.action_used(key).unwrap() >= last_gone);
    }
    collection.execute(&store).unwrap();
    assert!(store.objects().unwrap().iter().map(|(_, size)| size).sum::<u64>() <= 60);
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn a_run_that_can_be_resumed_goes_on_after_the_hardest_collection() {
    let project = Project::new();
    project.write("fail", "");
    project.ends(1, &["run", "e.yaml"]);
    let kept = plan(&project, everything()).kept;
    assert_eq!(kept.keys().copied().collect::<Vec<_>>(), [Root::Unfinished]);
    project.succeeds(&[
        "artifacts",
        "gc",
        "--max-size",
        "0",
        "--max-age",
        "0",
        "--keep-checkpoints",
        "0",
        "--keep-results",
        "0",
        "--grace",
        "0",
    ]);
    fs::remove_file(project.path("fail")).unwrap();
    let id = run::list(&project.store()).unwrap().pop().unwrap().id.to_string();
    project.succeeds(&["resume", &id]);
    let state = run::list(&project.store()).unwrap().pop().unwrap();
    let ran = |stage: &str| state.stages.get(stage).unwrap().instances.iter().map(|i| i.started).max().unwrap();
    assert_eq!((ran("text"), ran("train"), ran("pick")), (1, 1, 2), "only what had failed ran again");
    assert!(Path::new(&project.path("out/e/best")).is_dir());
}

#[test]
fn a_collection_beside_a_live_engine_removes_what_is_old_and_nothing_that_the_run_uses() {
    let project = ran();
    let store = project.store();
    let text = Reference::resolve(&store, "e:text.text").unwrap();
    project.succeeds(&["run", "e.yaml", "--set", "params.say=other"]);
    let other = Reference::resolve(&store, "e:text.text").unwrap();
    assert_ne!(text, other);
    // The next run has a cache hit for the first text, then waits in its training.
    let (asked, go) = (project.path("asked"), project.path("go"));
    let script = fs::read_to_string(project.path("stages/fit/run.sh")).unwrap();
    let wait = format!("touch '{}'; while [ ! -e '{}' ]; do sleep 0.02; done", asked.display(), go.display());
    project.write("stages/fit/run.sh", &format!("{wait}\n{script}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    command.args(["run", "e.yaml"]).current_dir(project.dir.path()).stdin(Stdio::null());
    command.env_remove("OLMO_PIPE_FAILPOINT").env_remove("OLMO_PIPE_STORE");
    let live = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !asked.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // By age, none of it would be kept. What stays is kept because the run uses it.
    let engine_grace = std::time::Duration::from_millis(200);
    std::thread::sleep(engine_grace * 2);
    let collection = plan(&project, Policy { engine_grace, ..everything() });
    assert!(collection.kept[&Root::Running].artifacts > 0 && collection.artifacts > 0);
    let swept = collection.execute(&store).unwrap();
    assert!(swept.objects > 0 && swept.actions > 0, "{swept:?}");
    assert!(store.is_whole(text) && !store.is_whole(other));
    fs::write(&go, "").unwrap();
    let output = live.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(project.path("out/e/best/trainer.json").exists());
    assert_eq!(store.verify().unwrap(), []);
    let state = run::list(&store).unwrap().pop().unwrap();
    assert_eq!(state.stages.get("text").unwrap().instances[0].started, 0, "its text was there");
}

/// The lines of a file of the project, sorted.
fn lines(project: &Project, name: &str) -> Vec<String> {
    let text = fs::read_to_string(project.path(name)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn eight_runs_and_readers_share_one_store_and_equal_stages_run_once() {
    let project = Project::new();
    // Every script records what it was asked to do.
    for (name, _, script) in STAGES {
        let input =
            if name == "text" { r#"$1"# } else { r#"$(cat "$3"/* "$3"/*/* "$3"/*/*/* 2>/dev/null | tr '\n' ' ')"# };
        let note = format!("echo \"{name} {input}\" >> \"{}\"", project.path("ran").display());
        let script = script.replace('@', &format!("{}/", project.dir.path().display()));
        project.write(&format!("stages/{name}/run.sh"), &format!("set -eu\n{note}\nsleep 0.05\n{script}\n"));
    }
    let spawn = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(arguments).current_dir(project.dir.path()).stdin(Stdio::null());
        command.env_remove("OLMO_PIPE_FAILPOINT").env_remove("OLMO_PIPE_STORE");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // Each experiment runs twice under its own name, so their results are independent.
    for n in 0..8 {
        project.write(
            &format!("e{n}.yaml"),
            &format!("experiment: e{n}\nuses: pipeline.yaml\nparams: {{say: word{}}}\n", n / 2),
        );
    }
    let mut runs: Vec<_> = (0..8).map(|n| spawn(&["run", &format!("e{n}.yaml")])).collect();
    let readers: [&[&str]; 6] = [
        &["artifacts", "list", "--json"],
        &["artifacts", "verify"],
        &["runs", "list"],
        &["artifacts", "du"],
        &[
            "artifacts",
            "gc",
            "--max-size",
            "0",
            "--max-age",
            "0",
            "--keep-checkpoints",
            "0",
            "--keep-results",
            "0",
            "--grace",
            "60s",
        ],
        &["artifacts", "reindex"],
    ];
    let mut round = 0;
    while runs.iter_mut().any(|run| run.try_wait().unwrap().is_none()) {
        let output = spawn(readers[round % readers.len()]).wait_with_output().unwrap();
        assert!(output.status.success(), "{:?}\n{}", readers[round % readers.len()], said(&output));
        round += 1;
    }
    assert!(round > 3, "the readers had a turn");
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert!(!said(&output).contains("lock"), "{}", said(&output));
    }
    let ran = lines(&project, "ran");
    let once: std::collections::BTreeSet<&String> = ran.iter().collect();
    assert_eq!(ran.len(), once.len(), "{ran:#?}");
    assert_eq!(ran.len(), 4 * (1 + 1 + 3 + 1), "{ran:#?}");
    let store = project.store();
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(fs::read_dir(project.path(".olmo-pipe/locks-v1")).unwrap().count(), 0, "no lock is left");
    for n in 0..8 {
        assert!(project.path(&format!("out/e{n}/best/trainer.json")).exists());
    }
}

#[test]
fn the_index_deleted_damaged_or_locked_changes_no_answer() {
    let project = ran();
    let list = || project.succeeds(&["artifacts", "list", "--json"]);
    let expected = list();
    fs::remove_dir_all(project.path(".olmo-pipe/index-v1")).unwrap();
    assert_eq!(list(), expected, "deleted");
    project.succeeds(&["artifacts", "reindex"]);
    for entry in fs::read_dir(project.path(".olmo-pipe/index-v1/db")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, "not what sled wrote").unwrap();
        }
    }
    assert_eq!(list(), expected, "damaged");
    let store = project.store();
    let held = olmo_pipe::store::Index::open(&store);
    assert!(held.uses_database() || list() == expected);
    assert_eq!(list(), expected, "locked");
    assert!(project.succeeds(&["artifacts", "reindex"]).contains("in use"));
}

#[test]
fn verify_names_damage_and_repair_makes_the_store_sound_again() {
    let project = ran();
    assert!(project.succeeds(&["artifacts", "verify"]).contains("sound"));
    let store = project.store();
    let damage = |reference: &str, file: &str| {
        let artifact = Reference::resolve(&store, reference).unwrap();
        let digest = store.manifest(artifact).unwrap().files[file].digest.hex();
        let path = project.path(&format!(".olmo-pipe/objects-v1/{}/{}", &digest[..2], &digest[2..]));
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        fs::set_permissions(&path, permissions).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 4;
        fs::write(&path, bytes).unwrap();
    };
    // One is kept by a result, the other by nothing.
    damage("latest:best", "trainer.json");
    damage("e:train.checkpoints[step1]", "trainer.json");
    let said = project.ends(6, &["artifacts", "verify"]);
    assert!(said.contains("2 problems") && said.contains("--repair"), "{said}");
    project.ends(6, &["artifacts", "verify", "latest:best"]);
    project.succeeds(&["artifacts", "verify", "e:text.text"]);
    let repaired = project.json(&["artifacts", "verify", "--repair", "--json"]);
    assert_eq!(repaired["repaired"]["healed"].as_array().unwrap().len(), 1, "{repaired:#}");
    assert_eq!(repaired["repaired"]["damage_left"], 0);
    assert!(project.succeeds(&["artifacts", "verify"]).contains("sound"));
    project.succeeds(&["run", "e.yaml"]);
    let state = run::list(&store).unwrap().pop().unwrap();
    let word = |stage: &str| state.stages.get(stage).unwrap().status.word();
    assert_eq!((word("text"), word("train"), word("pick")), ("cached", "finished", "cached"));
}

#[test]
fn artifacts_travel_between_stores_as_archives_and_leave_as_folders() {
    let project = ran();
    for how in ["auto", "copy", "hardlink"] {
        project.succeeds(&["artifacts", "export", "latest:best", "--to", how, "--how", how]);
        assert_eq!(fs::read_to_string(project.path(how).join("trainer.json")).unwrap(), "state 3\n", "{how}");
    }
    let said = project.ends(2, &["artifacts", "export", "latest:best", "--to", "copy"]);
    assert!(said.contains("store::destination_exists"), "{said}");
    project.ends(2, &["artifacts", "export", "latest:best", "e:text.text", "--to", "two"]);

    project.succeeds(&[
        "artifacts",
        "export",
        "latest:best",
        "e:text.text",
        "--to",
        "all.tar",
        "--archive",
        "--actions",
    ]);
    let other = ["--store", "other"];
    let said = project.succeeds(&[&["artifacts", "import", "all.tar"][..], &other].concat());
    assert!(said.contains("--trust-actions"), "{said}");
    let tags = project.json(&[&["artifacts", "tags", "--json"][..], &other].concat());
    assert!(tags["pins"].as_array().unwrap().len() >= 2, "what was imported is pinned");
    project.succeeds(&[&["artifacts", "import", "all.tar", "--trust-actions"][..], &other].concat());
    let plan = project.json(&[&["plan", "e.yaml", "--json"][..], &other].concat());
    let text = plan["stages"].as_array().unwrap().iter().find(|s| s["name"] == "text").unwrap();
    assert_eq!(text["state"], "hit", "{plan:#}");

    project.succeeds(&[&["artifacts", "import", "copy", "--type", "checkpoint", "--tag", "mine"][..], &other].concat());
    assert!(project.succeeds(&[&["artifacts", "show", "mine"][..], &other].concat()).contains("trainer.json"));
    project.write("bad.tar", "no archive");
    let said = project.ends(2, &[&["artifacts", "import", "bad.tar"][..], &other].concat());
    assert!(said.contains("store::refused") && said.contains("= help:"), "{said}");
}

#[test]
fn provenance_tells_the_whole_recipe_in_three_forms() {
    let project = Project::new();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]);
        git.args(arguments).current_dir(project.dir.path()).output().is_ok_and(|o| o.status.success())
    };
    let has_git = git(&["init"]) && git(&["add", "."]) && git(&["commit", "-m", "first"]);
    project.write("olmo-pipe.yaml", "# changed\n");
    project.succeeds(&["run", "e.yaml"]);
    let whole = project.json(&["artifacts", "provenance", "e:score[step1].metrics", "--as", "json"]);
    let maker = &whole["provenance"]["makers"][0];
    assert_eq!((&maker["record"]["stage"], &maker["port"]), (&Value::from("score"), &Value::from("metrics")));
    assert_eq!(maker["record"]["inputs"]["model"].as_array().unwrap().len(), 1);
    assert!(maker["record"]["command"]["files"]["run.sh"].is_string());
    let making = &maker["makings"][0];
    let environment = &making["environment"];
    assert_eq!(environment["engine"], env!("CARGO_PKG_VERSION"));
    assert_eq!(environment["host"]["os"], std::env::consts::OS);
    if has_git {
        assert_eq!(environment["git"]["commit"].as_str().unwrap().len(), 40);
        assert_eq!((&environment["git"]["dirty"], &environment["git"]["branch"]), (&true.into(), &"main".into()));
        assert_eq!(environment["git"]["changed"], serde_json::json!(["olmo-pipe.yaml"]));
    }
    assert!(project.succeeds(&["artifacts", "provenance", "e:score[step1].metrics"]).contains("made by   score"));

    let events = project.succeeds(&["artifacts", "provenance", "e:score[step1].metrics", "--as", "openlineage"]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2 * 3, "text, train and score");
    for event in &events {
        for field in ["eventTime", "producer", "schemaURL", "run", "job"] {
            assert!(!event[field].is_null(), "{field}: {event:#}");
        }
        assert!(event["job"]["name"].is_string() && event["job"]["namespace"] == "olmo-pipe:e");
    }
    // A score may end while the training is still running, so events are found by name.
    let event = |name: &str, kind: &str| {
        let found = events.iter().find(|e| e["job"]["name"] == name && e["eventType"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} of {name}: {events:#?}"))
    };
    for name in ["text", "train", "score"] {
        assert_eq!(event(name, "START")["run"]["runId"], event(name, "COMPLETE")["run"]["runId"]);
    }
    assert_eq!(events[1]["job"]["name"], "text", "the first to end");
    // The output of each stage is the input of the next one, by name.
    let artifact = |event: &Value, side: &str| event[side][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(artifact(event("text", "COMPLETE"), "outputs"), artifact(event("train", "COMPLETE"), "inputs"));

    let statement = project.json(&["artifacts", "provenance", "e:score[step1].metrics", "--as", "in-toto"]);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    let subjects = statement["subject"].as_array().unwrap();
    assert_eq!(subjects.len(), 1);
    let metrics = subjects.iter().find(|s| s["name"] == "metrics.json").unwrap();
    // `printf '1\n' | sha256sum`
    assert_eq!(metrics["digest"]["sha256"], "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865");
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["stage"], "score");
    assert!(definition["resolvedDependencies"].as_array().unwrap().len() >= 2);
}
