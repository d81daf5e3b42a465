//! Stage eval through the folder of an attempt.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs;
use std::path::Path;

use olmo_data::conversation::strip;
use olmo_data::{Conversation, Message, Role, Template, TextTokenizer, dataset::DatasetWriter};
use olmo_infer::{GenerateOptions, generate, of_parameters};
use olmo_model::{ModelConfig, Parameters};
use olmo_stage::{Context, Stage as _, StageError};
use olmo_stage_eval::Eval;
use serde_json::{Value, json};

fn tokenizer(dir: &Path) -> TextTokenizer {
    fs::create_dir_all(dir).unwrap();
    let params = serde_json::from_value(json!({"vocab_size": 300})).unwrap();
    let texts = ["What is one plus one? Two of them, what is more."; 4].map(String::from);
    let bytes = olmo_stage_tokenizer::train(texts.into_iter(), &params).unwrap();
    let tokenizer = TextTokenizer::from_bytes(dir, &bytes, "<|endoftext|>", "<|padding|>").unwrap();
    tokenizer.save(dir, &bytes).unwrap();
    tokenizer
}

fn model(dir: &Path, tokenizer: &TextTokenizer) -> (ModelConfig, Parameters) {
    let special = tokenizer.special();
    let config: ModelConfig = serde_json::from_value(json!({
        "d_model": 16, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 32, "layer_norm_type": "rms",
        "layer_norm_eps": 1e-6, "attention_layer_norm": true, "norm_after": true, "rope_theta": 500_000.0,
        "weight_tying": false, "max_sequence_length": 64, "init_std": 0.5,
        "vocab_size": special.vocab_size, "eos_token_id": special.eos_token_id, "pad_token_id": special.pad_token_id
    }))
    .unwrap();
    let parameters = Parameters::init(&config, 5).unwrap();
    olmo_model::save_native(dir, &config, &parameters).unwrap();
    (config, parameters)
}

fn question(number: usize) -> Vec<Message> {
    vec![Message::new(Role::User, format!("What is {number} plus one?"))]
}

fn prompts(dir: &Path, conversations: Vec<Conversation>) {
    fs::create_dir_all(dir).unwrap();
    let mut writer = DatasetWriter::create(dir).unwrap();
    for conversation in conversations {
        writer.push(conversation).unwrap();
    }
    writer.finish(0).unwrap();
}

