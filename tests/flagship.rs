//! A small version of the shipped experiment through both real binaries: caching, kills, and the
//! loop of training and evaluation.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use olmo_base::ArtifactId;
use olmo_pipe::run::{self, Record, RunEvent, RunOutcome, RunState, Status};
use olmo_pipe::store::{Output as Made, Store};

use crate::run::project::said;

const EXPERIMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/finetune-tulu.yaml");

/// A fine-tuning of eight steps of seven rows, which are an epoch, with checkpoints after steps 3, 6
/// and 8.
pub(crate) const EIGHT_STEPS: [&str; 8] = [
    "--set",
    "params.duration=8steps",
    "--set",
    "params.save_interval=3steps",
    "--set",
    "params.chats=[data/tulu-heldout.jsonl]",
    "--set",
    "params.global_batch_size=2560",
];

/// The repository's experiment, with its own store and its own folder for results.
pub(crate) struct Bench {
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        let worker = Path::new(env!("CARGO_BIN_EXE_olmo-pipe")).with_file_name("olmo-worker");
        assert!(worker.exists(), "these tests need the worker beside the engine: cargo build --release");
        // Results are written to the project's `out/`, so the project has to be a copy.
        for name in ["experiments", "pipelines", "data", "olmo-pipe.yaml"] {
            let to = bench.dir.path().join(name);
            let copied =
                Command::new("cp").arg("-r").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).arg(&to).status();
            assert!(copied.unwrap().success());
        }
        bench
    }

    /// A copy of this project and its store in their current state.
    pub(crate) fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(self.dir.path().join(".")).arg(dir.path()).status();
        assert!(copied.unwrap().success());
        Self { dir }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.env("OLMO_PIPE_LEASES", self.dir.path().join("leases"));
        command.args(arguments).current_dir(self.dir.path());
        command.env_remove("OLMO_PIPE_STORE").env_remove("OLMO_PIPE_FAILPOINT").env_remove("OLMO_PIPE_WORKER");
        command
    }

    pub(crate) fn smoke<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        [&["run", "experiments/finetune-tulu.yaml", "--profile", "smoke"], more].concat()
    }

    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}\n{}", said(&output));
        said(&output)
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.dir.path().join(".olmo-pipe")).unwrap()
    }

    pub(crate) fn last_run(&self) -> RunState {
        run::list(&self.store()).unwrap().pop().unwrap()
    }

    pub(crate) fn events(&self) -> Vec<Record> {
        let store = self.store();
        run::read_events(&run::folder(&store, &self.last_run().id)).unwrap().records
    }

    pub(crate) fn stages(&self, status: Status) -> Vec<String> {
        let run = self.last_run();
        run.stages.iter().filter(|(_, s)| s.status == status).map(|(name, _)| name.to_owned()).collect()
    }
}

/// The outputs of every finished stage and item of a run, without times.
pub(crate) fn outputs(run: &RunState) -> BTreeMap<String, BTreeMap<String, Made>> {
    let instances = run.stages.iter().flat_map(|(name, stage)| stage.instances.iter().map(move |i| (name, i)));
    instances.map(|(name, i)| (format!("{name}{:?}", i.item), i.outputs.clone())).collect()
}

#[test]
fn a_second_run_is_all_hits_and_one_param_reruns_only_what_depends_on_it() {
    let bench = Bench::new();
    let first = bench.succeeds(&bench.smoke(&[]));
    assert!(first.contains("out/finetune-tulu"), "{first}");
    for file in [
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "model/chat_template.jinja",
        "model/generation_config.json",
        "answers/answers.md",
        "scores/choice.json",
    ] {
        assert!(bench.dir.path().join("out/finetune-tulu").join(file).is_file(), "{file} is missing");
    }
    let made = outputs(&bench.last_run());
    let second = bench.succeeds(&bench.smoke(&[]));
    assert!(second.contains("all 17 stages cached, nothing ran"), "{second}");
    assert_eq!(bench.stages(Status::Finished), Vec::<String>::new());
    assert_eq!(outputs(&bench.last_run()), made, "the cache answers with what was made");

    bench.succeeds(&bench.smoke(&["--set", "params.lr=0.004"]));
    let mut ran = bench.stages(Status::Finished);
    ran.sort();
    assert_eq!(ran, ["best", "convert", "eval", "generate", "train"]);
}

