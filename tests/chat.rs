//! The chat template, from the tokenizer to the exported model: it is named once, recorded
//! everywhere, and used by every stage that queries the model.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::run::project::*;

const CHATS: [(&str, &str); 4] =
    [("hello", "one two"), ("the cat", "four five"), ("say it", "it is"), ("a colour", "blue sky")];
/// A template that is not built in.
const OWN: &str = "{%- for m in messages %}{{- '### ' + m.role + '\\n' + m.content + '<|im_end|>' }}{%- endfor %}\
                   {%- if add_generation_prompt %}{{- '### assistant\\n' }}{%- endif %}";

/// A project that trains a tiny model on four chats and lets it answer. `tokenizer`, `tokens`,
/// `eval` and `convert` are added to the `with` of the stages.
fn project(tokenizer: &str, tokens: &str, eval: &str, convert: &str, steps: usize) -> Project {
    let project = Project::new();
    let line = |(question, answer): (&str, &str)| {
        json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
            .to_string()
    };
    project.write("chats.jsonl", &CHATS.map(line).join("\n"));
    project.write("own.jinja", OWN);
    project.experiment(
        &format!(
            "  chats: {{uses: fetch, with: {{files: [chats.jsonl]}}}}\n\
             \x20 tokenizer: {{uses: tokenizer, with: {{documents: ['${{stages.chats.dataset}}'], vocab_size: 270{tokenizer}}}}}\n\
             \x20 tokens: {{uses: tokenize, with: {{documents: '${{stages.chats.dataset}}', tokenizer: '${{stages.tokenizer.tokenizer}}'{tokens}}}}}\n\
             \x20 rows: {{uses: memmap, with: {{tokens: '${{stages.tokens.tokens}}', sequence_length: 64, pack: padded}}}}\n\
             \x20 train: {{uses: train, with: {{data: '${{stages.rows.memmap}}', model: {{preset: olmo2, d_model: 32, n_heads: 2, n_layers: 2, mlp_hidden_size: 64, init_cutoff_factor: null}}, \
             max_duration: {steps}steps, global_train_batch_size: 4, optimizer: {{learning_rate: 0.01, weight_decay: 0.1, eps: 1.0e-8}}, max_grad_norm: 1.0, scheduler: {{t_warmup: 5}}, save_interval: null}}}}\n\
             \x20 eval: {{uses: eval, with: {{model: '${{stages.train.model}}', tokenizer: '${{stages.tokenizer.tokenizer}}', prompts: '${{stages.chats.dataset}}', max_new_tokens: 20{eval}}}}}\n\
             \x20 convert: {{uses: convert, with: {{model: '${{stages.train.model}}', tokenizer: '${{stages.tokenizer.tokenizer}}'{convert}}}}}\n\
             \x20 generate: {{uses: generate, with: {{model: '${{stages.convert.model}}', prompts: [hello, the cat], max_new_tokens: 20}}}}\n"
        ),
        "model: '${stages.convert.model}', eval: '${stages.eval.metrics}', answers: '${stages.generate.answers}'",
    );
    project
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Runs the project, which must fail in `stage`. Returns its output.
fn failure(project: &Project, stage: &str) -> String {
    let output = project.run(&["run", "e.yaml"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("  {stage}: [")), "{said}");
    said
}

#[test]
fn a_template_that_is_named_once_is_trained_asked_and_exported_and_its_end_stops_answers() {
    // `<|im_end|>` must end an answer even though the tokenizer's eos is another token.
    let project = project(", template: chatml", "", "", "", 300);
    let said = project.succeeds(&["run", "e.yaml"]);
    assert!(said.contains("an answer ends with `<|im_end|>`"), "{said}");
    let model = project.path("out/e/model");
    let generation = json_file(&model.join("generation_config.json"));
    let ids = generation["eos_token_id"].as_array().unwrap();
    let tokenizer = json_file(&model.join("tokenizer.json"));
    let id = |token: &str| {
        let added = tokenizer["added_tokens"].as_array().unwrap().iter().find(|added| added["content"] == token);
        added.unwrap()["id"].clone()
    };
    assert_eq!(ids, &[id("<|im_end|>"), id("<|endoftext|>")]);
    assert_eq!(json_file(&model.join("special_tokens_map.json"))["additional_special_tokens"], json!(["<|im_end|>"]));
    assert_eq!(json_file(&project.path("out/e/eval/metrics.json"))["exact_match"], json!(1.0));
    let answers = project.read("out/e/answers/answers.md");
    assert!(answers.contains("    one two\n") && answers.contains("    four five\n"), "{answers}");
}

#[test]
fn a_template_of_ones_own_is_in_the_export_as_it_is() {
    let project = project(", eos_token: '<|im_end|>'", ", template: jinja, chat_template: own.jinja", "", "", 2);
    project.succeeds(&["run", "e.yaml"]);
    assert_eq!(project.read("out/e/model/chat_template.jinja"), OWN);
    let config = json_file(&project.path("out/e/model/tokenizer_config.json"));
    assert_eq!(config["chat_template"], json!(OWN));
}

#[test]
fn two_templates_in_one_pipeline_are_an_error_that_shows_both() {
    let said = failure(&project(", template: chatml", ", template: tulu", "", "", 2), "tokens");
    assert!(said.contains("tokenize::other_template"), "{said}");
    assert!(said.contains("template `chatml`, whose answers end with `<|im_end|>`"), "{said}");
    assert!(said.contains("template `tulu`, whose answers end with `<|endoftext|>`"), "{said}");
    for (eval, convert, stage) in [(", template: olmo2", "", "eval"), ("", ", template: olmo2", "convert")] {
        let said = failure(&project("", ", template: tulu", eval, convert, 2), stage);
        assert!(
            said.contains("the model has template `tulu`") && said.contains("the params set template `olmo2`"),
            "{said}"
        );
    }
}

#[test]
fn a_template_that_ends_answers_with_no_token_is_refused_before_anything_is_tokenized() {
    // This tokenizer is trained without the template, so `<|im_end|>` is ten ordinary tokens.
    let said = failure(&project("", ", template: chatml", "", "", 2), "tokens");
    assert!(said.contains("no token ends an answer") && said.contains("<|im_end|>"), "{said}");
    assert!(!said.contains("tokenising"), "{said}");
}

#[test]
fn generate_finds_the_template_in_either_file_and_stops_at_every_id_of_the_generation_config() {
    let project = project(", template: chatml", "", "", "", 300);
    project.succeeds(&["run", "e.yaml", "--until", "convert"]);
    project.succeeds(&["artifacts", "export", "latest:convert.model", "--to", "plain", "--how", "copy"]);
    fs::remove_file(project.path("plain/chat_template.jinja")).unwrap();
    let ask = |project: &Project| {
        project.write(
            "ask.yaml",
            "experiment: ask\nuses: empty.yaml\nstages:\n  generate: {uses: generate, with: {model: plain, prompts: [hello], max_new_tokens: 20}}\noutputs: {answers: '${stages.generate.answers}'}\n",
        );
        project.write("empty.yaml", "pipeline: empty\nstages: {}\n");
        project.succeeds(&["run", "ask.yaml"]);
        project.read("out/ask/answers/answers.md")
    };
    let answers = ask(&project);
    assert!(answers.contains("    one two\n"), "{answers}");
    // Now the first token of the answer ends it.
    let tokenizer = json_file(&project.path("plain/tokenizer.json"));
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut first: Vec<u64> = vocabulary
        .iter()
        .filter(|(token, _)| "one two".starts_with(token.as_str()))
        .map(|(_, id)| id.as_u64().unwrap())
        .collect();
    first.sort_unstable();
    let path = project.path("plain/generation_config.json");
    let mut generation = json_file(&path);
    generation["eos_token_id"].as_array_mut().unwrap().extend(first.into_iter().map(Value::from));
    fs::write(&path, generation.to_string()).unwrap();
    let answers = ask(&project);
    assert!(answers.contains("(empty)"), "{answers}");
}

#[test]
fn a_model_is_trained_on_with_its_own_tokenizer_and_template() {
    let project = project(", template: chatml", "", "", "", 300);
    project.succeeds(&["run", "e.yaml", "--until", "convert"]);
    project.succeeds(&["artifacts", "export", "latest:convert.model", "--to", "given", "--how", "copy"]);
    let tune = |with: &str| {
        project.write("empty.yaml", "pipeline: empty\nstages: {}\n");
        project.write(
            "tune.yaml",
            &format!(
                "experiment: tune\nuses: empty.yaml\nstages:\n\
                 \x20 chats: {{uses: fetch, with: {{files: [chats.jsonl]}}}}\n\
                 \x20 tokenizer: {{uses: tokenizer, with: {{model: given{with}}}}}\n\
                 \x20 tokens: {{uses: tokenize, with: {{documents: '${{stages.chats.dataset}}', tokenizer: '${{stages.tokenizer.tokenizer}}'}}}}\n\
                 \x20 rows: {{uses: memmap, with: {{tokens: '${{stages.tokens.tokens}}', sequence_length: 64, pack: padded}}}}\n\
                 \x20 train: {{uses: train, with: {{data: '${{stages.rows.memmap}}', init: given, max_duration: 4steps, global_train_batch_size: 4, optimizer: {{learning_rate: 0.001}}, save_interval: null}}}}\n\
                 \x20 convert: {{uses: convert, with: {{model: '${{stages.train.model}}', tokenizer: '${{stages.tokenizer.tokenizer}}'}}}}\n\
                 outputs: {{model: '${{stages.convert.model}}'}}\n"
            ),
        );
        project.run(&["run", "tune.yaml"])
    };
    let output = tune("");
    assert!(output.status.success(), "{}", said(&output));
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "generation_config.json",
    ] {
        assert_eq!(project.read(&format!("out/tune/model/{file}")), project.read(&format!("given/{file}")), "{file}");
    }
    let output = tune(", template: tulu");
    let text = said(&output);
    assert!(text.contains("tokenizer::other_template") && text.contains("the params set template `tulu`"), "{text}");
    let output = tune(", eos_token: '<|im_end|>'");
    assert!(said(&output).contains("eos_token: the model has `<|endoftext|>`, but the params set `<|im_end|>`"));
    // A base model has no template, so one must be given.
    fs::remove_file(project.path("given/chat_template.jinja")).unwrap();
    let path = project.path("given/tokenizer_config.json");
    let mut config = json_file(&path);
    config.as_object_mut().unwrap().remove("chat_template");
    fs::write(&path, config.to_string()).unwrap();
    let output = tune("");
    assert!(said(&output).contains("tokenizer::no_template"), "{}", said(&output));
    let output = tune(", template: chatml");
    assert!(output.status.success(), "{}", said(&output));
}
