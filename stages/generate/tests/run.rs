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

fn run(dir: &Path, params: Value) -> Result<String, StageError> {
    let request = json!({
        "protocol": 2, "stage": "generate", "version": 1, "params": params, "inputs": {"model": [{"path": dir.join("model")}]},
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
