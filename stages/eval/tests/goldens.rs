//! Stage eval against the results of olmo-eval and lm-evaluation-harness
//! (tests/fixtures/eval/README.md).

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use olmo_eval::{Encoded, Encoding, Prompt, TokenRules, Work, encode_choice};
use serde_json::{Value, json};
use support::{Results, fixtures, tokenizer};

const MODELS: [&str; 2] = ["olmo1", "olmo2"];

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(fixtures().join(path)).unwrap()).unwrap()
}

fn run(model: &str, requests: &[PathBuf], params: Value) -> Results {
    support::run(&fixtures().join("tiny").join(model), requests, params).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn assert_close(got: &Value, want: &Value, tolerance: f64, what: &str) {
    let (got, want) = (number(got), number(want));
    assert!((got - want).abs() <= tolerance * want.abs().max(1e-9), "{what}: {got}, not {want}");
}

/// CRC-32 of ids as little-endian u32, bit by bit.
fn crc32(ids: &[u32]) -> u64 {
    let mut crc = u32::MAX;
    for byte in ids.iter().flat_map(|id| id.to_le_bytes()) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    u64::from(!crc)
}

#[test]
fn requests_have_the_tokens_of_olmo_eval() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(dir.path());
    let rules = TokenRules {
        prefix_token: tokenizer.special().eos_token_id,
        max_length: 72,
        encoding: Encoding::Joint,
        first_token: None,
    };
    let results = read("requests/results-olmo2.json");
    for task in ["mc", "bpb"] {
        let file = fs::read(fixtures().join(format!("requests/serialized-{task}.jsonl"))).unwrap();
        let requests = olmo_eval::read(&file[..], task, task).unwrap();
        let mut rows = results["tasks"][task]["rows"].as_array().unwrap().iter();
        let mut cut = 0;
        for instance in &requests.instances {
            let Work::Choose { choices, .. } = &instance.work else { panic!("a choice") };
            for choice in choices {
                let row = rows.next().unwrap();
                let Prompt::Text(prompt) = &choice.prompt else { panic!("a text") };
                let encode = |text: &str| tokenizer.encode_text(text);
                let Encoded { context, continuation, cut: own } =
                    encode_choice(prompt, &choice.continuation, rules, encode).unwrap();
                cut += usize::from(own > 0);
                let mut input: Vec<u32> = context.iter().chain(&continuation).copied().collect();
                let all = input.len();
                if !continuation.is_empty() {
                    input.pop();
                }
                assert_eq!(crc32(&input), row["input_crc32"].as_u64().unwrap(), "{task} {row}");
                assert_eq!(crc32(&continuation), row["continuation_crc32"].as_u64().unwrap(), "{task} {row}");
                assert_eq!(json!([all, all + own]), json!([row["num_tokens_all"], row["full_tokens"]]), "{task} {row}");
            }
        }
        assert!(rows.next().is_none() && cut > 3);
    }
}

/// The results of both files of a task must be equal.
fn both_forms(model: &str, tasks: &[&str]) -> Results {
    let files = |form: &str| -> Vec<PathBuf> {
        tasks.iter().map(|task| fixtures().join(format!("requests/{form}-{task}.jsonl"))).collect()
    };
    let params = json!({"max_length": 72});
    let serialized = run(model, &files("serialized"), params.clone());
    let oe_eval = run(model, &files("requests"), params);
    let content = |results: &Results| -> Vec<Value> {
        let mut lines = results.predictions.clone();
        for line in &mut lines {
            line.as_object_mut().unwrap().remove("task");
        }
        lines
    };
    assert_eq!(content(&serialized), content(&oe_eval), "{model}");
    serialized
}

#[test]
fn scores_and_metrics_are_those_of_olmo_eval() {
    for model in MODELS {
        let golden = read(format!("requests/results-{model}.json"));
        let found = both_forms(model, &["mc", "bpb"]);
        let mut worst = 0f64;
        for (task, name) in [("mc", "serialized-mc"), ("bpb", "serialized-bpb")] {
            let own: Vec<&Value> = found.predictions.iter().filter(|line| line["task"] == name).collect();
            let outputs: Vec<&Value> = own.iter().flat_map(|line| line["model_output"].as_array().unwrap()).collect();
            let rows = golden["tasks"][task]["rows"].as_array().unwrap();
            assert_eq!(outputs.len(), rows.len());
            for (got, want) in outputs.into_iter().zip(rows) {
                for key in ["num_tokens", "num_tokens_all", "is_greedy"] {
                    assert_eq!(got[key], want[key], "{model} {task}: {key} of {want}");
                }
                assert_eq!(got["num_chars"], want["chars"], "{model} {task}");
                let off = (number(&got["sum_logits"]) - number(&want["sum_logits"])).abs();
                worst = worst.max(off);
                assert!(off <= 1e-4 + 1e-5 * number(&want["num_tokens"]), "{model} {task}: {got}, not {want}");
            }
            let names = BTreeMap::from([
                ("acc", "acc"),
                ("acc_per_char", "acc_per_char"),
                ("acc_per_token", "acc_per_token"),
                ("greedy_accuracy_of_gold", "greedy"),
                ("bits_per_byte_instance_avg", "bits_per_byte"),
                ("bits_per_byte_byte_avg", "corpus_bits_per_byte"),
                ("mean_perplexity", "perplexity"),
            ]);
            let metrics = &found.metrics["tasks"][name];
            let wanted = golden["tasks"][task]["metrics"].as_object().unwrap();
            for (key, want) in wanted {
                let name = names[key.as_str()];
                let exact = name.starts_with("acc") || name == "greedy";
                let what = format!("{model} {task}: {name}");
                let metric = &metrics["metrics"][name];
                // A perplexity is an exponential of sums, whose tolerance is absolute.
                let tolerance = if exact { 1e-15 } else { 2e-5 };
                assert_close(&metric["value"], want, tolerance, &what);
                assert_eq!(metric["n"], json!(own.len()), "{what}");
            }
            for (line, want) in own.iter().zip(golden["tasks"][task]["per_doc"].as_array().unwrap()) {
                for (key, want) in want.as_object().unwrap() {
                    let what = format!("{model} {task} {}: {key}", line["doc_id"]);
                    assert_close(&line["instance_metrics"][names[key.as_str()]], want, 2e-5, &what);
                }
            }
            assert_eq!(metrics["failed"], json!(0));
        }
        println!("{model}: the largest difference of a sum of log-probabilities is {worst:.1e}");
        assert_eq!(found.metrics["tasks"]["serialized-mc"]["formulation"], json!("multiple_choice"));
        assert_eq!(found.metrics["truncated"], json!(8), "those of kinds 4 and 1");
    }
}

