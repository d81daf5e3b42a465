//! Damage and interference, which the engine must notice and repair or reject. Every test damages
//! real files, kills real processes, or changes files under a running stage.

use std::fs;
use std::path::{Path, PathBuf};

use olmo_pipe::run::{RunEvent, RunStatus, Status};

use super::items::{ALL_SCORES, steps, training};
use super::project::*;

/// Stops `project` (of [`training`]) with a signal once `steps` steps are done.
fn stop_after(project: &Project, done: u64) {
    let hold = format!("hold-{done}");
    project.write(&hold, "");
    let engine = project.spawn(&["run", "e.yaml"]);
    wait_until("the steps", || project.path("steps").exists() && steps(project).last() == Some(&done));
    wait_until("the items", || journal_lines(&items_file(project)) >= done as usize);
    signal(&engine, libc::SIGTERM);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    fs::remove_file(project.path(&hold)).unwrap();
}

fn journal_lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn items_file(project: &Project) -> PathBuf {
    work(project).join("items.jsonl")
}

/// Flips one bit in the middle of the line `line` (from 0) of `path`.
fn flip_in_line(path: &Path, line: usize) {
    let text = fs::read(path).unwrap();
    let start: usize = text.split_inclusive(|b| *b == b'\n').take(line).map(<[u8]>::len).sum();
    let length = text[start..].iter().position(|b| *b == b'\n').unwrap();
    flip(path, start + length / 2);
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    let mode = fs::metadata(path).unwrap().permissions();
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

/// All files below `folder`.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

fn store_file_with(project: &Project, folder: &str, text: &str) -> PathBuf {
    let holds = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text));
    files_below(&project.path(&format!(".olmo-pipe/{folder}"))).into_iter().find(holds).unwrap()
}

fn has_all_items(project: &Project) {
    assert_eq!(project.read("out/e/text/text"), ALL_SCORES);
    for step in 1..=4 {
        assert_eq!(project.read(&format!("out/e/checkpoints/step{step}/model/weights")), format!("7 {step}"));
    }
}

#[test]
fn an_interrupted_training_that_lost_an_early_checkpoint_makes_it_again() {
    type Damage<'d> = (&'d str, &'d dyn Fn(&Project));
    let damages: [Damage; 3] = [
        ("a flipped bit", &|project| flip(&store_file_with(project, "objects-v1", "7 1"), 0)),
        ("a manifest that is gone", &|project| {
            let object = store_file_with(project, "objects-v1", "7 1");
            let digest = object.file_name().unwrap().to_str().unwrap().to_owned();
            for manifest in files_below(&project.path(".olmo-pipe/artifacts-v1")) {
                if fs::read_to_string(&manifest).unwrap().contains(&digest) {
                    fs::remove_file(manifest).unwrap();
                }
            }
        }),
        ("forgotten by repair", &|project| {
            flip(&store_file_with(project, "objects-v1", "7 1"), 0);
            project.succeeds(&["artifacts", "verify", "--repair"]);
        }),
    ];
    for (what, damage) in damages {
        let project = training();
        stop_after(&project, 2);
        fs::create_dir_all(work(&project).join("state")).unwrap();
        fs::write(work(&project).join("state/ahead"), "of the lost item").unwrap();
        damage(&project);
        let said = project.succeeds(&["run", "e.yaml"]);
        has_all_items(&project);
        assert!(said.contains("is lost"), "{what}: {said}");
        assert_eq!(steps(&project), [1, 2, 1, 2, 3, 4], "{what}: everything from the lost item on");
        assert!(project.succeeds(&["run", "e.yaml"]).contains("all 3 stages cached"));
        assert!(project.succeeds(&["artifacts", "verify"]).contains("sound"), "{what}");
    }
}

#[test]
fn items_before_a_lost_one_are_kept() {
    let project = training();
    stop_after(&project, 3);
    flip(&store_file_with(&project, "objects-v1", "7 2"), 0);
    project.succeeds(&["run", "e.yaml"]);
    has_all_items(&project);
    assert_eq!(steps(&project), [1, 2, 3, 2, 3, 4]);
}

