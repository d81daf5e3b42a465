//! Stage generate through the folder of an attempt.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs;
use std::path::Path;

use olmo_data::{Message, Role, Template, TextTokenizer};
use olmo_infer::{GenerateOptions, LanguageModel, generate, of_parameters};
use olmo_model::{ModelConfig, Parameters, WeightType};
use olmo_stage::{Context, Stage as _, StageError};
use olmo_stage_generate::Generate;
use serde_json::{Value, json};

/// A model folder as stage convert writes it, and what is needed to answer without the stage.
fn folder(dir: &Path) -> (TextTokenizer, Box<dyn LanguageModel>) {
    fs::create_dir_all(dir).unwrap();
    let params = serde_json::from_value(json!({"vocab_size": 280})).unwrap();
    let bytes = olmo_stage_tokenizer::train(["One two three.".to_owned()].into_iter(), &params).unwrap();
    fs::write(dir.join("tokenizer.json"), &bytes).unwrap();
    let tokenizer = TextTokenizer::from_bytes(dir, &bytes, "<|endoftext|>", "<|padding|>").unwrap();
    let special = tokenizer.special();
    let config: ModelConfig = serde_json::from_value(json!({
        "d_model": 16, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 32, "layer_norm_type": "rms",
        "layer_norm_eps": 1e-6, "attention_layer_norm": true, "norm_after": true, "rope_theta": 500_000.0,
        "weight_tying": false, "max_sequence_length": 80, "init_std": 0.5,
        "vocab_size": special.vocab_size, "eos_token_id": special.eos_token_id, "pad_token_id": special.pad_token_id
    }))
    .unwrap();
    let parameters = Parameters::init(&config, 2).unwrap();
    olmo_model::save_huggingface(dir, &config, &parameters, WeightType::Float32, None).unwrap();
    fs::write(dir.join("chat_template.jinja"), Template::Tulu.jinja()).unwrap();
    let settings = json!({"eos_token": {"content": "<|endoftext|>"}, "pad_token": "<|padding|>"});
    fs::write(dir.join("tokenizer_config.json"), settings.to_string()).unwrap();
    let model = of_parameters(&config, &parameters).unwrap();
    (tokenizer, model)
}

/// The model, and the folder of a file of prompts if there is one.
fn inputs(dir: &Path) -> Value {
    let mut inputs = json!({"model": [{"path": dir.join("model")}]});
    if dir.join("prompts").is_dir() {
        inputs["prompt_file"] = json!([{"path": dir.join("prompts")}]);
    }
    inputs
}

