//! List ports through the real command: items are processed while their stage runs, and survive a
//! kill or a stop in between.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use olmo_base::journal;
use olmo_pipe::run::{RunEvent, RunState, Status};
use olmo_stage::Event;
use olmo_stage::StageError;
use olmo_stage::protocol::PROTOCOL_VERSION;
use olmo_stage::worker::{Context, Entry, main_run};

use super::project::*;

// The worker of these tests is this test program itself, with a `train` stage that only counts
// steps. The tests cover the engine's side of list ports, not the training.

/// The `train` stage: writes a checkpoint after each step, which is a file with the number of the
/// step. It waits at step N while the project contains the file `hold-N`.
fn count_steps(context: &mut Context) -> Result<(), StageError> {
    let project = PathBuf::from(std::env::var_os("TEST_PROJECT").unwrap());
    let told = |text: String| {
        use std::io::Write as _;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(project.join("steps")).unwrap();
        writeln!(file, "{text}").unwrap();
    };
    let steps: u64 =
        context.request.params["max_duration"].as_str().unwrap().trim_end_matches("steps").parse().unwrap();
    let seed = context.request.params["seed"].clone();
    let keep = context.request.items.get("checkpoints").cloned().unwrap_or_default();
    // Like a trainer whose last checkpoint cannot be used: it goes back by one.
    let back = usize::from(project.join("go-back").exists());
    let keep: Vec<_> = keep[..keep.len().saturating_sub(back)].iter().collect();
    let mut done = 0;
    if let Some(last) = keep.last() {
        done = fs::read_to_string(last.path.join("trainer.json")).unwrap().parse().unwrap();
        let keep = keep.iter().map(|item| item.label.clone().unwrap()).collect();
        context.event(&Event::Resumed { step: done, port: "checkpoints".into(), keep });
    }
    for step in done + 1..=steps {
        let label = format!("step{step}");
        let folder = context.item_dir("checkpoints", &label)?;
        fs::create_dir_all(folder.join("model")).unwrap();
        fs::write(folder.join("model/weights"), format!("{seed} {step}")).unwrap();
        fs::write(folder.join("trainer.json"), step.to_string()).unwrap();
        told(step.to_string());
        context.metrics(step, [("loss".to_owned(), 1.0 / step as f64)].into());
        context.item_done("checkpoints", &label)?;
        while project.join(format!("hold-{step}")).exists() {
            std::thread::sleep(Duration::from_millis(5));
            if context.save_requested() {
                fs::write(project.join("saved"), step.to_string()).unwrap();
            }
            context.check_stop()?;
        }
        context.check_stop()?;
    }
    for port in ["model", "metrics"] {
        fs::write(context.output(port)?.join("file"), format!("{seed} {steps}")).unwrap();
    }
    Ok(())
}

/// Not a real test: the engine starts this as its worker.
#[test]
fn plays_the_worker() {
    let Some(attempt) = std::env::var_os("TEST_ATTEMPT") else { return };
    fn no_description() -> olmo_stage::Description {
        unreachable!("the wrapper script answers `describe`")
    }
    main_run(Path::new(&attempt), |_| {
        Some(Entry { describe: no_description, run: count_steps, check: |_| Vec::new() })
    });
}

