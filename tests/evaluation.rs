//! Evaluation on requests, with real processes: the experiment that ships, bad requests, and the
//! comparison of two runs.

use std::fs;
use std::path::{Path, PathBuf};

use olmo_pipe::run::RunEvent;
use serde_json::{Value, json};

use crate::flagship::Bench;
use crate::run::project::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A project with the experiment and the requests that ship, and two models.
fn project() -> Project {
    let project = Project::new();
    for file in [
        "experiments/evaluate.yaml",
        "pipelines/evaluate.yaml",
        "data/requests/larger.jsonl",
        "data/requests/category.jsonl",
        "data/requests/repeat.jsonl",
    ] {
        project.write(file, &fs::read_to_string(root().join(file)).unwrap());
    }
    for model in ["olmo1", "olmo2"] {
        let to = project.path(model);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(root().join("tests/fixtures/eval/tiny").join(model)).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    project
}

fn evaluate<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "experiments/evaluate.yaml", "--set", model][..], more].concat()
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_experiment_that_ships_keeps_every_answer_and_two_runs_are_compared_by_instance() {
    let project = project();
    let printed = project.succeeds(&evaluate("params.model=olmo1", &[]));
    assert!(printed.contains("larger: acc 0."), "{printed}");
    let metrics = value(&project.read("out/evaluate/metrics/metrics.json"));
    for (task, formulation, metric) in [
        ("larger", "multiple_choice", "acc"),
        ("category", "multiple_choice", "acc_norm"),
        ("repeat", "chat", "exact_match"),
    ] {
        let task = &metrics["tasks"][task];
        assert_eq!(
            (&task["formulation"], &task["instances"], &task["failed"]),
            (&json!(formulation), &json!(44), &json!(0))
        );
        let metric = &task["metrics"][metric];
        assert!(metric["value"].is_f64() && metric["stderr"].is_f64() && metric["n"] == json!(44), "{metric}");
    }
    let lines = project.read("out/evaluate/metrics/predictions.jsonl");
    let lines: Vec<Value> = lines.lines().map(value).collect();
    assert_eq!(lines.len(), 132);
    let prompt = lines[0]["prompts"][0].as_str().unwrap();
    assert!(prompt.ends_with("<|im_start|>assistant\n"), "{prompt}");
    assert!(project.path("out/evaluate/metrics/predictions.parquet").is_file());
    // The same again is a hit; other data of the same name is not.
    assert!(project.succeeds(&evaluate("params.model=olmo1", &[])).contains("cached, nothing ran"));
    project.succeeds(&evaluate("params.model=olmo2", &["--set", "params.shots=0"]));
    let ids: Vec<String> = project.runs().iter().map(|run| run.id.to_string()).collect();
    let (first, last) = (ids.first().unwrap().as_str(), ids.last().unwrap().as_str());

    let compared = value(&project.succeeds(&["runs", "compare", first, last, "--task", "larger", "--json"]));
    let table = &compared["tables"][0];
    assert_eq!((&table["metric"], &table["base"]["n"]), (&json!("acc"), &json!(44)));
    let comparison = &table["compared"][0]["comparison"];
    let other = value(&project.read("out/evaluate/metrics/metrics.json"));
    let acc = |metrics: &Value| metrics["tasks"]["larger"]["metrics"]["acc"]["value"].as_f64().unwrap();
    assert_eq!(comparison["mean_a"].as_f64().unwrap(), acc(&metrics));
    assert_eq!(comparison["mean_b"].as_f64().unwrap(), acc(&other));
    let counts = ["wins", "losses", "ties"].map(|name| comparison[name].as_u64().unwrap());
    assert_eq!(counts.iter().sum::<u64>(), 44);
    assert!(comparison["interval"].is_array() && comparison["detectable"].is_f64(), "{comparison}");
    let shown = project.succeeds(&["runs", "compare", first, last, "--task", "larger", "--metric", "bits_per_byte"]);
    assert!(shown.starts_with("bits_per_byte (lower is better)") && shown.contains("exact sign test"), "{shown}");

    let table = project.path("table.parquet");
    let parquet = ["runs", "compare", first, last, "--task", "larger", "--parquet", table.to_str().unwrap()];
    project.succeeds(&parquet);
    assert_eq!(&fs::read(&table).unwrap()[..4], b"PAR1");
    let ends = [format!("{first}:eval.metrics"), format!("{last}:eval.metrics")];
    let shown = project.succeeds(&["artifacts", "diff", &ends[0], &ends[1]]);
    assert!(shown.contains("changed  metrics.json"), "{shown}");
    assert!(shown.contains("larger: acc (higher is better), compared with ") && shown.contains("repeat: exact_match"));
    let difference = value(&project.succeeds(&["artifacts", "diff", &ends[0], &ends[1], "--json"]));
    let tasks = difference["tasks"].as_array().unwrap();
    assert_eq!(tasks.iter().map(|task| &task["task"]).collect::<Vec<_>>(), ["category", "larger", "repeat"]);
    assert_eq!(tasks[1]["tables"][0]["compared"][0]["comparison"]["difference"], comparison["difference"]);

    let output = project.run(&["runs", "compare", first, last, "--task", "unknown"]);
    assert!(said(&output).contains("tasks: category, larger, repeat"), "{}", said(&output));
    let output = project.run(&["runs", "compare", first, "--task", "larger"]);
    assert!(said(&output).contains("needs two evaluations of the task `larger`"), "{}", said(&output));
    let output = project.run(&["runs", "compare", first, last, "--task", "repeat", "--metric", "acc"]);
    assert!(said(&output).contains("there are: exact_match"), "{}", said(&output));
}