#[test]
fn a_damaged_line_of_the_items_is_not_a_torn_tail() {
    for line in [0, 1, 2] {
        let project = training();
        stop_after(&project, 2);
        stop_after(&project, 3);
        flip_in_line(&items_file(&project), line);
        let damaged = fs::read(items_file(&project)).unwrap();
        let said = project.succeeds(&["run", "e.yaml"]);
        has_all_items(&project);
        assert!(said.contains(&format!("line {} is damaged", line + 1)), "{said}");
        let kept = files_below(&project.path(".olmo-pipe/quarantine"));
        assert_eq!(kept.len(), 1);
        assert_eq!(fs::read(&kept[0]).unwrap(), damaged, "nothing of it is lost");
        assert!(project.succeeds(&["run", "e.yaml"]).contains("all 3 stages cached"));
    }
}

#[test]
fn damaged_or_missing_events_of_any_attempt_lose_no_item() {
    let damages: [&dyn Fn(&Path); 4] = [
        &|events| flip_in_line(events, 1),
        &|events| fs::remove_file(events).unwrap(),
        &|events| fs::write(events, "").unwrap(),
        &|events| {
            let text = fs::read(events).unwrap();
            fs::write(events, &text[..text.len() / 2]).unwrap();
        },
    ];
    for damage in damages {
        for attempt in [1, 2] {
            let project = training();
            stop_after(&project, 2);
            stop_after(&project, 3);
            damage(&work(&project).join(format!("attempts/{attempt}/events.jsonl")));
            project.succeeds(&["run", "e.yaml"]);
            has_all_items(&project);
        }
    }
}

#[test]
fn whatever_stands_in_the_place_of_the_items_or_events_loses_no_item() {
    for name in ["items.jsonl", "attempts/1/events.jsonl"] {
        for kind in ["link", "folder", "FIFO"] {
            let project = training();
            stop_after(&project, 2);
            let path = work(&project).join(name);
            fs::remove_file(&path).unwrap();
            match kind {
                "link" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                "folder" => fs::create_dir(&path).unwrap(),
                _ => assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()),
            }
            let said = project.succeeds(&["run", "e.yaml"]);
            assert!(said.contains("is lost") && said.contains(kind), "{name}: {said}");
            has_all_items(&project);
        }
    }
}

#[test]
fn what_a_command_puts_in_the_place_of_its_events_is_not_read() {
    for script in [
        "mkfifo ../events.jsonl",
        "ln -s /dev/zero ../events.jsonl",
        "mkdir ../events.jsonl",
        "yes | head -c 1000000 > ../events.jsonl",
    ] {
        let project = Project::new();
        project.stage("a", &format!("{script}\n{COPY}"));
        project.experiment("  a: {uses: a, with: {say: hello}}\n", "text: '${stages.a.text}'");
        project.succeeds(&["run", "e.yaml"]);
        assert_eq!(project.read("out/e/text/text"), "hello\n", "{script}");
    }
}

#[test]
fn an_item_that_changes_before_the_engine_commits_it_is_made_again() {
    let project = training();
    // The engine dies while at least one reported item is not in the store yet.
    project.write("hold-3", "");
    dies_at(&project, "store.manifest_renamed:2", &["run", "e.yaml", "train"]);
    fs::remove_file(project.path("hold-3")).unwrap();
    let waiting: Vec<PathBuf> = files_below(&work(&project).join("attempts/1/items"))
        .into_iter()
        .filter(|path| path.ends_with("model/weights"))
        .collect();
    for weights in &waiting {
        flip(weights, 0);
    }
    project.succeeds(&["resume", project.last_run().id.as_str()]);
    project.succeeds(&["run", "e.yaml"]);
    has_all_items(&project);
}

#[test]
fn a_list_of_a_command_never_mixes_two_attempts() {
    let project = Project::new();
    let script = "for n in a b c; do mkdir -p \"$2/$n\"; echo \"$n $(cat @mark)\" > \"$2/$n/text\"; done\n";
    project.stage_with("many", script, "texts: {type: text, list: true}", "cpus: 1, memory_mib: 16");
    project.experiment("  many: {uses: many}\n", "texts: '${stages.many.texts}'");
    project.write("mark", "one");
    dies_at(&project, "store.manifest_renamed:2", &["run", "e.yaml"]);
    project.write("mark", "two");
    project.succeeds(&["run", "e.yaml"]);
    for label in ["a", "b", "c"] {
        assert_eq!(project.read(&format!("out/e/texts/{label}/text")), format!("{label} two\n"));
    }
}

