//! Stage convert through the folder of an attempt.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs;
use std::path::Path;

use olmo_base::journal;
use olmo_data::{Chat, Conversation, Message, Role, Template, TextTokenizer};
use olmo_model::{ModelConfig, Parameters, WeightType};
use olmo_stage::{Context, Event, Stage as _, StageError};
use olmo_stage_convert::Convert;
use serde_json::{Value, json};

fn tokenizer(dir: &Path) -> TextTokenizer {
    fs::create_dir_all(dir).unwrap();
    let params = serde_json::from_value(json!({"vocab_size": 280})).unwrap();
    let bytes = olmo_stage_tokenizer::train(["One two three.".to_owned()].into_iter(), &params).unwrap();
    let tokenizer = TextTokenizer::from_bytes(dir, &bytes, "<|endoftext|>", "<|padding|>").unwrap();
    tokenizer.save(dir, &bytes).unwrap();
    tokenizer
}

/// An OLMo 2, an OLMo 1 (with a padded, tied embedding) and a Llama architecture.
fn configs(vocab_size: u32) -> [Value; 3] {
    let base = json!({
        "d_model": 16, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 32, "max_sequence_length": 48, "init_std": 0.3, "vocab_size": vocab_size,
        "layer_norm_type": "rms", "layer_norm_eps": 1e-6, "attention_layer_norm": true, "norm_after": true, "rope_theta": 500_000.0,
        "weight_tying": false
    });
    let olmo1 = json!({
        "layer_norm_type": "default", "layer_norm_with_affine": false, "layer_norm_eps": 1e-5, "attention_layer_norm": false,
        "norm_after": false, "rope_theta": 10000.0, "weight_tying": true, "embedding_size": 384, "clip_qkv": 8.0
    });
    let with = |changes: Value| {
        let mut config = base.clone();
        changes.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        config
    };
    let llama = json!({"attention_layer_norm": false, "norm_after": false, "n_kv_heads": 2, "weight_tying": true});
    [with(json!({"n_kv_heads": 2})), with(olmo1), with(llama)]
}

fn run(dir: &Path, config: &ModelConfig, name: &str) -> Result<(), StageError> {
    run_with(dir, config, name, json!({}))
}

fn run_with(dir: &Path, config: &ModelConfig, name: &str, params: Value) -> Result<(), StageError> {
    let (attempt, model) = (dir.join(name), dir.join(format!("{name}_model")));
    fs::create_dir_all(&attempt).unwrap();
    olmo_model::save_native(&model, config, &Parameters::init(config, 1).unwrap()).unwrap();
    let request = json!({
        "protocol": 2, "stage": "convert", "version": 2, "params": params,
        "inputs": {"model": [{"path": model}], "tokenizer": [{"path": dir.join("tokenizer")}]},
        "outputs": ["model", "report"], "state_dir": attempt.join("state"), "items": {}, "threads": 2, "compute": olmo_stage::Compute::FLEX
    });
    fs::write(attempt.join("request.json"), request.to_string()).unwrap();
    let mut context = Context::open(&attempt).unwrap();
    Convert::run(serde_json::from_value(params).unwrap(), &mut context)
}

#[test]
fn every_format_holds_the_same_weights_and_its_logits_are_those_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let special = tokenizer(&dir.path().join("tokenizer")).special().clone();
    for (index, config) in configs(special.vocab_size).into_iter().enumerate() {
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        let parameters = Parameters::init(&config, 1).unwrap();
        for (to, tokenizer) in [("huggingface", ""), ("olmo_core", "tokenizer/"), ("olmo", "")] {
            for dtype in ["float32", "bfloat16"] {
                let name = format!("{to}_{dtype}_{index}");
                run_with(dir.path(), &config, &name, json!({"to": to, "dtype": dtype})).unwrap();
                let model = dir.path().join(&name).join("out/model");
                let (read, weights) = olmo_model::load(&model).unwrap();
                let expected =
                    if dtype == "float32" { parameters.clone() } else { parameters.rounded(WeightType::Bfloat16) };
                assert!(weights == expected, "{name}");
                assert_eq!((read.d_model, read.kv_heads(), read.clip_qkv), (16, config.kv_heads(), config.clip_qkv));
                assert!(model.join(format!("{tokenizer}tokenizer.json")).is_file(), "{name}");
                let report = json_file(&dir.path().join(&name).join("out/report/report.json"));
                assert!(report["max_abs_difference"].as_f64().unwrap() <= 1e-5, "{name}: {report}");
            }
        }
    }
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_export_has_every_file_that_hugging_face_reads_and_the_same_logits() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(&dir.path().join("tokenizer"));
    let special = tokenizer.special();
    for (index, config) in configs(special.vocab_size).into_iter().enumerate() {
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        run(dir.path(), &config, &format!("a{index}")).unwrap();
        let out = dir.path().join(format!("a{index}/out"));
        let report = json_file(&out.join("report/report.json"));
        assert!(report["max_abs_difference"].as_f64().unwrap() <= 1e-5, "{report}");
        assert_eq!(report["tokens"], json!(96));
        let model = out.join("model");
        let template = fs::read_to_string(model.join("chat_template.jinja")).unwrap();
        let tokenizer_config = json_file(&model.join("tokenizer_config.json"));
        assert_eq!(tokenizer_config["chat_template"], json!(template));
        assert_eq!(tokenizer_config["tokenizer_class"], json!("PreTrainedTokenizerFast"));
        assert_eq!(tokenizer_config["model_max_length"], json!(48));
        let original = fs::read(dir.path().join("tokenizer/tokenizer.json")).unwrap();
        assert_eq!(fs::read(model.join("tokenizer.json")).unwrap(), original);
        assert_eq!(json_file(&model.join("generation_config.json"))["eos_token_id"], json!(special.eos_token_id));
        let (read, _) = olmo_model::load(&model).unwrap();
        assert_eq!(read.eos_token_ids, [special.eos_token_id]);
    }
}