#[test]
fn a_bad_line_fails_the_run_with_its_file_and_number() {
    let project = project();
    let good = project.read("data/requests/larger.jsonl");
    project.write("data/requests/larger.jsonl", &format!("{good}{{\"doc_id\": 0\n"));
    let output = project.run(&evaluate("params.model=olmo1", &[]));
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("[eval::requests] larger.jsonl:45: the line is not a JSON object"), "{said}");
    assert!(said.contains("docs/evaluation.md"), "{said}");
}

#[test]
fn both_kinds_of_input_or_none_are_refused_before_anything_runs() {
    let project = project();
    project.experiment(
        "  tokenizer: {uses: tokenizer, with: {model: olmo1}}\n\
         \x20 eval: {uses: eval, with: {model: olmo1, tokenizer: '${stages.tokenizer.tokenizer}', shots: 5}}\n",
        "metrics: '${stages.eval.metrics}'",
    );
    let output = project.run(&["run", "e.yaml"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("none of `prompts`, `requests` and `memmaps` is given"), "{said}");
    assert!(said.contains("`shots` has an effect only with the input `requests`"), "{said}");
    assert!(project.runs().is_empty(), "nothing ran");
}

#[test]
fn checkpoints_are_evaluated_while_training_goes_on_and_the_weights_are_the_same_without() {
    // Long enough for an evaluation to start before the end.
    let settings = ["--set", "params.duration=200steps", "--set", "params.save_interval=40steps"];
    let bench = Bench::new();
    bench.succeeds(&bench.smoke(&settings));
    let events = bench.events();
    let position = |is: &dyn Fn(&RunEvent) -> bool| events.iter().position(|record| is(&record.event));
    let is_first_eval = |event: &RunEvent| matches!(event, RunEvent::Started { place, .. } if place.stage == "eval" && place.item.as_deref() == Some("step40"));
    let is_trained = |event: &RunEvent| matches!(event, RunEvent::Finished { place, .. } if place.stage == "train");
    let (evaluated, trained) = (position(&is_first_eval).unwrap(), position(&is_trained).unwrap());
    assert!(evaluated < trained, "the evaluation of step40 started after training had ended");
    let trained = |bench: &Bench| bench.last_run().stages.get("train").unwrap().instances[0].outputs.clone();
    let alone = Bench::new();
    alone.succeeds(&alone.smoke(&[&settings[..], &["--until", "train"]].concat()));
    assert!(alone.last_run().stages.get("eval").is_none_or(|stage| stage.instances.is_empty()));
    assert_eq!(trained(&bench), trained(&alone));
}

#[test]
fn every_evaluates_some_checkpoints_and_the_others_are_not_chosen() {
    let bench = Bench::new();
    let settings = ["--set", "stages.eval.every=4", "--set", "params.select={max: exact_match}"];
    let said = bench.succeeds(&bench.smoke(&settings));
    assert!(said.contains("not evaluated, and so not chosen: step2"), "{said}");
    let run = bench.last_run();
    let items: Vec<_> =
        run.stages.get("eval").unwrap().instances.iter().map(|instance| instance.item.clone().unwrap()).collect();
    assert_eq!(items, ["step4"]);
    let validate = ["validate", "experiments/finetune-tulu.yaml", "--set", "stages.best.every=2"];
    let output = bench.command(&validate).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(crate::run::project::said(&output).contains("has no effect without `for_each`"));
}

#[test]
fn what_lm_eval_wrote_becomes_metrics_that_are_compared_with_those_of_eval() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        olmo_base::testing::skip("this machine has no Python 3");
        return;
    }
    let fixtures = root().join("tests/fixtures/eval/lm_eval");
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&to).unwrap();
    fs::copy(fixtures.join("results-hf-olmo2.json"), from.join("results_2026-12-01T00-00-00.json")).unwrap();
    for entry in fs::read_dir(fixtures.join("samples-olmo2")).unwrap() {
        let path = entry.unwrap().path();
        let task = path.file_stem().unwrap().to_string_lossy().into_owned();
        fs::copy(&path, from.join(format!("samples_{task}_2026-12-01T00-00-00.jsonl"))).unwrap();
    }
    let code = "import convert, sys; convert.write(*convert.lm_eval(sys.argv[1]), sys.argv[2])";
    let convert = |from: &Path| {
        let mut python = std::process::Command::new("python3");
        python.env("PYTHONPATH", root().join("stages/harness")).env("PYTHONDONTWRITEBYTECODE", "1");
        python.args(["-c", code]).arg(from).arg(&to).output().unwrap()
    };
    let output = convert(&from);
    assert!(output.status.success(), "{}", said(&output));
    let metrics = value(&fs::read_to_string(to.join("metrics.json")).unwrap());
    let theirs = value(&fs::read_to_string(fixtures.join("results-hf-olmo2.json")).unwrap());
    for (task, metric) in [("tiny_mc", "acc_norm"), ("tiny_ppl", "word_perplexity"), ("tiny_gen", "exact_match")] {
        let found = &metrics["tasks"][task]["metrics"][metric];
        assert_eq!(found["value"], theirs["results"][task][format!("{metric},none")], "{task}");
        assert_eq!(metrics["tasks"][task]["shots"], theirs["n-shot"][task]);
    }
    assert_eq!(metrics["tasks"]["tiny_mc"]["primary"], json!("acc"));
    let text = fs::read_to_string(to.join("predictions.jsonl")).unwrap();
    let lines: Vec<olmo_eval::Prediction> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 24 + 24 + 12 + 12);
    let mean = |task: &str| {
        let own: Vec<f64> =
            lines.iter().filter(|line| line.task == task).map(|line| line.instance_metrics["acc"]).collect();
        own.iter().sum::<f64>() / own.len() as f64
    };
    assert!((mean("tiny_mc") - theirs["results"]["tiny_mc"]["acc,none"].as_f64().unwrap()).abs() < 1e-12);
    // No result is an error, not an empty one.
    let empty = tempfile::tempdir().unwrap();
    let output = convert(empty.path());
    assert!(!output.status.success() && said(&output).contains("0 files of results"), "{}", said(&output));
}