/// The records in `answers.jsonl`.
fn records(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("out/answers/answers.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn run(dir: &Path, params: Value) -> Result<String, StageError> {
    let request = json!({
        "protocol": 2, "stage": "generate", "version": 3, "params": params, "inputs": inputs(dir),
        "outputs": ["answers"], "state_dir": dir.join("state"), "items": {}, "threads": 2, "compute": olmo_stage::Compute::FLEX
    });
    fs::write(dir.join("request.json"), request.to_string()).unwrap();
    let mut context = Context::open(dir).unwrap();
    Generate::run(serde_json::from_value(params).unwrap(), &mut context)?;
    Ok(fs::read_to_string(dir.join("out/answers/answers.md")).unwrap())
}

#[test]
fn every_prompt_is_answered_through_the_folders_own_template() {
    let dir = tempfile::tempdir().unwrap();
    let (tokenizer, model) = folder(&dir.path().join("model"));
    let text =
        run(dir.path(), json!({"prompts": ["One?", "Two?"], "system": "Be kind.", "max_new_tokens": 5})).unwrap();
    for (number, prompt) in ["One?", "Two?"].into_iter().enumerate() {
        let messages = [Message::new(Role::System, "Be kind."), Message::new(Role::User, prompt)];
        let ids = tokenizer.encode_text(&Template::Tulu.render(&messages, "<|endoftext|>", true).text).unwrap();
        let options = GenerateOptions {
            max_new_tokens: 5,
            stop_token_ids: vec![tokenizer.special().eos_token_id],
            ..GenerateOptions::default()
        };
        let answer = tokenizer.decode(&generate(&*model, &[ids], &options).unwrap()[0], true).unwrap();
        let section =
            text.split("## ").find(|section| section.starts_with(&format!("Answer {}\n", number + 1))).unwrap();
        let visible: String = answer.chars().filter(|c| c.is_alphanumeric()).collect();
        assert!(!visible.is_empty() && visible.chars().all(|c| section.contains(c)), "{answer:?} in {section:?}");
        assert!(text.contains(&format!("## Prompt {}\n\n    {prompt}\n", number + 1)), "{text}");
    }
    assert!(text.contains("## System\n\n    Be kind.\n"));
    assert!(text.lines().all(|line| line.chars().all(|c| !c.is_control() || c == '\t')), "{text:?}");
}

#[test]
fn prompts_in_a_file_have_several_answers_with_log_probabilities() {
    let dir = tempfile::tempdir().unwrap();
    let (tokenizer, model) = folder(&dir.path().join("model"));
    fs::create_dir(dir.path().join("prompts")).unwrap();
    let lines = "{\"prompt\": \"One\"}\n{\"tokens\": [5, 6]}\n";
    fs::write(dir.path().join("prompts/prompts.jsonl"), lines).unwrap();
    let params = json!({"chat": false, "n": 2, "temperature": 1.0, "seed": 3, "max_new_tokens": 4, "logprobs": 1});
    let text = run(dir.path(), params.clone()).unwrap();
    assert!(text.contains("## Answer 1 (2 of 2)") && text.contains("## Prompt 2\n\n    tokens [5, 6]"), "{text}");
    let found = records(dir.path());
    assert_eq!(found.len(), 2);
    assert_eq!((&found[0]["prompt"], &found[1]["tokens"]), (&json!("One"), &json!([5, 6])));
    for (record, mut ids) in found.iter().zip([tokenizer.encode_text("One").unwrap(), vec![5, 6]]) {
        let answers = record["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 2);
        let logits = model.logits(&ids, 1, ids.len()).unwrap();
        let last = &logits[logits.len() - model.config().embedding_rows()..];
        let sum: f64 = last.iter().map(|logit| f64::from(*logit).exp()).sum();
        let token = answers[0]["tokens"][0].as_u64().unwrap();
        let logprob = answers[0]["logprobs"][0]["logprob"].as_f64().unwrap();
        assert!((logprob - (f64::from(last[token as usize]) - sum.ln())).abs() < 1e-5, "{logprob}");
        ids.push(0);
    }

    // An attempt that was stopped after the first prompt goes on with the second.
    fs::remove_dir_all(dir.path().join("out")).unwrap();
    fs::remove_file(dir.path().join("prompts/prompts.jsonl")).unwrap();
    fs::write(dir.path().join("prompts/prompts.jsonl"), lines).unwrap();
    run(dir.path(), params).unwrap();
    assert_eq!(records(dir.path()), found);
}

#[test]
fn prompts_are_given_once() {
    let dir = tempfile::tempdir().unwrap();
    folder(&dir.path().join("model"));
    let message = |params: Value| match run(dir.path(), params) {
        Err(StageError::Failed(failure)) => failure.message,
        other => panic!("a failure is expected, not {other:?}"),
    };
    assert!(message(json!({})).contains("there are no prompts"));
    assert!(message(json!({"prompts": ["a"], "chat": false, "system": "b"})).contains("`system`"));
    assert!(message(json!({"prompts": ["a"], "min_p": 2.0})).contains("`min_p`"));
    fs::create_dir(dir.path().join("prompts")).unwrap();
    fs::write(dir.path().join("prompts/prompts.txt"), "a\n").unwrap();
    assert!(message(json!({"prompts": ["a"]})).contains("both"));
}

#[test]
fn a_folder_that_is_not_whole_and_a_prompt_that_is_too_long_are_named() {
    let dir = tempfile::tempdir().unwrap();
    folder(&dir.path().join("model"));
    let message = |params: Value| match run(dir.path(), params) {
        Err(StageError::Failed(failure)) => failure.message,
        other => panic!("a failure is expected, not {other:?}"),
    };
    let long = message(json!({"prompts": ["fine", "x".repeat(100)]}));
    assert!(long.contains("prompt 2") && long.contains("80"), "{long}");
    assert!(message(json!({"prompts": []})).contains("prompts"));
    fs::write(dir.path().join("model/tokenizer_config.json"), "{}").unwrap();
    assert!(message(json!({"prompts": ["a"]})).contains("eos_token"));
    fs::remove_file(dir.path().join("model/chat_template.jinja")).unwrap();
    fs::write(dir.path().join("model/tokenizer_config.json"), r#"{"eos_token": "<|endoftext|>"}"#).unwrap();
    assert!(message(json!({"prompts": ["a"]})).contains("chat_template.jinja"));
}