#[test]
fn a_list_of_a_command_drops_nothing_silently() {
    for (script, why) in [
        ("mkdir \"$2/a\"; echo a > \"$2/a/text\"; echo b > \"$2/b\"", "`b` is a regular file"),
        ("mkdir \"$2/a\"; echo a > \"$2/a/text\"; ln -s \"$2/a\" \"$2/b\"", "`b` is a symbolic link"),
        ("mkdir \"$2/a\"; echo a > \"$2/a/text\"; mkfifo \"$2/b\"", "`b` is a FIFO"),
        ("mkdir \"$2/a\"; echo a > \"$2/a/text\"; mkdir \"$2/$(printf 'x\\377')\"", "not valid UTF-8"),
        (
            "mkdir \"$2/a\" \"$2/A\"; echo a > \"$2/a/text\"; echo A > \"$2/A/text\"",
            "differ only in upper and lower case",
        ),
        ("rm -r \"$2\"", "made no items"),
        (":", "made no items"),
        ("mkdir -p @elsewhere/a; echo a > @elsewhere/a/text; rm -r out; ln -s @elsewhere/.. out", "symbolic link"),
        ("mkdir -p @elsewhere/a; echo a > @elsewhere/a/text; rm -r \"$2\"; ln -s @elsewhere \"$2\"", "symbolic link"),
    ] {
        let project = Project::new();
        project.stage_with("many", script, "texts: {type: text, list: true}", "cpus: 1, memory_mib: 16");
        project.experiment("  many: {uses: many}\n", "texts: '${stages.many.texts}'");
        let output = project.run(&["run", "e.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{script}\n{}", said(&output));
        assert!(said(&output).contains(why), "{script}\n{}", said(&output));
        if project.path("elsewhere").exists() {
            assert_eq!(project.read("elsewhere/a/text"), "a\n", "{script}: nothing is taken from there");
        }
    }
}

#[test]
fn an_output_folder_that_was_replaced_by_a_link_is_not_followed() {
    for script in [
        "mkdir -p @elsewhere/text; echo a > @elsewhere/text/text; rm -r out; ln -s @elsewhere out",
        "mkdir -p @elsewhere/text; echo a > @elsewhere/text/text; rm -r \"$2\"; ln -s @elsewhere/text \"$2\"",
    ] {
        let project = Project::new();
        project.stage("a", script);
        project.experiment("  a: {uses: a}\n", "text: '${stages.a.text}'");
        let output = project.run(&["run", "e.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{script}\n{}", said(&output));
        assert!(said(&output).contains("symbolic link"), "{}", said(&output));
        assert_eq!(project.read("elsewhere/text/text"), "a\n", "nothing is taken from there");
    }
}

#[test]
fn a_damaged_record_is_reported_and_never_continued() {
    let project = training();
    stop_after(&project, 2);
    let id = project.last_run().id.to_string();
    let resolved = project.path(&format!(".olmo-pipe/runs-v1/{id}/resolved.json"));
    let sound = fs::read(&resolved).unwrap();
    let text = String::from_utf8(sound.clone()).unwrap();
    let seed = text.find("\"seed\":7").unwrap() + "\"seed\":".len();
    // A wrong digit, a wrong version number, a missing seal, and a truncated file.
    let other_seed = [&sound[..seed], b"6", &sound[seed + 1..]].concat();
    let unsealed = text[text.find("\"body\":").unwrap() + 7..].trim_end().trim_end_matches('}').to_owned() + "}";
    for damaged in [other_seed, unsealed.into_bytes(), sound[..sound.len() / 2].to_vec(), Vec::new()] {
        fs::write(&resolved, damaged).unwrap();
        let output = project.run(&["resume", &id]);
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
        assert!(said(&output).contains("run::damaged"), "{}", said(&output));
        let output = project.run(&["artifacts", "verify"]);
        assert_eq!(output.status.code(), Some(6), "{}", said(&output));
        assert!(said(&output).contains(&id), "{}", said(&output));
    }
    assert_eq!(steps(&project), [1, 2], "nothing was trained by what the damage says");
    fs::write(&resolved, sound).unwrap();
    project.succeeds(&["artifacts", "verify"]);
    project.succeeds(&["resume", &id]);
    has_all_items(&project);
}

#[test]
fn a_damaged_event_of_a_run_is_reported_and_the_sound_lines_behind_it_stay() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    let id = project.last_run().id.to_string();
    let events = project.path(&format!(".olmo-pipe/runs-v1/{id}/events.jsonl"));
    flip_in_line(&events, journal_lines(&events) / 2);
    let damaged = fs::read(&events).unwrap();
    // Another kind of file in its place is damage, too.
    let kept = project.path("kept");
    fs::rename(&events, &kept).unwrap();
    let other_kinds: [&dyn Fn(); 3] =
        [&|| std::os::unix::fs::symlink(&kept, &events).unwrap(), &|| fs::create_dir(&events).unwrap(), &|| {
            assert!(std::process::Command::new("mkfifo").arg(&events).status().unwrap().success());
        }];
    for replace in other_kinds {
        replace();
        assert_eq!(project.last_run().status, RunStatus::Damaged);
        assert_eq!(project.run(&["artifacts", "verify"]).status.code(), Some(6));
        assert_eq!(project.run(&["resume", &id]).status.code(), Some(4));
        let _ = fs::remove_file(&events).or_else(|_| fs::remove_dir(&events));
    }
    fs::rename(&kept, &events).unwrap();
    assert_eq!(project.last_run().status, RunStatus::Damaged);
    assert!(project.succeeds(&["runs", "list"]).contains("damaged"));
    assert!(project.succeeds(&["runs", "show", &id]).contains("is damaged"));
    let output = project.run(&["resume", &id]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(project.run(&["artifacts", "verify"]).status.code(), Some(6));
    assert_eq!(fs::read(&events).unwrap(), damaged);
    // The next run is not affected, and the record can be removed or set aside.
    assert!(project.succeeds(&["run", "e.yaml"]).contains("all 4 stages cached"));
    project.succeeds(&["artifacts", "verify", "--repair"]);
    assert_eq!(fs::read(project.path(&format!(".olmo-pipe/quarantine/{id}.run/events.jsonl"))).unwrap(), damaged);
    assert_eq!(project.runs().len(), 1);
    project.succeeds(&["artifacts", "verify"]);
}

#[test]
fn a_source_that_changes_and_changes_back_under_a_stage_is_noticed() {
    let project = training();
    project.write("hold-2", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    wait_until("two steps", || project.path("steps").exists() && steps(&project).len() == 2);
    let before = project.read("data/tokens");
    let modified = fs::metadata(project.path("data/tokens")).unwrap().modified().unwrap();
    for text in ["other", before.as_str()] {
        project.write("data/tokens", text);
    }
    let file = fs::File::options().write(true).open(project.path("data/tokens")).unwrap();
    file.set_modified(modified).unwrap();
    fs::remove_file(project.path("hold-2")).unwrap();
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("store::source_touched"), "{}", said(&output));
    // Outputs from the meantime may be based on the other content, so they are made again.
    project.succeeds(&["run", "e.yaml"]);
    has_all_items(&project);
    assert_eq!(steps(&project), [1, 2, 3, 4, 1, 2, 3, 4]);
}

#[test]
fn a_script_that_changes_and_changes_back_under_its_stage_is_noticed() {
    let project = Project::new();
    project.stage("a", &format!("touch @began; while [ ! -e @go ]; do sleep 0.01; done\n{COPY}"));
    project.experiment("  a: {uses: a, with: {say: hello}}\n", "text: '${stages.a.text}'");
    let engine = project.spawn(&["run", "e.yaml"]);
    project.wait_for("began");
    let before = project.read("stages/a/run.sh");
    for text in ["echo other", before.as_str()] {
        project.write("stages/a/run.sh", text);
    }
    project.write("go", "");
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("store::source_touched"), "{}", said(&output));
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.read("out/e/text/text"), "hello\n");
}

