//! `olmo-pipe generate` through both real binaries.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::run::project::{Project, said};

fn fixture(name: &str) -> String {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    folder.to_str().unwrap().to_owned()
}

fn generate(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    command.arg("generate").args(arguments).current_dir(dir);
    for variable in ["OLMO_PIPE_STORE", "OLMO_PIPE_WORKER"] {
        command.env_remove(variable);
    }
    command.output().unwrap()
}

/// The standard output of a command that succeeds.
fn answer(dir: &Path, arguments: &[&str]) -> String {
    let output = generate(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_text_is_continued_with_one_command() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("hf_chat");
    let text = answer(dir.path(), &[&model, "Language modeling is", "--max-new-tokens", "6"]);
    let record = &records(&answer(dir.path(), &[&model, "Language modeling is", "--max-new-tokens", "6", "--json"]))[0];
    let answer_text = record["answers"][0]["text"].as_str().unwrap();
    assert!(!answer_text.is_empty());
    // Control characters are escaped for the terminal.
    assert_eq!(text, escaped(answer_text) + "\n");
    // As a message, the prompt is another one.
    let chat =
        &records(&answer(dir.path(), &[&model, "Language modeling is", "--chat", "--max-new-tokens=6", "--json"]))[0];
    assert_eq!(chat["messages"][0]["content"], "Language modeling is");
    assert_ne!(chat["answers"][0]["tokens"], record["answers"][0]["tokens"]);
    // Several prompts have headings.
    let both = answer(dir.path(), &["--max-new-tokens", "3", &model, "One", "Two"]);
    assert!(both.starts_with("## 1: One\n") && both.contains("\n\n## 2: Two\n"), "{both}");
}

/// What the command prints of a text.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() && c != '\n' && c != '\t' { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_text_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("hf_chat");
    let with = |seed: &str, threads: &str| {
        let sampling = ["--temperature", "1", "--min-p", "0.01", "--seed", seed, "--threads", threads, "-n", "2"];
        let arguments = [&[model.as_str(), "One", "Two", "--json", "--max-new-tokens", "5"], &sampling[..]].concat();
        records(&answer(dir.path(), &arguments))
    };
    let first = with("7", "1");
    assert_eq!(first, with("7", "3"));
    assert_ne!(first, with("8", "1"));
    assert_ne!(first[0]["answers"][0], first[0]["answers"][1]);
}

#[test]
fn answers_to_a_file_of_prompts_go_on_after_an_interruption() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("hf_chat");
    let prompts: String = (0..40).map(|index| format!("prompt number {index}\n")).collect();
    std::fs::write(dir.path().join("prompts.txt"), prompts).unwrap();
    let arguments = [&model, "--prompts", "prompts.txt", "--output", "whole.jsonl", "--max-new-tokens", "20"];
    answer(dir.path(), &arguments);
    let whole = std::fs::read_to_string(dir.path().join("whole.jsonl")).unwrap();
    assert_eq!(records(&whole).len(), 40);
    assert!(!dir.path().join("whole.jsonl.partial").exists());

    // What is left of a run that could not write its output, and was killed before that.
    let mut arguments = arguments;
    arguments[4] = "again.jsonl";
    std::fs::create_dir_all(dir.path().join("again.jsonl/in the way")).unwrap();
    assert_eq!(generate(dir.path(), &arguments).status.code(), Some(6));
    let partial = dir.path().join("again.jsonl.partial");
    let journal = std::fs::read_to_string(&partial).unwrap();
    let some: String = journal.lines().take(11).map(|line| line.to_owned() + "\n").collect();
    std::fs::write(&partial, some + "{\"c\":\"torn").unwrap();
    std::fs::remove_dir_all(dir.path().join("again.jsonl")).unwrap();
    // Other options cannot go on with it.
    let other = said(&generate(dir.path(), &[&arguments[..6], &["21"]].concat()));
    assert!(other.contains("generate::unfinished") && other.contains("other options"), "{other}");
    answer(dir.path(), &arguments);
    assert_eq!(std::fs::read_to_string(dir.path().join("again.jsonl")).unwrap(), whole);
    assert!(!partial.exists());
}