/// A project with `train` (run by the worker above) and a `score` for each checkpoint.
pub(super) fn training() -> Project {
    let mut project = Project::new();
    let description = olmo_pipe::builtin::STAGES.iter().find(|(name, _)| *name == "train").unwrap().1;
    project.write(
        "describe.json",
        &format!("{{\"protocol\": {PROTOCOL_VERSION}, \"build\": \"test\", \"stages\": {{\"train\": {description}}}}}"),
    );
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = describe ]; then exec cat '{here}/describe.json'; fi\n\
         if [ \"$1\" = check ]; then\n\
         \x20 cat > /dev/null; echo '[[]]'; exit\nfi\n\
         TEST_ATTEMPT=\"$2\" TEST_PROJECT='{here}' exec '{test}' --exact run::items::plays_the_worker --nocapture\n",
        here = project.dir.path().display(),
        test = test.display(),
    );
    project.write("worker", &script);
    fs::set_permissions(project.path("worker"), fs::Permissions::from_mode(0o755)).unwrap();
    project.variables.push(("OLMO_PIPE_WORKER".into(), project.path("worker").display().to_string()));
    project.write("data/tokens", "tokens");
    project.stage("score", "");
    let contract = project.read("stages/score/stage.yaml").replace("one: {type: text", "one: {type: model");
    project.write("stages/score/stage.yaml", &contract);
    project.write(
        "stages/score/run.sh",
        // Write each line with one call, since scores run concurrently.
        &format!(
            "set -eu\necho \"$(cat \"$4/weights\")\" >> '{}/scored'\ncat \"$4/weights\" > \"$2/text\"\n",
            project.dir.path().display()
        ),
    );
    project.stage("all", COPY);
    project.experiment(
        "  train:\n    uses: train\n    with: {data: data, max_duration: 4steps, global_train_batch_size: 1, optimizer: {learning_rate: 0.1}, seed: 7}\n\
         \x20   resources: {cpus: 1, memory_mib: 16}\n\
         \x20 score: {uses: score, for_each: '${stages.train.checkpoints}', with: {one: '${item}'}}\n\
         \x20 all: {uses: all, with: {from: '${stages.score.text}'}}\n",
        "text: '${stages.all.text}', checkpoints: '${stages.train.checkpoints}'",
    );
    project
}

pub(super) fn steps(project: &Project) -> Vec<u64> {
    project.read("steps").lines().map(|line| line.parse().unwrap()).collect()
}

