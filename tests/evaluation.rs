//! Evaluation on requests, with real processes: the experiment that ships, bad requests, and the
//! comparison of two runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

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
    assert!(said.contains("neither `prompts` nor `requests` is given"), "{said}");
    assert!(said.contains("`shots` has an effect only with the input `requests`"), "{said}");
    assert!(project.runs().is_empty(), "nothing ran");
}