#[test]
fn wrong_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("hf_chat");
    let bare = fixture("hf_tiny/olmo2");
    std::fs::write(dir.path().join("wrong.jsonl"), "{\"prompt\": 1}\n{}\n").unwrap();
    let long = "word ".repeat(300);
    for (arguments, code, words) in [
        (vec!["./nowhere", "Hi"], 6, "there is no ./nowhere"),
        (vec!["nowhere", "Hi"], 2, "nowhere"),
        (vec![&*bare, "Hi"], 6, "has no tokenizer"),
        (vec![&*model], 2, "PROMPT"),
        (vec![&*model, ""], 6, "prompt 1: the prompt is empty"),
        (vec![&*model, &long], 6, "leaves no room for an answer in the model's 256"),
        (vec![&*model, "Hi", "--max-new-tokens", "0"], 6, "`max-new-tokens` is 0"),
        (vec![&*model, "Hi", "--temperature", "nan"], 6, "`temperature` is NaN"),
        (vec![&*model, "Hi", "--top-p", "0"], 6, "`top-p` is 0"),
        (vec![&*model, "Hi", "--logprobs", "2"], 6, "--logprobs needs --json"),
        (vec![&*model, "--prompts", "wrong.jsonl"], 6, "wrong.jsonl:2: has none of the keys"),
        (vec![&*model, "--prompts", "missing.txt"], 6, "missing.txt"),
        (vec![&*model, "Hi", "--prompts", "wrong.jsonl"], 2, "cannot be used with"),
    ] {
        let output = generate(dir.path(), &arguments);
        let text = said(&output);
        assert!(
            output.status.code() == Some(code) && text.contains(words),
            "{arguments:?}: {:?} {text}",
            output.status
        );
    }
    let help = said(&generate(dir.path(), &["--help"]));
    assert!(help.contains("Usage: olmo-pipe generate") && !help.contains("olmo-worker"), "{help}");
}

#[test]
fn any_artifact_can_be_asked() {
    let project = Project::new();
    project.write(
        "chats.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Ho\"}]}\n",
    );
    project.experiment(
        "  chats: {uses: fetch, with: {files: [chats.jsonl]}}\n\
         \x20 tokenizer: {uses: tokenizer, with: {documents: ['${stages.chats.dataset}'], vocab_size: 270}}\n\
         \x20 tokens: {uses: tokenize, with: {documents: '${stages.chats.dataset}', tokenizer: '${stages.tokenizer.tokenizer}'}}\n\
         \x20 rows: {uses: memmap, with: {tokens: '${stages.tokens.tokens}', sequence_length: 64, pack: padded}}\n\
         \x20 train: {uses: train, with: {data: '${stages.rows.memmap}', model: {preset: olmo2, d_model: 32, n_heads: 2, n_layers: 2, mlp_hidden_size: 64, init_cutoff_factor: null}, \
         max_duration: 30steps, global_train_batch_size: 1, optimizer: {learning_rate: 0.01}, scheduler: {t_warmup: 5}, save_interval: null}}\n\
         \x20 convert: {uses: convert, with: {model: '${stages.train.model}', tokenizer: '${stages.tokenizer.tokenizer}'}}\n",
        "model: '${stages.convert.model}', checkpoints: '${stages.train.checkpoints}'",
    );
    project.succeeds(&["run", "e.yaml"]);
    let ask = |reference: &str| {
        let arguments = ["generate", reference, "Hi", "--chat", "--max-new-tokens", "8", "--json"];
        let output = project.run(&arguments);
        assert!(output.status.success(), "{reference}: {}", said(&output));
        records(std::str::from_utf8(&output.stdout).unwrap())
    };
    let exported = ask("latest:model");
    assert_eq!(exported, ask("out/e/model"));
    // A checkpoint has the tokenizer that it records, from the store.
    assert_eq!(exported, ask("latest:train.model"));
}

#[test]
fn a_conversation_goes_on_until_it_is_reset() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let chat = |lines: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
        command.args(["chat", &fixture("hf_chat"), "--max-new-tokens", "4"]).args(arguments).current_dir(dir.path());
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = chat("Hello\n\n/save one.jsonl\n//slash\n/save two.jsonl\n/reset\n/save none.jsonl\n/nonsense\n", &[]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("saved one.jsonl") && text.contains("nothing to save"), "{text}");
    assert!(text.contains("there is no /nonsense"), "{text}");
    let messages = |name: &str| -> Vec<(String, String)> {
        let value: Value = serde_json::from_slice(&std::fs::read(dir.path().join(name)).unwrap()).unwrap();
        let text = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
        value["messages"].as_array().unwrap().iter().map(|m| (text(m, "role"), text(m, "content"))).collect()
    };
    let (one, two) = (messages("one.jsonl"), messages("two.jsonl"));
    assert_eq!((one.len(), two.len()), (2, 4));
    assert_eq!(one[..], two[..2]);
    assert_eq!(two[2], ("user".into(), "/slash".into()));
    assert!(!dir.path().join("none.jsonl").exists());
    // The answer is that of the same conversation in one command.
    let same = answer(dir.path(), &[&fixture("hf_chat"), "Hello", "--chat", "--json", "--max-new-tokens", "4"]);
    assert_eq!(records(&same)[0]["answers"][0]["text"], one[1].1);
    // A message that leaves no room is refused, and the conversation is as before.
    let long = "word ".repeat(300);
    let output = chat(&format!("Hello\n{long}\n/save three.jsonl\n"), &["--system", "Be kind."]);
    let text = said(&output);
    assert!(text.contains("chat::too_long") && output.status.success(), "{text}");
    assert_eq!(messages("three.jsonl")[0], ("system".into(), "Be kind.".into()));
    assert_eq!(messages("three.jsonl").len(), 3);
}
