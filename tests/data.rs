//! Data through both real binaries: a tokenisation that is killed goes on, and `data …` shows what is trained.

use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use olmo_pipe::run;
use olmo_pipe::store::Store;

const PIPELINE: &str = r#"
pipeline: data
stages:
  chats: {uses: fetch, with: {files: [chats.jsonl]}}
  tokenizer: {uses: tokenizer, with: {documents: ["${stages.chats.dataset}"], vocab_size: 300}}
  tokens: {uses: tokenize, with: {documents: "${stages.chats.dataset}", tokenizer: "${stages.tokenizer.tokenizer}"}}
  rows: {uses: memmap, with: {tokens: "${stages.tokens.tokens}", sequence_length: 64, pack: best_fit}}
outputs: {rows: "${stages.rows.memmap}", tokens: "${stages.tokens.tokens}"}
"#;

/// A project with `records` chats.
fn project(records: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for n in 0..records {
        let turns = format!(r#"{{"role":"user","content":"Say {n}."}},{{"role":"assistant","content":"It is {n}."}}"#);
        writeln!(lines, r#"{{"dataset":"made","id":"made_{n}","messages":[{turns}]}}"#).unwrap();
    }
    std::fs::write(dir.path().join("chats.jsonl"), lines).unwrap();
    std::fs::write(dir.path().join("pipeline.yaml"), PIPELINE).unwrap();
    std::fs::write(dir.path().join("data.yaml"), "experiment: data\nuses: pipeline.yaml\n").unwrap();
    dir
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olmo-pipe"));
    command.args(arguments).current_dir(dir);
    for variable in ["OLMO_PIPE_STORE", "OLMO_PIPE_FAILPOINT", "OLMO_PIPE_WORKER"] {
        command.env_remove(variable);
    }
    command
}

fn said(output: &Output) -> String {
    [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat()
}

fn succeeds(dir: &Path, arguments: &[&str]) -> String {
    let output = command(dir, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}\n{}", said(&output));
    said(&output)
}

#[test]
fn a_killed_tokenisation_goes_on_and_makes_the_bytes_of_an_unbroken_one() {
    let [broken, whole] = [(); 2].map(|()| project(70_000));
    let killed = command(broken.path(), &["run", "data.yaml"]).env("OLMO_PIPE_FAILPOINT", "tokenize.part:1").output();
    assert_eq!(killed.unwrap().status.signal(), Some(9));
    let text = succeeds(broken.path(), &["run", "data.yaml"]);
    assert!(text.contains("goes on behind the 65536 records"), "{text}");
    succeeds(whole.path(), &["run", "data.yaml"]);
    for name in ["tokens/tokens.parquet", "tokens/tokens-1.parquet", "tokens/manifest.json", "rows/input_ids.npy"] {
        let read = |dir: &Path| std::fs::read(dir.join("out/data").join(name)).unwrap();
        assert!(read(broken.path()) == read(whole.path()), "{name} differs");
    }
}

/// The first digits of the artifact that stage `stage` made.
fn artifact(dir: &Path, stage: &str, port: &str) -> String {
    let store = Store::open(&dir.join(".olmo-pipe")).unwrap();
    let last = run::list(&store).unwrap().pop().unwrap();
    let (_, stage) = last.stages.iter().find(|(name, _)| *name == stage).unwrap();
    let digest = stage.instances[0].outputs.get(port).map(|output| format!("{output:?}")).unwrap();
    let digits = digest.split("Digest(").nth(1).unwrap();
    digits[..12].to_owned()
}

#[test]
fn what_is_trained_counted_and_wrong_is_shown_of_artifacts_and_folders() {
    let dir = project(40);
    let dir = dir.path();
    succeeds(dir, &["run", "data.yaml"]);
    let rows = artifact(dir, "rows", "memmap");
    let preview = succeeds(dir, &["data", "preview", &rows, "--count", "1"]);
    assert!(preview.contains("── row 0: 64 tokens") && preview.contains("⟦It is "), "{preview}");
    assert!(preview.contains("── document at token "), "{preview}");
    let chats = artifact(dir, "chats", "dataset");
    let preview = succeeds(dir, &["data", "preview", &chats, "--record", "7", "--count", "1"]);
    assert_eq!(preview, "── conversation 7: made_7 of `made`\nuser: Say 7.\nassistant: It is 7.\n\n");
    let stats = succeeds(dir, &["data", "stats", &rows]);
    assert!(stats.contains("utilisation") && stats.contains("documents            40\n"), "{stats}");
    let json: serde_json::Value = serde_json::from_str(&succeeds(dir, &["data", "stats", &rows, "--json"])).unwrap();
    assert_eq!(json["numbers"]["documents"], 40);
    let audit = succeeds(dir, &["data", "audit", &rows, "--html", "audit.html"]);
    assert!(audit.contains("eos is id 0 `<|endoftext|>`, pad is id 1 `<|padding|>`"), "{audit}");
    assert!(std::fs::read_to_string(dir.join("audit.html")).unwrap().contains("class=\"trained\""));
    // The rows of a step are those of the order, wherever one looks.
    let inspect = ["data", "inspect", &rows, "--seed", "3", "--batch", "4", "--steps", "2"];
    let step = succeeds(dir, &inspect);
    assert_eq!(step.matches("── step 2, epoch ").count(), 4, "{step}");

    // A folder outside the store has to be told its tokenizer.
    let failed = command(dir, &["data", "preview", "out/data/tokens"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(6));
    assert!(said(&failed).contains("error[data::tokenizer]") && said(&failed).contains("--tokenizer FOLDER"));
    let unknown = command(dir, &["data", "stats", "0123456789ab"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{}", said(&unknown));
    assert_eq!(command(dir, &["data", "stats"]).output().unwrap().status.code(), Some(2));
}