fn scored(project: &Project) -> Vec<String> {
    let mut lines: Vec<String> = project.read("scored").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The joined scores of all four steps of [`training`].
pub(super) const ALL_SCORES: &str = "\n7 17 27 37 4";

#[test]
fn an_item_is_worked_on_while_its_stage_still_runs() {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        olmo_base::testing::skip("this machine has one processor");
        return;
    }
    let project = training();
    project.write("hold-2", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    let both = |state: &RunState| {
        let score = state.stages.get("score");
        score.is_some_and(|s| s.instances.iter().filter(|i| i.status == Status::Finished).count() == 2)
    };
    wait_until("two scores", || project.runs().last().is_some_and(both));
    assert_eq!(project.status("train"), Status::Running);
    fs::remove_file(project.path("hold-2")).unwrap();
    let output = engine.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(project.read("out/e/text/text"), ALL_SCORES);
    assert_eq!(project.read("out/e/checkpoints/step3/model/weights"), "7 3");
    assert!(project.succeeds(&["run", "e.yaml"]).contains("all 3 stages cached"));
    // Equal models are scored only once, whatever their label. Only the seed changes them.
    project.succeeds(&["run", "e.yaml", "--set", "stages.train.with.optimizer.learning_rate=0.2"]);
    assert_eq!(scored(&project), ["7 1", "7 2", "7 3", "7 4"]);
    assert_eq!(steps(&project).len(), 8);
}

#[test]
fn a_run_killed_after_an_item_goes_on_behind_it() {
    for (point, first) in [("run.item_committed:2", 3), ("run.item_committed:4", 5)] {
        let project = training();
        // It must not be ahead of the engine's records.
        project.write("hold-2", "");
        if first == 5 {
            fs::remove_file(project.path("hold-2")).unwrap();
            project.write("hold-4", "");
        }
        dies_at(&project, point, &["run", "e.yaml"]);
        for hold in ["hold-2", "hold-4"] {
            let _ = fs::remove_file(project.path(hold));
        }
        let before = steps(&project).len();
        project.succeeds(&["resume", project.last_run().id.as_str()]);
        assert_eq!(steps(&project), [1, 2, 3, 4], "{point}: no step twice");
        assert_eq!(before as u64 + 1, first);
        assert_eq!(project.read("out/e/text/text"), ALL_SCORES, "{point}");
        let state = project.last_run();
        let resumed = project.events(&state).iter().find_map(|e| match e {
            RunEvent::Resumed { step, .. } => Some(*step),
            _ => None,
        });
        assert_eq!(resumed, Some(first - 1), "{point}");
        let after = project.events(&state).iter().rev().find_map(|e| match e {
            RunEvent::Started { place, after, continues: true, .. } if place.stage == "train" => after.clone(),
            _ => None,
        });
        assert_eq!(after, Some(format!("step{}", first - 1)), "{point}");
    }
}

#[test]
fn an_item_that_was_reported_but_not_yet_committed_is_not_lost() {
    let project = training();
    // The engine is killed while it commits the first of at least two reported items.
    project.write("hold-3", "");
    dies_at(&project, "store.manifest_renamed:2", &["run", "e.yaml", "train"]);
    fs::remove_file(project.path("hold-3")).unwrap();
    // The kill may have come between the end of a step and its report: that step is made again.
    let events = work(&project).join("attempts/1/events.jsonl");
    let events = journal::read_prefix::<Event>(&events).unwrap().records;
    let reported = events.iter().filter(|event| matches!(event, Event::Item { .. })).count();
    let unreported = steps(&project).len() - reported;
    project.succeeds(&["resume", project.last_run().id.as_str()]);
    assert_eq!(steps(&project).len(), 4 + unreported, "{:?}", steps(&project));
}

#[test]
fn sigterm_lets_a_worker_save_and_the_same_command_continues_it() {
    let project = training();
    project.write("hold-3", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    wait_until("three steps", || project.path("steps").exists() && steps(&project).len() == 3);
    signal(&engine, libc::SIGTERM);
    let output = engine.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    fs::remove_file(project.path("hold-3")).unwrap();
    let plan = project.succeeds(&["plan", "e.yaml", "--json"]);
    assert!(plan.contains("\"continue\"") && plan.contains("stopped after step3"), "{plan}");
    let said = project.succeeds(&["run", "e.yaml"]);
    assert!(said.contains("resuming after step3"), "{said}");
    assert_eq!(steps(&project), [1, 2, 3, 4]);
    assert_eq!(project.read("out/e/text/text"), ALL_SCORES);
}

#[test]
fn items_that_a_continued_stage_gives_up_leave_the_list_and_come_again() {
    let project = training();
    project.write("hold-3", "");
    let engine = project.spawn(&["run", "e.yaml"]);
    wait_until("three steps", || project.path("steps").exists() && steps(&project).len() == 3);
    signal(&engine, libc::SIGTERM);
    assert_eq!(engine.wait_with_output().unwrap().status.code(), Some(143));
    fs::remove_file(project.path("hold-3")).unwrap();
    project.write("go-back", "");
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(steps(&project), [1, 2, 3, 3, 4]);
    assert_eq!(scored(&project), ["7 1", "7 2", "7 3", "7 4"], "equal bytes are scored once");
    assert_eq!(project.read("out/e/text/text"), ALL_SCORES);
}

#[test]
fn a_failed_item_fails_its_stage_and_the_other_items_go_on() {
    let project = training();
    let script = project.read("stages/score/run.sh");
    project.write(
        "stages/score/run.sh",
        &script.replace("set -eu\n", "set -eu\n[ \"$(cat \"$4/weights\")\" != '7 2' ]\n"),
    );
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(scored(&project), ["7 1", "7 3", "7 4"]);
    assert_eq!((project.status("score"), project.status("all")), (Status::Failed, Status::Skipped));
    assert!(said(&output).contains("score[step2]"), "{}", said(&output));
}

#[test]
fn a_worker_that_is_missing_or_of_another_build_is_refused_before_anything_runs() {
    let mut project = training();
    let text = project.read("describe.json").replace("\"stage\": \"train\"", "\"stage\": \"train \"");
    project.write("describe.json", &text);
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("cargo build --release") && said(&output).contains("different builds"),
        "{}",
        said(&output)
    );
    project.variables = vec![("OLMO_PIPE_WORKER".into(), "/no/such/worker".into())];
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("cargo build --release") && said(&output).contains("/no/such/worker"),
        "{}",
        said(&output)
    );
    assert!(project.runs().is_empty(), "no run began");
}

#[test]
fn a_worker_that_dies_without_a_result_is_a_failure_with_a_reason() {
    let project = training();
    let script = project.read("worker").replace("TEST_ATTEMPT", "echo about to die; kill -9 $$; TEST_ATTEMPT");
    project.write("worker", &script);
    let output = project.run(&["run", "e.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("SIGKILL") && said.contains("memory") && said.contains("about to die"), "{said}");
}