#[test]
fn two_learning_rates_share_the_tokens_and_the_base_model() {
    let bench = Bench::new();
    // The learning rate of the last step is 0: after a single one, both trials would have the same weights.
    let said =
        bench.succeeds(&bench.smoke(&["--sweep", "params.lr=[0.003,0.0005]", "--set", "params.duration=2steps"]));
    let ran = bench.stages(Status::Finished);
    let once = |name: &str| ran.iter().filter(|stage| stage.split('@').next() == Some(name)).count();
    for stage in ["tokenizer", "text_tokens", "chat_tokens", "heldout_tokens", "chat_rows", "base", "before"] {
        assert_eq!(once(stage), 1, "{stage}: {ran:?}");
    }
    for stage in ["train@lr=0.003", "train@lr=5e-4", "eval@lr=5e-4", "best@lr=0.003", "convert@lr=5e-4"] {
        assert!(ran.iter().any(|name| name == stage), "{stage}: {ran:?}");
    }
    for trial in ["lr=0.003", "lr=5e-4"] {
        assert!(
            bench.dir.path().join(format!("out/finetune-tulu/{trial}/model/model.safetensors")).is_file(),
            "{said}"
        );
    }
    let again = bench.succeeds(&bench.smoke(&["--set", "params.lr=0.0005", "--set", "params.duration=2steps"]));
    assert!(again.contains("all 17 stages cached"), "a trial is what an experiment with its values is: {again}");
}

#[test]
fn two_stores_in_two_folders_hold_the_same_bytes() {
    let (one, two) = (Bench::new(), Bench::new());
    one.succeeds(&one.smoke(&[]));
    two.succeeds(&two.smoke(&[]));
    assert_eq!(outputs(&one.last_run()), outputs(&two.last_run()));
    assert!(!outputs(&one.last_run()).is_empty());
}

#[test]
fn killed_anywhere_in_training_it_goes_on_and_ends_with_the_same_bytes() {
    killed_anywhere("flex");
}

#[test]
#[ignore = "needs olmo-worker-libtorch: scripts/libtorch cpu --build"]
fn killed_anywhere_on_libtorch_it_goes_on_and_ends_with_the_same_bytes() {
    killed_anywhere("libtorch");
}

fn killed_anywhere(backend: &str) {
    let backend = format!("stages.train.with.backend={backend}");
    let long = [&EIGHT_STEPS[..], &["--set", &backend]].concat();
    // Run up to the fine-tuning without a failpoint, so that the count of the failpoint starts with
    // the fine-tuning.
    let before = Bench::new();
    before.succeeds(&before.smoke(&[&long[..], &["base", "chat_rows", "heldout_rows"]].concat()));
    let unbroken = before.copy();
    unbroken.succeeds(&unbroken.smoke(&long));
    let expected = outputs(&unbroken.last_run());
    // The failpoint, and the steps from which training may continue. A checkpoint is written in the
    // background while the next steps run, so one that was started before the kill may or may not
    // be complete.
    let points: [(&str, &[u64]); 9] = [
        ("train.step:1", &[0]),
        ("train.step:3", &[0]),
        ("train.step:5", &[0, 3]),
        // In the evaluations before the first step and after step 3.
        ("train.evaluating:2", &[0]),
        ("train.evaluating:11", &[0]),
        ("train.before_save:2", &[3]),
        ("train.saving:2", &[3]),
        ("train.saved:2", &[3, 6]),
        ("train.last_step:1", &[3, 6]),
    ];
    for (point, from) in points {
        let bench = before.copy();
        let died = bench.command(&bench.smoke(&long)).env("OLMO_PIPE_FAILPOINT", point).output().unwrap();
        assert_eq!(died.status.signal(), Some(9), "{point} was not reached\n{}", said(&died));
        let finished = bench.stages(Status::Finished);
        let id = bench.last_run().id.to_string();
        bench.succeeds(&["resume", &id]);
        assert_eq!(outputs(&bench.last_run()), expected, "{point}");

        let events = bench.events();
        let mut resumed = events.iter().filter_map(|r| match &r.event {
            RunEvent::Resumed { place, step, .. } if place.stage == "train" => Some(*step),
            _ => None,
        });
        let resumed = resumed.next_back().unwrap_or(0);
        assert!(from.contains(&resumed), "{point}: went on from {resumed}");
        let reopened = events.iter().rposition(|r| matches!(r.event, RunEvent::Opened { .. })).unwrap();
        let first_step = events[reopened..].iter().find_map(|r| match &r.event {
            RunEvent::Metrics { place, step, .. } if place.stage == "train" => Some(*step),
            _ => None,
        });
        // If training starts from the beginning, the model itself is evaluated first.
        let expected_step = if resumed == 0 { 0 } else { resumed + 1 };
        assert_eq!(first_step, Some(expected_step), "{point}: the first step is the one after the checkpoint");
        for record in &events[reopened..] {
            if let RunEvent::Started { place, .. } = &record.event {
                assert!(!finished.contains(&place.stage), "{} had finished and was started again", place.stage);
            }
        }
    }
}

