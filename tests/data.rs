//! Data through both real binaries: a tokenization that was killed continues, and the `data`
//! commands show the rows that are trained on.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
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
    assert!(text.contains("continues after the 65536 records"), "{text}");
    succeeds(whole.path(), &["run", "data.yaml"]);
    for name in ["tokens/tokens.parquet", "tokens/tokens-1.parquet", "tokens/manifest.json", "rows/input_ids.npy"] {
        let read = |dir: &Path| std::fs::read(dir.join("out/data").join(name)).unwrap();
        assert!(read(broken.path()) == read(whole.path()), "{name} differs");
    }
}

#[test]
fn a_part_of_a_killed_tokenisation_that_is_damaged_is_made_again() {
    let [broken, whole] = [(); 2].map(|()| project(70_000));
    succeeds(whole.path(), &["run", "data.yaml"]);
    let damages: [&dyn Fn(&Path); 3] = [
        &|part| {
            let mut bytes = std::fs::read(part).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(part, bytes).unwrap();
        },
        &|part| std::fs::write(part, &std::fs::read(part).unwrap()[..1000]).unwrap(),
        &|part| std::fs::write(part, "").unwrap(),
    ];
    for damage in damages {
        let fresh = ["run", "data.yaml", "--force", "tokens", "--fresh", "tokens"];
        let killed = command(broken.path(), &fresh).env("OLMO_PIPE_FAILPOINT", "tokenize.part:1").output();
        assert_eq!(killed.unwrap().status.signal(), Some(9));
        let work = std::fs::read_dir(broken.path().join(".olmo-pipe/work-v1")).unwrap();
        let parts = work.map(|work| work.unwrap().path().join("state/tokens.parquet")).filter(|part| part.exists());
        let parts: Vec<_> = parts.collect();
        assert_eq!(parts.len(), 1);
        damage(&parts[0]);
        let text = succeeds(broken.path(), &["run", "data.yaml", "--force", "tokens"]);
        assert!(text.contains("is damaged (tokens.parquet: "), "{text}");
        for name in ["tokens/tokens.parquet", "tokens/tokens-1.parquet", "tokens/manifest.json", "rows/input_ids.npy"] {
            let read = |dir: &Path| std::fs::read(dir.join("out/data").join(name)).unwrap();
            assert!(read(broken.path()) == read(whole.path()), "{name} differs");
        }
    }
}

