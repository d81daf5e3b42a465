//! Stage eval as on a GPU, with the CUDA text run by the emulator, against the results of olmo-eval.
#![cfg(feature = "libtorch")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod support;

use std::fs;
use std::path::PathBuf;

use olmo_stage::Compute;
use serde_json::{Value, json};
use support::{Results, fixtures};

/// How far a log-probability in bf16 may be from that in f32, for each token and on average.
///
/// bf16 has 8 bits of mantissa: a relative error of 2^-9 for each rounding, and about 20 roundings of
/// numbers of this size in a row.
const PER_TOKEN: f64 = 0.25;
const MEAN_PER_TOKEN: f64 = 0.05;

fn run(model: &str, tasks: &[&str], compute: Compute, params: Value) -> Results {
    // SAFETY: each test sets the same value before it starts anything, and nothing takes it back.
    unsafe { std::env::set_var("OLMO_PIPE_EMULATE_GPU", "1") };
    let files: Vec<PathBuf> =
        tasks.iter().map(|task| fixtures().join(format!("requests/serialized-{task}.jsonl"))).collect();
    support::run_on(&fixtures().join("tiny").join(model), &files, &[], params, compute).unwrap()
}

#[test]
fn requests_in_bf16_have_the_log_probabilities_of_olmo_eval_within_the_tolerance_of_bf16() {
    for model in ["olmo1", "olmo2"] {
        let golden = fs::read(fixtures().join(format!("requests/results-{model}.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let found = run(model, &["mc", "bpb"], Compute::CUDA, json!({"max_length": 72}));
        let (mut sum, mut tokens) = (0.0, 0.0);
        for (task, name) in [("mc", "serialized-mc"), ("bpb", "serialized-bpb")] {
            let own = found.predictions.iter().filter(|line| line["task"] == name);
            let outputs: Vec<&Value> = own.flat_map(|line| line["model_output"].as_array().unwrap()).collect();
            let rows = golden["tasks"][task]["rows"].as_array().unwrap();
            assert_eq!(outputs.len(), rows.len());
            for (got, want) in outputs.into_iter().zip(rows) {
                for key in ["num_tokens", "num_tokens_all"] {
                    assert_eq!(got[key], want[key], "{model} {task}: {key} of {want}");
                }
                let count = want["num_tokens"].as_f64().unwrap();
                let off = (got["sum_logits"].as_f64().unwrap() - want["sum_logits"].as_f64().unwrap()).abs();
                assert!(off <= PER_TOKEN * count.max(1.0), "{model} {task}: {got}, not {want}");
                sum += off;
                tokens += count;
            }
        }
        println!("{model}: log-probabilities in bf16 are off by {:.4} a token", sum / tokens);
        assert!(sum / tokens <= MEAN_PER_TOKEN, "{model}: {} a token", sum / tokens);
        assert_eq!(found.metrics["failed"], json!(0));
    }
}

#[test]
fn requests_in_f32_on_a_gpu_have_the_metrics_of_the_host() {
    let compute = Compute { precision: olmo_stage::compute::Precision::Fp32, ..Compute::CUDA };
    let params = json!({"max_length": 72, "precision": "fp32"});
    let gpu = run("olmo2", &["mc", "gen"], compute, params);
    let host = run("olmo2", &["mc", "gen"], Compute::FLEX, json!({"max_length": 72}));
    assert_eq!(gpu.predictions.len(), host.predictions.len());
    for (gpu, host) in gpu.predictions.iter().zip(&host.predictions) {
        let outputs = |line: &Value| line["model_output"].as_array().unwrap().clone();
        for (a, b) in outputs(gpu).iter().zip(outputs(host)) {
            assert_eq!((&a["text"], &a["num_tokens"]), (&b["text"], &b["num_tokens"]));
            if let (Some(a), Some(b)) = (a["sum_logits"].as_f64(), b["sum_logits"].as_f64()) {
                assert!((a - b).abs() <= 1e-3, "{a}, not {b}");
            }
        }
    }
    let value = |found: &Results| found.metrics["tasks"]["serialized-mc"]["metrics"]["acc"]["value"].clone();
    assert_eq!(value(&gpu), value(&host));
}