#[test]
fn sigterm_saves_and_the_same_run_typed_again_goes_on() {
    let long = ["--set", "params.duration=400steps", "--set", "params.save_interval=400steps"];
    let bench = Bench::new();
    bench.succeeds(&bench.smoke(&["base", "chat_rows", "heldout_rows"]));
    let child = bench.command(&bench.smoke(&long)).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Wait until training has started.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let going = run::list(&bench.store()).unwrap().pop().is_some_and(|run| {
            run.stages
                .get("train")
                .is_some_and(|s| s.instances.iter().any(|i| i.progress.as_ref().is_some_and(|p| p.0 > 0)))
        });
        if going {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "training never began");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // SAFETY: sends a signal to a child of this process that was not reaped yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    bench.succeeds(&bench.smoke(&[&long[..], &["train"]].concat()));
    let went_on = bench.events().into_iter().find_map(|r| match r.event {
        RunEvent::Resumed { place, step, .. } if place.stage == "train" => Some(step),
        _ => None,
    });
    assert!(went_on.is_some_and(|step| step > 0), "the interrupt's own checkpoint was used: {went_on:?}");
}

#[test]
fn an_evaluation_ends_before_training_does() {
    let bench = Bench::new();
    bench.succeeds(&bench.smoke(&[
        "eval",
        "--set",
        "params.duration=400steps",
        "--set",
        "params.save_interval=20steps",
        "--set",
        "stages.train.resources.cpus=1",
        "--set",
        "stages.eval.resources.cpus=1",
    ]));
    let events = bench.events();
    let end = |stage: &str| {
        events
            .iter()
            .position(|r| matches!(&r.event, RunEvent::Finished { place, .. } if place.stage == stage))
            .unwrap()
    };
    if std::thread::available_parallelism().is_ok_and(|n| n.get() >= 2) {
        assert!(end("eval") < end("train"), "the first evaluation ended while training went on");
    }
    assert!(events.iter().any(|r| matches!(r.event, RunEvent::Closed { outcome: RunOutcome::Succeeded, .. })));
}

#[test]
fn training_again_to_the_same_weights_leaves_the_evaluations_alone() {
    let bench = Bench::new();
    bench.succeeds(&bench.smoke(&[]));
    let models = |bench: &Bench| -> Vec<ArtifactId> {
        let run = bench.last_run();
        run.stages.get("train").unwrap().instances[0].outputs["model"].artifacts().collect()
    };
    let before = models(&bench);
    // The held-out loss is measured more often, so the metrics differ, but not the weights.
    bench.succeeds(&bench.smoke(&["--set", "stages.train.with.eval_interval=1"]));
    assert_eq!(models(&bench), before);
    let ran = bench.stages(Status::Finished);
    assert!(ran.contains(&"train".to_owned()), "{ran:?}");
    assert!(!ran.contains(&"eval".to_owned()), "the same model bytes are a hit: {ran:?}");
}

#[test]
fn artifacts_and_runs_are_listed_while_a_run_goes_on() {
    let bench = Bench::new();
    let long = ["--set", "params.duration=300steps"];
    let mut child = bench.command(&bench.smoke(&long)).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let runs = bench.succeeds(&["runs", "list", "--json"]);
        if runs.contains("\"running\"") && bench.succeeds(&["artifacts", "list"]).contains("tokenizer") {
            break;
        }
        assert!(std::time::Instant::now() < deadline && child.try_wait().unwrap().is_none(), "{runs}");
    }
    assert!(child.wait().unwrap().success());
    let list = bench.succeeds(&["artifacts", "list", "--type", "model", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let digest = list["artifacts"][0]["digest"].as_str().unwrap().to_owned();
    assert!(bench.succeeds(&["artifacts", "show", &digest[..12]]).contains("model.safetensors"));
    assert!(bench.succeeds(&["artifacts", "verify"]).contains("sound"));
}

#[test]
fn every_experiment_and_pipeline_that_ships_is_valid() {
    let bench = Bench::new();
    assert!(Path::new(EXPERIMENT).is_file());
    for name in ["finetune-tulu", "word-frequency"] {
        let file = format!("{}/experiments/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        assert!(bench.succeeds(&["validate", &file]).contains("no errors"));
    }
    for profile in ["local", "smoke"] {
        bench.succeeds(&["validate", EXPERIMENT, "--profile", profile]);
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/evaluate.yaml");
    let model = concat!("params.model=", env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/eval/tiny/olmo2");
    assert!(bench.succeeds(&["validate", file, "--set", model]).contains("no errors"));
}