#[test]
fn work_that_was_begun_before_a_source_changed_and_changed_back_is_not_continued() {
    let project = training();
    stop_after(&project, 2);
    let before = project.read("data/tokens");
    for text in ["other", before.as_str()] {
        project.write("data/tokens", text);
    }
    let said = project.succeeds(&["run", "e.yaml"]);
    assert!(said.contains("its work is discarded"), "{said}");
    assert_eq!(steps(&project), [1, 2, 1, 2, 3, 4]);
    has_all_items(&project);
}

#[test]
fn a_plan_says_nothing_false_of_items_that_are_still_to_come() {
    let project = training();
    project.write("stages/score/stage.yaml", &project.read("stages/score/stage.yaml"));
    let shared = project.read("pipeline.yaml").replace("one: '${item}'", "one: '${item}', file: shared");
    project.write("pipeline.yaml", &shared);
    project.write("shared", "prompts");
    project.succeeds(&["run", "e.yaml"]);
    for arguments in [vec!["plan", "e.yaml"], vec!["plan", "e.yaml", "--explain"]] {
        let set = ["--set", "stages.train.with.seed=77"];
        let plan = project.succeeds(&[arguments.as_slice(), &set].concat());
        assert!(!plan.contains("nothing"), "{plan}");
        assert!(plan.contains("score") && !plan.contains("inputs.file"), "{plan}");
    }
    // Known changes are still reported.
    project.write("shared", "other prompts");
    let plan = project.succeeds(&["plan", "e.yaml", "--set", "stages.train.with.seed=77"]);
    assert!(plan.contains("inputs.file changed"), "{plan}");
}