#[test]
fn a_harness_that_is_not_installed_is_found_before_the_run() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        olmo_base::testing::skip("this machine has no Python 3");
        return;
    }
    let project = project();
    for file in ["experiments/harness.yaml", "pipelines/harness.yaml"] {
        project.write(file, &fs::read_to_string(root().join(file)).unwrap());
    }
    for entry in fs::read_dir(root().join("stages/harness")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_file() {
            project.write(&format!("stages/harness/{name}"), &fs::read_to_string(&path).unwrap());
        }
    }
    let run =
        ["run", "experiments/harness.yaml", "--set", "params.model=olmo2", "--set", "params.python=no-such-python"];
    let output = project.run(&run);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("harness::python") && said.contains("cannot start `no-such-python`"), "{said}");
    assert!(said.contains("pip install -r"), "{said}");
}

#[test]
fn training_ends_when_a_task_no_longer_improves_and_its_weights_are_the_same_until_then() {
    let bench = Bench::new();
    let experiment = bench.dir.path().join("experiments/finetune-tulu.yaml");
    let text = fs::read_to_string(&experiment).unwrap();
    let settings = ["--set", "params.duration=12steps"];
    bench.succeeds(&bench.smoke(&[&settings[..], &["--until", "train"]].concat()));
    let store = bench.store();
    let checkpoints = |bench: &Bench| -> Vec<(String, olmo_base::Digest)> {
        let run = bench.last_run();
        let outputs = &run.stages.get("train").unwrap().instances[0].outputs;
        let olmo_pipe::store::Output::List(items) = &outputs["checkpoints"] else { panic!("a list") };
        let weights = |item: &olmo_pipe::store::ListItem| {
            store.manifest(item.digest).unwrap().files["model/model.safetensors"].digest
        };
        items.iter().map(|item| (item.label.clone(), weights(item))).collect()
    };
    let whole = checkpoints(&bench);
    assert_eq!(whole.len(), 6);
    // An accuracy cannot rise by 2, so the first evaluation after the start is the last.
    let stages = r#"
stages:
  train:
    with:
      requests: [../data/requests/larger.jsonl]
      tokenizer: "${stages.tokenizer.tokenizer}"
      eval_limit: 10
      early_stopping: {max: tasks.larger, patience: 1, min_delta: 2}
"#;
    fs::write(&experiment, format!("{text}{stages}")).unwrap();
    let said = bench.succeeds(&bench.smoke(&settings));
    assert!(said.contains("step 2 of 12 is the last: tasks.larger has not improved in 1 evaluations"), "{said}");
    assert_eq!(checkpoints(&bench), whole[..1]);
    let metrics = fs::read_to_string(bench.dir.path().join("out/finetune-tulu/metrics/metrics.jsonl")).unwrap();
    let last = value(metrics.lines().last().unwrap());
    assert_eq!(last["step"], json!(2));
    let score = &last["scores"]["tasks.larger"];
    assert!(score["value"].is_f64() && score["stderr"].is_f64() && last["eval_loss"].is_f64(), "{last}");

    let wrong = stages.replace("tasks.larger", "tasks.smaller");
    fs::write(&experiment, format!("{text}{wrong}")).unwrap();
    let output = bench.command(&bench.smoke(&settings)).output().unwrap();
    let said = crate::run::project::said(&output);
    assert!(said.contains("train::early_stopping") && said.contains("there are: tasks.larger"), "{said}");
    fs::write(
        &experiment,
        format!("{text}{}", stages.replace("      requests: [../data/requests/larger.jsonl]\n", "")),
    )
    .unwrap();
    let output = bench.command(&["validate", "experiments/finetune-tulu.yaml", "--profile", "smoke"]).output().unwrap();
    let said = crate::run::project::said(&output);
    assert!(said.contains("`requests` and `tokenizer` are given together"), "{said}");
    assert!(said.contains("waits for `tasks.larger`, but `requests` is not given"), "{said}");
}