#[test]
fn generated_texts_are_those_of_olmo_eval() {
    for model in MODELS {
        let golden = read(format!("requests/results-{model}.json"));
        let found = both_forms(model, &["gen"]);
        let rows = golden["tasks"]["gen"]["rows"].as_array().unwrap();
        assert_eq!(found.predictions.len(), rows.len());
        for (line, row) in found.predictions.iter().zip(rows) {
            assert_eq!(line["model_output"][0]["text"], row["text"], "{model} {}", row["doc_id"]);
            // No correct answer is given, so there is nothing to compare.
            assert_eq!(line["instance_metrics"], json!({}));
        }
        assert_eq!(found.metrics["tasks"]["serialized-gen"]["metrics"], json!({}));
    }
}

#[test]
fn results_are_those_of_lm_eval() {
    for model in MODELS {
        let golden = read(format!("lm_eval/results-hf-{model}.json"));
        let tasks = ["tiny_mc", "tiny_mc_2shot", "tiny_ppl", "tiny_gen"];
        let samples = |task: &str| fixtures().join(format!("lm_eval/samples-{model}/{task}.jsonl"));
        let files: Vec<PathBuf> = tasks.iter().map(|task| samples(task)).collect();
        let params = json!({"max_length": 96, "normalizers": ["ignore_case"]});
        let found = run(model, &files, params);
        let mut worst = 0f64;
        for task in tasks {
            let own: Vec<&Value> = found.predictions.iter().filter(|line| line["task"] == task).collect();
            let lines = fs::read_to_string(samples(task)).unwrap();
            let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(own.len(), lines.len());
            for (got, want) in own.iter().zip(&lines) {
                let responses = want["filtered_resps"].as_array().unwrap();
                for (got, want) in got["model_output"].as_array().unwrap().iter().zip(responses) {
                    if task == "tiny_gen" {
                        assert_eq!(got["text"], *want, "{model}");
                        continue;
                    }
                    let (sum, greedy) = match want {
                        Value::Array(pair) => (pair[0].as_str().unwrap(), pair[1].as_str()),
                        other => (other.as_str().unwrap(), None),
                    };
                    let off = (number(&got["sum_logits"]) - sum.parse::<f64>().unwrap()).abs();
                    worst = worst.max(off);
                    assert!(off <= 1e-4, "{model} {task}: {got}, not {want}");
                    if let Some(greedy) = greedy {
                        assert_eq!(got["is_greedy"], json!(greedy == "True"), "{model} {task}: {want}");
                    }
                }
                for name in ["acc", "acc_norm", "acc_bytes", "exact_match"] {
                    if let Some(want) = want.get(name) {
                        assert_eq!(&got["instance_metrics"][name], want, "{model} {task} {}: {name}", got["doc_id"]);
                    }
                }
            }
            let metrics = &found.metrics["tasks"][task]["metrics"];
            for (key, want) in golden["results"][task].as_object().unwrap() {
                let Some((name, _)) = key.split_once(',') else { continue };
                let what = format!("{model} {task}: {key}");
                match name.split_once("_stderr") {
                    None => assert_close(&metrics[name]["value"], want, 1e-5, &what),
                    // It gives none for ratios.
                    Some(_) if want == "N/A" => {}
                    Some((name, _)) => assert_close(&metrics[name]["stderr"], want, 1e-12, &what),
                }
            }
        }
        println!("{model}: the largest difference of a sum of log-probabilities is {worst:.1e}");
    }
}

#[test]
fn a_limit_or_another_file_beside_it_changes_no_bit_of_a_result() {
    let file = |task: &str| fixtures().join(format!("requests/serialized-{task}.jsonl"));
    let all = run("olmo2", &[file("mc"), file("bpb")], json!({}));
    let some = run("olmo2", &[file("bpb")], json!({"limit": 7}));
    let own: Vec<&Value> = all.predictions.iter().filter(|line| line["task"] == "serialized-bpb").take(7).collect();
    assert_eq!(own, some.predictions.iter().collect::<Vec<_>>());
}