/// The first digits of the digest of the artifact that stage `stage` made.
fn artifact(dir: &Path, stage: &str, port: &str) -> String {
    let store = Store::open(&dir.join(".olmo-pipe")).unwrap();
    let last = run::list(&store).unwrap().pop().unwrap();
    let (_, stage) = last.stages.iter().find(|(name, _)| *name == stage).unwrap();
    let output = stage.instances[0].outputs.get(port).unwrap();
    output.artifacts().next().unwrap().short()
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
    // All commands show the same rows for a step.
    let inspect = ["data", "inspect", &rows, "--seed", "3", "--batch", "4", "--steps", "2"];
    let step = succeeds(dir, &inspect);
    assert_eq!(step.matches("── step 2, epoch ").count(), 4, "{step}");

    // For a folder outside the store, the tokenizer must be given.
    let failed = command(dir, &["data", "preview", "out/data/tokens"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(6));
    assert!(said(&failed).contains("error[data::tokenizer]") && said(&failed).contains("--tokenizer FOLDER"));
    let unknown = command(dir, &["data", "stats", "0123456789ab"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{}", said(&unknown));
    assert_eq!(command(dir, &["data", "stats"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn help_of_data_commands_names_olmo_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let help = succeeds(dir.path(), &["data", "preview", "--help"]);
    assert!(help.contains("Usage: olmo-pipe data preview ") && !help.contains("olmo-worker"), "{help}");
}

#[test]
fn raw_files_are_looked_at_like_artifacts() {
    let dir = project(3);
    let dir = dir.path();
    succeeds(dir, &["run", "data.yaml", "--until", "chats"]);
    let shown = |arguments: &[&str]| String::from_utf8(command(dir, arguments).output().unwrap().stdout).unwrap();
    for what in ["preview", "stats", "audit"] {
        let raw = shown(&["data", what, "chats.jsonl"]);
        assert_eq!(raw, shown(&["data", what, "latest:chats.dataset"]), "{what}");
        assert!(!raw.is_empty());
    }
    let audit = shown(&["data", "audit", "chats.jsonl"]);
    assert!(audit.contains("control tokens in the text were not checked"), "{audit}");
    assert!(audit.starts_with("3 records checked\n") && audit.ends_with("\nnothing found\n"), "{audit}");
    assert!(
        said(&command(dir, &["data", "stats", "chats.jsonl"]).output().unwrap()).contains("chats.jsonl is `messages`")
    );
    // A folder of files, and tool calls. A preview reads only what it shows.
    std::fs::create_dir(dir.join("raw [1]")).unwrap();
    let call = r#"{"conversations":[{"from":"human","value":"1+2"},{"from":"function_call","value":"{\"name\":\"sum\"}"}],"tools":"[1]"}"#;
    std::fs::write(dir.join("raw [1]/a.jsonl"), format!("{call}\n")).unwrap();
    std::fs::write(dir.join("raw [1]/b.json"), format!("[{call}, {call}, {{\"conversations\": []}}]")).unwrap();
    let preview = shown(&["data", "preview", "raw [1]", "--count", "1"]);
    let expected = "── conversation 0: 1 of ``\nuser: 1+2\nassistant: \n  \
                    tool_calls: [{\"type\":\"function\",\"function\":{\"name\":\"sum\",\"arguments\":{}}}]\n  tools: [1]\n\n";
    assert_eq!(preview, expected);
    // What the fetch stage would reject is an error here as well.
    let audit = command(dir, &["data", "audit", "raw [1]"]).output().unwrap();
    assert_eq!(audit.status.code(), Some(6), "{}", said(&audit));
    assert!(
        said(&audit).contains("error    skipped") && said(&audit).contains("b.json: record 3: does not fit the schema")
    );
    let missing = command(dir, &["data", "audit", "raw/gone.jsonl"]).output().unwrap();
    assert!(said(&missing).contains("error[data::missing]: there is no raw/gone.jsonl"), "{}", said(&missing));
}

#[test]
fn the_rows_of_a_runs_steps_are_shown_and_compared_with_what_it_wrote_down() {
    let dir = project(40);
    let dir = dir.path();
    let more = r#"  first:
    uses: train
    with:
      data: "${stages.rows.memmap}"
      seed: 7
      max_duration: 3steps
      global_train_batch_size: 2
      save_interval: null
      optimizer: {learning_rate: 0.001}
      model: {preset: olmo2, d_model: 16, n_heads: 2, n_layers: 1, mlp_hidden_size: 32}
"#;
    let text = PIPELINE.replace("outputs:", &format!("{more}outputs:"));
    std::fs::write(dir.join("pipeline.yaml"), &text).unwrap();
    succeeds(dir, &["run", "data.yaml"]);
    let shown = succeeds(dir, &["data", "inspect", "latest", "--steps", "1,3"]);
    assert_eq!(shown.matches("matches the run's record").count(), 2, "{shown}");
    assert_eq!(shown.matches("── step 3, epoch 0, row ").count(), 2, "{shown}");
    let rows = artifact(dir, "rows", "memmap");
    let alone = succeeds(dir, &["data", "inspect", &rows, "--seed", "7", "--batch", "2", "--steps", "3"]);
    assert!(shown.ends_with(&alone), "the same rows:\n{shown}\n{alone}");
    // Another seed gives other rows than those of the run.
    let other = command(dir, &["data", "inspect", "data:first", "--seed", "8", "--steps", "1"]).output().unwrap();
    assert_eq!(other.status.code(), Some(6), "{}", said(&other));
    assert!(said(&other).contains("does NOT match"), "{}", said(&other));

    // If several stages take rows, one has to be named.
    let two = text
        .replace("outputs:", &format!("{}outputs:", more.replace("first:", "second:").replace("seed: 7", "seed: 9")));
    std::fs::write(dir.join("pipeline.yaml"), two).unwrap();
    succeeds(dir, &["run", "data.yaml"]);
    let which = command(dir, &["data", "inspect", "latest", "--steps", "1"]).output().unwrap();
    assert_eq!(which.status.code(), Some(2));
    assert!(said(&which).contains("latest:first or latest:second"), "{}", said(&which));
    let shown = succeeds(dir, &["data", "inspect", "latest:second", "--steps", "1"]);
    assert!(shown.contains("matches the run's record"), "{shown}");
    let gone = command(dir, &["data", "inspect", "latest:third", "--steps", "1"]).output().unwrap();
    assert!(said(&gone).contains("there are: first, second"), "{}", said(&gone));
}

#[test]
fn the_order_of_an_epoch_is_printed_and_written_as_olmo_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let printed = succeeds(dir.path(), &["data", "order", "--rows", "1000", "--seed", "6198"]);
    assert!(printed.starts_with("615\n832\n881\n9\n648\n"), "{}", &printed[..40]);
    succeeds(
        dir.path(),
        &["data", "order", "--rows", "1000", "--seed", "6197", "--epoch", "1", "--raw", "indices.npy"],
    );
    let raw = std::fs::read(dir.path().join("indices.npy")).unwrap();
    let rows: Vec<u32> = raw.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(printed, rows.iter().map(|row| format!("{row}\n")).collect::<String>());
}

/// The command, with a limit of `bytes` on the size of the files that its processes write.
fn limited(dir: &Path, arguments: &[&str], bytes: u64) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = command(dir, arguments);
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: between fork and exec, only two system calls are made.
    unsafe {
        command.pre_exec(move || {
            // Otherwise the kernel would kill the process instead of failing the write.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    command
}

#[test]
fn a_stage_that_finds_no_room_says_which_file_and_goes_on_when_there_is_room() {
    let dir = project(20_000);
    let dir = dir.path();
    for until in ["chats", "tokens", "rows"] {
        // The same, a few stages later.
        let output = limited(dir, &["run", "data.yaml", "--until", until], 100_000).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{until}: {}", said(&output));
        assert!(said(&output).contains("File too large"), "{until}: {}", said(&output));
        let file = ["data.parquet", "tokens", "input_ids.npy"];
        assert!(file.iter().any(|name| said(&output).contains(name)), "{until}: {}", said(&output));
        succeeds(dir, &["run", "data.yaml", "--until", until]);
    }
    let whole = project(20_000);
    succeeds(whole.path(), &["run", "data.yaml"]);
    succeeds(dir, &["run", "data.yaml"]);
    for name in ["tokens/tokens.parquet", "rows/input_ids.npy", "rows/label_mask.npy"] {
        let read = |dir: &Path| std::fs::read(dir.join("out/data").join(name)).unwrap();
        assert!(read(dir) == read(whole.path()), "{name} differs");
    }
}