#[test]
fn a_script_that_argv_names_is_in_the_key_though_files_does_not_list_it() {
    let project = diamond();
    let contract = project.read("stages/a/stage.yaml");
    project.write("stages/a/stage.yaml", &contract.replace("  files: [run.sh]\n", ""));
    project.succeeds(&["run", "e.yaml"]);
    let script = project.read("stages/a/run.sh");
    project.write("stages/a/run.sh", &script.replace("echo \"$1\"", "echo \"$1, edited\""));
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.ran()["a"], 2);
    assert_eq!(project.read("out/e/first/text"), "hello, edited\n");
}

#[test]
fn a_users_own_files_among_the_results_are_never_deleted() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    project.write("out/e/text/notes/card.md", "mine");
    std::os::unix::fs::symlink("notes/card.md", project.path("out/e/text/link")).unwrap();
    fs::create_dir(project.path("out/e/text/empty")).unwrap();
    let own_files_are_there = || {
        assert_eq!(project.read("out/e/text/notes/card.md"), "mine");
        assert_eq!(project.read("out/e/text/link"), "mine");
        assert!(project.path("out/e/text/empty").is_dir());
    };
    assert!(project.succeeds(&["run", "e.yaml"]).contains("all 4 stages cached"));
    own_files_are_there();
    project.succeeds(&["run", "e.yaml", "--set", "params.say=other"]);
    own_files_are_there();
    assert_eq!(project.read("out/e/text/text"), "\nb\nother\nc\nother\n");
    // An edited result is set aside, with a notice.
    project.write("out/e/text/text", "edited by hand");
    let said = project.succeeds(&["run", "e.yaml"]);
    assert!(said.contains("out/e/text.set-aside/text"), "{said}");
    assert_eq!(project.read("out/e/text.set-aside/text"), "edited by hand");
    assert_eq!(project.read("out/e/text/text"), "\nb\nhello\nc\nhello\n");
    own_files_are_there();
    // A second edited file does not replace the first one.
    project.write("out/e/text/text", "edited again");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.read("out/e/text.set-aside/text"), "edited by hand");
    assert_eq!(project.read("out/e/text.set-aside/text.2"), "edited again");
}

