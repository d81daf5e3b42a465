//! Runs stage eval on requests, with the models of tests/fixtures/eval.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::{Path, PathBuf};

use olmo_data::TextTokenizer;
use olmo_stage::{Compute, Context, Stage as _, StageError};
use olmo_stage_eval::Eval;
use serde_json::{Value, json};

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/eval")
}

/// The tokenizer of both models, written as an artifact into `dir`.
pub(crate) fn tokenizer(dir: &Path) -> TextTokenizer {
    let path = fixtures().join("tiny/olmo2/tokenizer.json");
    let tokenizer = TextTokenizer::from_file(&path, "<|endoftext|>", "<|pad|>").unwrap();
    fs::create_dir_all(dir).unwrap();
    tokenizer.save(dir, &fs::read(&path).unwrap()).unwrap();
    tokenizer
}

#[derive(Debug)]
pub(crate) struct Results {
    pub metrics: Value,
    pub predictions: Vec<Value>,
}

/// Runs the stage with the model in folder `model` on the files `requests`.
pub(crate) fn run(model: &Path, requests: &[PathBuf], params: Value) -> Result<Results, StageError> {
    run_with_memmaps(model, requests, &[], params)
}

/// Runs the stage on requests and on the memmaps in these folders.
pub(crate) fn run_with_memmaps(
    model: &Path,
    requests: &[PathBuf],
    memmaps: &[PathBuf],
    params: Value,
) -> Result<Results, StageError> {
    run_on(model, requests, memmaps, params, Compute::FLEX)
}

/// Runs the stage on requests and memmaps, computing as `compute` says.
pub(crate) fn run_on(
    model: &Path,
    requests: &[PathBuf],
    memmaps: &[PathBuf],
    params: Value,
    compute: Compute,
) -> Result<Results, StageError> {
    let dir = tempfile::tempdir().unwrap();
    tokenizer(&dir.path().join("tokenizer"));
    let memmaps: Vec<Value> = memmaps.iter().map(|path| json!({"path": path})).collect();
    let item = |(index, file): (usize, &PathBuf)| {
        let folder = dir.path().join(format!("requests{index}"));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
        json!({"path": folder})
    };
    let requests: Vec<Value> = requests.iter().enumerate().map(item).collect();
    let request = json!({
        "protocol": 2, "stage": "eval", "version": 1, "params": params,
        "inputs": {
            "model": [{"path": model}],
            "tokenizer": [{"path": dir.path().join("tokenizer")}],
            "requests": requests,
            "memmaps": memmaps
        },
        "outputs": ["metrics"], "state_dir": dir.path().join("state"), "items": {}, "threads": 2,
        "compute": compute
    });
    fs::write(dir.path().join("request.json"), request.to_string()).unwrap();
    let mut context = Context::open(dir.path()).unwrap();
    Eval::run(serde_json::from_value(params).unwrap(), &mut context)?;
    let read = |name: &str| fs::read_to_string(dir.path().join("out/metrics").join(name)).unwrap();
    let predictions = read("predictions.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Ok(Results { metrics: serde_json::from_str(&read("metrics.json")).unwrap(), predictions })
}
