//! `olmo-pipe logits` through both real binaries.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::run::project::said;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn logits(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    command.arg("logits").args(arguments).current_dir(dir);
    for variable in ["OLMO_PIPE_STORE", "OLMO_PIPE_WORKER"] {
        command.env_remove(variable);
    }
    command.output().unwrap()
}

fn json_of(dir: &Path, arguments: &[&str]) -> Value {
    let output = logits(dir, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn logits_are_those_of_transformers_and_log_probabilities_follow_from_them() {
    let cases: Value = serde_json::from_slice(&std::fs::read(fixture("hf_tiny/cases.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, case) in cases["cases"].as_object().unwrap() {
        let ids: Vec<String> = case["input_ids"][0].as_array().unwrap().iter().map(Value::to_string).collect();
        let folder = fixture("hf_tiny").join(name);
        let answer =
            json_of(dir.path(), &[folder.to_str().unwrap(), "--tokens", &ids.join(","), "--top", "2", "--all"]);
        let positions = answer["positions"].as_array().unwrap();
        assert_eq!((answer["format"].as_u64(), positions.len()), (Some(1), ids.len()));
        let numbers = |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        let mut next: Option<Vec<f64>> = None;
        for (position, expected) in positions.iter().zip(case["logits"][0].as_array().unwrap()) {
            let (row, expected) = (numbers(&position["logits"]), numbers(expected));
            assert_eq!(row.len(), expected.len());
            for (ours, theirs) in row.iter().zip(&expected) {
                assert!((ours - theirs).abs() < 5e-5, "{name}: {ours} {theirs}");
            }
            let own = position["log_probability"].as_f64();
            assert_eq!(own.is_none(), next.is_none());
            if let (Some(own), Some(row)) = (own, &next) {
                let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
                let token = position["token"].as_u64().unwrap() as usize;
                assert!((own - (row[token] - sum.ln())).abs() < 1e-9, "{own}");
            }
            let largest = row.iter().copied().fold(f64::MIN, f64::max);
            assert_eq!(position["top"].as_array().unwrap().len(), 2);
            assert_eq!(position["top"][0]["logit"].as_f64(), Some(largest));
            next = Some(row);
        }
    }
}

#[test]
fn text_is_encoded_with_the_models_tokenizer_and_errors_say_what_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("hf_chat");
    let model = model.to_str().unwrap();
    let output = logits(dir.path(), &[model, "--text", "Hello", "--top", "1"]);
    let text = said(&output);
    assert!(output.status.success() && text.starts_with("position  token"), "{text}");
    let answer = json_of(dir.path(), &[model, "--text", "Hello"]);
    let texts: Vec<&str> =
        answer["positions"].as_array().unwrap().iter().map(|p| p["text"].as_str().unwrap()).collect();
    assert_eq!(texts.concat(), "Hello");
    let ids: Vec<String> = answer["positions"].as_array().unwrap().iter().map(|p| p["token"].to_string()).collect();
    assert_eq!(json_of(dir.path(), &[model, "--tokens", &ids.join(",")]), answer);
    assert_eq!(text.contains("log-probability of tokens 1 to"), ids.len() > 1, "{text}");

    let bare = fixture("hf_tiny/olmo2");
    for (arguments, code, words) in [
        (vec![model, "--tokens", "1,100000"], 6, "token id 100000 (row 0, place 1) is beyond"),
        (vec![bare.to_str().unwrap(), "--text", "Hello"], 6, "has no tokenizer, which --text needs"),
        (vec!["./nowhere", "--tokens", "1"], 6, "there is no ./nowhere"),
        (vec![model], 2, "--text"),
        (vec![model, "--tokens", "1,x"], 2, "invalid value 'x'"),
        (vec![model, "--tokens", "1", "--all"], 2, "--json"),
        (vec![dir.path().to_str().unwrap(), "--tokens", "1"], 6, "is an empty folder"),
    ] {
        let output = logits(dir.path(), &arguments);
        let text = said(&output);
        assert!(output.status.code() == Some(code) && text.contains(words), "{arguments:?}: {text}");
    }
    let long = vec!["1"; 257].join(",");
    let text = said(&logits(dir.path(), &[model, "--tokens", &long]));
    assert!(text.contains("257 tokens are more than the model's maximum sequence length of 256"), "{text}");
}

#[test]
fn help_shows_the_options_and_not_the_workers_name() {
    let output = logits(Path::new("."), &["--help"]);
    let text = said(&output);
    assert!(text.contains("Usage: olmo-pipe logits") && !text.contains("olmo-worker"), "{text}");
    assert_eq!(json!(output.status.code()), json!(0));
}