#[test]
fn a_folder_that_was_there_before_is_refused_before_anything_runs_or_adopted_if_it_is_ours() {
    let project = diamond();
    project.write("out/e/text/precious", "mine");
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("run::foreign_results") && said(&output).contains("precious"), "{}", said(&output));
    assert!(project.ran().is_empty(), "nothing ran");
    assert_eq!(project.read("out/e/text/precious"), "mine");
    fs::rename(project.path("out/e/text"), project.path("out/e/text.mine")).unwrap();
    project.write("out/e/text", "a file");
    assert_eq!(project.run(&["run", "e.yaml"]).status.code(), Some(2));
    fs::remove_file(project.path("out/e/text")).unwrap();
    project.succeeds(&["run", "e.yaml"]);
    // Results of earlier builds have no marker.
    fs::remove_file(project.path("out/e/text/.olmo-pipe.json")).unwrap();
    project.succeeds(&["run", "e.yaml", "--set", "params.say=other"]);
    assert_eq!(project.read("out/e/text/text"), "\nb\nother\nc\nother\n");
    let marker: serde_json::Value = serde_json::from_str(&project.read("out/e/text/.olmo-pipe.json")).unwrap();
    let state = project.last_run();
    assert_eq!(marker["run"], state.id.as_str());
    assert_eq!(marker["params"], serde_json::json!({"say": "other"}));
    let made = &state.stages.get("d").unwrap().instances[0];
    assert_eq!(marker["key"], made.key.unwrap().to_string());
    assert_eq!(marker["files"].as_object().unwrap().keys().collect::<Vec<_>>(), ["text"]);
}

#[test]
fn a_kill_while_results_are_put_in_place_loses_no_file_of_the_user() {
    let project = diamond();
    project.succeeds(&["run", "e.yaml"]);
    project.write("out/e/text/mine", "mine");
    // The state after a run was killed before or after the folders were swapped.
    project.write("out/e/.text.new/files/only-here", "mine too");
    fs::hard_link(project.path("out/e/text/mine"), project.path("out/e/.text.new/files/mine")).unwrap();
    project.write("out/e/.text.new/files/text", "\nb\nhello\nc\nhello\n");
    project.write("out/e/.text.new/.files.unfinished-1-0/text", "\nb\nhel");
    project.succeeds(&["run", "e.yaml", "--set", "params.say=other"]);
    assert_eq!(project.read("out/e/text/mine"), "mine");
    assert_eq!(project.read("out/e/text.set-aside/only-here"), "mine too");
    assert!(!project.path("out/e/text.set-aside/text").exists() && !project.path("out/e/.text.new").exists());
}

#[test]
fn runs_that_end_at_once_do_not_mix_their_results() {
    let project = diamond();
    let others = ["hello", "two", "three"];
    for say in others {
        project.succeeds(&["run", "e.yaml", "--set", &format!("params.say={say}")]);
    }
    for _ in 0..12 {
        let engines = others.map(|say| project.spawn(&["run", "e.yaml", "--set", &format!("params.say={say}")]));
        for engine in engines {
            let output = engine.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        }
        let first = project.read("out/e/first/text");
        let say = first.trim();
        assert_eq!(project.read("out/e/text/text"), format!("\nb\n{say}\nc\n{say}\n"), "results of one run");
        let left: Vec<_> = fs::read_dir(project.path("out/e")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn a_run_with_a_failed_item_does_not_succeed_though_the_item_leaves_its_list() {
    let project = training();
    let script = project.read("stages/score/run.sh");
    // The score of step 3 fails until the trainer has gone back and repeated step 3.
    project.write(
        "stages/score/run.sh",
        &script.replace(
            "set -eu\n",
            &format!(
                "set -eu\n[ \"$(cat \"$4/weights\")\" != '7 3' ] || [ -e '{0}' ]\n",
                project.path("steps-again").display()
            ),
        ),
    );
    project.write("hold-3", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    let failed = |project: &Project| {
        project.runs().last().is_some_and(|run| {
            run.stages.get("score").is_some_and(|s| s.instances.iter().any(|i| i.status == Status::Failed))
        })
    };
    wait_until("the failure", || failed(&project));
    fs::remove_file(project.path("hold-3")).unwrap();
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let events = project.events(&project.last_run());
    assert!(events.iter().any(|event| matches!(event, RunEvent::Failed { .. })));
    assert_eq!(project.last_run().status, RunStatus::Failed);
}

#[test]
fn a_list_that_is_still_growing_is_not_taken_for_its_first_item() {
    let project = training();
    stop_after(&project, 1);
    let output = project.run(&["artifacts", "export", "latest:checkpoints", "--to", "copy"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("step1") && !project.path("copy").exists(), "{}", said(&output));
    project.succeeds(&["artifacts", "export", "latest:checkpoints[step1]", "--to", "copy"]);
    assert_eq!(project.read("copy/model/weights"), "7 1");
}