fn run(dir: &Path, name: &str, params: Value) -> Result<(Value, Vec<Value>), StageError> {
    let attempt = dir.join(name);
    fs::create_dir_all(&attempt).unwrap();
    let port = |name: &str| json!([{"path": dir.join(name)}]);
    let request = json!({
        "protocol": 2, "stage": "eval", "version": 1, "params": params,
        "inputs": {"model": port("model"), "tokenizer": port("tokenizer"), "prompts": port("prompts")},
        "outputs": ["metrics"], "state_dir": attempt.join("state"), "items": {}, "threads": 2, "compute": olmo_stage::Compute::FLEX
    });
    fs::write(attempt.join("request.json"), request.to_string()).unwrap();
    let mut context = Context::open(&attempt).unwrap();
    Eval::run(serde_json::from_value(params).unwrap(), &mut context)?;
    let read = |name: &str| fs::read_to_string(attempt.join("out/metrics").join(name)).unwrap();
    let answers = read("answers.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Ok((serde_json::from_str(&read("metrics.json")).unwrap(), answers))
}

fn failure(result: Result<(Value, Vec<Value>), StageError>) -> (String, String) {
    match result {
        Err(StageError::Failed(failure)) => (failure.code, failure.message),
        other => panic!("a failure is expected, not {other:?}"),
    }
}

#[test]
fn answers_are_compared_with_the_last_assistant_turn_family_by_family() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(&dir.path().join("tokenizer"));
    let (config, parameters) = model(&dir.path().join("model"), &tokenizer);
    // What the model says, found without the stage.
    let model = of_parameters(&config, &parameters).unwrap();
    let said = |messages: &[Message]| {
        let text = Template::Tulu.render(messages, &tokenizer.special().eos_token, true).text;
        let options = GenerateOptions {
            max_new_tokens: 6,
            stop_token_ids: vec![tokenizer.special().eos_token_id],
            ..GenerateOptions::default()
        };
        let ids = generate(&*model, &[tokenizer.encode_text(&text).unwrap()], &options).unwrap().remove(0);
        strip(&tokenizer.decode(&ids, true).unwrap()).to_owned()
    };
    let conversation = |number: usize| {
        let mut messages = question(number);
        let right = said(&messages);
        let expected = if number.is_multiple_of(3) { format!("{right}, or so") } else { format!("\n{right} ") };
        messages.push(Message::new(Role::Assistant, expected));
        // What comes behind the last answer is not asked.
        messages.push(Message::new(Role::User, "Thanks"));
        Conversation {
            dataset: ["even", "odd"][number % 2].into(),
            id: format!("q{number}"),
            messages,
            ..Conversation::default()
        }
    };
    prompts(&dir.path().join("prompts"), (0..40).map(conversation).collect());
    let (metrics, answers) = run(dir.path(), "a", json!({"max_new_tokens": 6})).unwrap();
    assert_eq!((&metrics["count"], &metrics["too_long"]), (&json!(40), &json!(0)));
    assert_eq!(metrics["exact_match"], json!(26.0 / 40.0));
    assert_eq!(
        metrics["families"],
        json!({"even": {"exact_match": 13.0 / 20.0, "count": 20}, "odd": {"exact_match": 13.0 / 20.0, "count": 20}})
    );
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!((&answer["record"], &answer["id"]), (&json!(number), &json!(format!("q{number}"))));
        assert_eq!(answer["answer"], json!(said(&question(number))));
        assert_eq!(answer["exact_match"], json!(!number.is_multiple_of(3)));
    }
    let (limited, some) = run(dir.path(), "b", json!({"max_new_tokens": 6, "limit": 5})).unwrap();
    assert_eq!(limited["count"], json!(5));
    assert_eq!(some, answers[..5]);
}

#[test]
fn a_prompt_without_room_for_an_answer_counts_as_wrong_and_one_with_little_room_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(&dir.path().join("tokenizer"));
    model(&dir.path().join("model"), &tokenizer);
    let conversation = |length: usize| Conversation {
        dataset: "lengths".into(),
        id: length.to_string(),
        messages: vec![Message::new(Role::User, "7".repeat(length)), Message::new(Role::Assistant, "no")],
        ..Conversation::default()
    };
    let frame = tokenizer
        .encode_text(&Template::Tulu.render(&[Message::new(Role::User, "")], "<|endoftext|>", true).text)
        .unwrap()
        .len();
    prompts(&dir.path().join("prompts"), vec![conversation(64 - frame), conversation(63 - frame), conversation(1)]);
    let (metrics, answers) = run(dir.path(), "a", json!({"max_new_tokens": 3})).unwrap();
    assert_eq!(metrics["too_long"], json!(1));
    assert_eq!(answers.iter().map(|answer| answer["answer"].is_null()).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(&dir.path().join("tokenizer"));
    let (config, _) = model(&dir.path().join("model"), &tokenizer);
    let unanswered =
        Conversation { dataset: "a".into(), id: "q7".into(), messages: question(7), ..Conversation::default() };
    prompts(&dir.path().join("prompts"), vec![unanswered]);
    let (code, message) = failure(run(dir.path(), "a", json!({})));
    assert!(code == "eval::no_answer" && message.contains("none of 1 conversations"), "{message}");
    let other = ModelConfig { eos_token_ids: vec![9], ..config };
    olmo_model::save_native(&dir.path().join("model"), &other, &Parameters::init(&other, 0).unwrap()).unwrap();
    let (code, message) = failure(run(dir.path(), "b", json!({})));
    assert!(code == "eval::eos" && message.contains("id 9"), "{message}");
    let small = ModelConfig { vocab_size: 100, ..other };
    olmo_model::save_native(&dir.path().join("model"), &small, &Parameters::init(&small, 0).unwrap()).unwrap();
    let (code, message) = failure(run(dir.path(), "c", json!({})));
    assert!(code == "eval::vocabulary" && message.contains("100"), "{message}");
}