/// A run that converts the Hugging Face model in folder `model`, and the warnings it gave.
fn convert_folder(dir: &Path, model: &Path, name: &str) -> (Result<(), StageError>, Vec<String>) {
    let attempt = dir.join(name);
    fs::create_dir_all(&attempt).unwrap();
    let request = json!({
        "protocol": 2, "stage": "convert", "version": 2, "params": {},
        "inputs": {"model": [{"path": model}], "tokenizer": [{"path": dir.join("tokenizer")}]},
        "outputs": ["model", "report"], "state_dir": attempt.join("state"), "items": {}, "threads": 2, "compute": olmo_stage::Compute::FLEX
    });
    fs::write(attempt.join("request.json"), request.to_string()).unwrap();
    let ended = Convert::run(serde_json::from_value(json!({})).unwrap(), &mut Context::open(&attempt).unwrap());
    let events: Vec<Event> = journal::read(&attempt.join("events.jsonl")).unwrap();
    let warning = |event| match event {
        Event::Message { level: olmo_stage::MessageLevel::Warning, text } => Some(text),
        _ => None,
    };
    (ended, events.into_iter().filter_map(warning).collect())
}

#[test]
fn an_export_of_an_import_has_its_tensors_and_a_tokenizer_that_neither_cuts_nor_fills() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(&dir.path().join("tokenizer"));
    let path = dir.path().join("tokenizer/tokenizer.json");
    let plain = fs::read_to_string(&path).unwrap();
    let config: ModelConfig = serde_json::from_value(configs(tokenizer.special().vocab_size)[1].clone()).unwrap();
    let model = dir.path().join("hf");
    let config = ModelConfig { eos_token_ids: vec![tokenizer.special().eos_token_id, 7], ..config };
    olmo_model::save_huggingface(&model, &config, &Parameters::init(&config, 3).unwrap(), WeightType::Float32, None)
        .unwrap();

    let (ended, warnings) = convert_folder(dir.path(), &model, "a");
    ended.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let export = dir.path().join("a/out/model");
    assert_eq!(fs::read_to_string(export.join("tokenizer.json")).unwrap(), plain);
    assert_eq!(fs::read(export.join("model.safetensors")).unwrap(), fs::read(model.join("model.safetensors")).unwrap());
    assert_eq!(
        json_file(&export.join("generation_config.json"))["eos_token_id"],
        json!([tokenizer.special().eos_token_id, 7])
    );
    // Embedding and two blocks of seven matrices; OLMo 1 has no norms, and the head is the embedding.
    assert_eq!(json_file(&dir.path().join("a/out/report/report.json"))["tensors"], json!(15));

    let padding = "\"padding\": {\"strategy\":{\"Fixed\":16},\"direction\":\"Right\",\"pad_to_multiple_of\":null,\"pad_id\":1,\"pad_type_id\":0,\"pad_token\":\"<|padding|>\"}";
    fs::write(&path, plain.replacen("\"padding\": null", padding, 1)).unwrap();
    let (ended, warnings) = convert_folder(dir.path(), &model, "b");
    ended.unwrap();
    assert_eq!(warnings, ["removed from the exported tokenizer.json: padding to 16 tokens"]);
    assert_eq!(fs::read_to_string(dir.path().join("b/out/model/tokenizer.json")).unwrap(), plain);
}

#[test]
fn the_exported_template_makes_the_text_that_was_trained() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(&dir.path().join("tokenizer"));
    let config: ModelConfig = serde_json::from_value(configs(tokenizer.special().vocab_size)[0].clone()).unwrap();
    run(dir.path(), &config, "a").unwrap();
    let turns = [(Role::System, "Be short. "), (Role::User, "1+1?"), (Role::Assistant, "2"), (Role::User, "2+2?")];
    let messages: Vec<Message> = turns.iter().map(|(role, text)| Message::new(*role, *text)).collect();
    let (_, chat) = Chat::of_huggingface(&dir.path().join("a/out/model"), None).unwrap();
    let conversation = Conversation { messages: messages.clone(), ..Conversation::default() };
    let text = chat.prompt(&conversation).unwrap();
    assert_eq!(text, Template::Tulu.render(&messages, "<|endoftext|>", true).text);
}

#[test]
fn a_model_that_hugging_face_cannot_express_and_a_foreign_tokenizer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(&dir.path().join("tokenizer"));
    let config: ModelConfig = serde_json::from_value(configs(tokenizer.special().vocab_size)[0].clone()).unwrap();
    let code = |name: &str, config: ModelConfig| match run(dir.path(), &config, name) {
        Err(StageError::Failed(failure) | StageError::OutOfMemory(failure)) => failure.code,
        other => panic!("a failure is expected, not {other:?}"),
    };
    assert_eq!(code("a", ModelConfig { norm_after: false, ..config.clone() }), "convert::model");
    assert_eq!(code("b", ModelConfig { eos_token_ids: vec![9], ..config.clone() }), "convert::eos");
    assert_eq!(code("c", ModelConfig { vocab_size: 100, ..config }), "convert::vocabulary");
}
