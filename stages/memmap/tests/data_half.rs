//! The four stages from files to rows, each run as a worker runs it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_base::journal;
use olmo_data::dataset::{self, Kind};
use olmo_data::tokens::TokensReader;
use olmo_data::{Memmap, TextTokenizer};
use olmo_stage::protocol::{EVENTS, InputItem, PROTOCOL_VERSION, REQUEST};
use olmo_stage::worker::Entry;
use olmo_stage::{Context, Event, Failure, Request, Stage, StageError};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder in which stages run, each attempt in a folder of its own.
struct Bench {
    dir: TempDir,
    attempts: usize,
    threads: usize,
}

/// An attempt that succeeded.
struct Done {
    dir: PathBuf,
    said: String,
}

impl Done {
    fn out(&self, port: &str) -> PathBuf {
        self.dir.join("out").join(port)
    }
}

impl Bench {
    fn new(threads: usize) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), attempts: 0, threads }
    }

    /// An artifact of one file.
    fn file(&mut self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.attempts += 1;
        let dir = self.dir.path().join(format!("file{}", self.attempts));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(name), content).unwrap();
        dir
    }

    fn run<S: Stage>(&mut self, params: Value, inputs: &[(&str, &[&Path])]) -> Result<Done, Failure> {
        self.attempts += 1;
        let dir = self.dir.path().join(format!("attempt{}", self.attempts));
        std::fs::create_dir(&dir).unwrap();
        let items = |paths: &[&Path]| paths.iter().map(|p| InputItem { label: None, path: p.to_path_buf() }).collect();
        let entry = Entry::of::<S>();
        let contract = (entry.describe)().contract;
        let request = Request {
            protocol: PROTOCOL_VERSION,
            stage: contract.stage,
            version: contract.version,
            params,
            inputs: inputs.iter().map(|(port, paths)| (port.to_string(), items(paths))).collect(),
            outputs: contract.outputs.into_keys().collect(),
            state_dir: dir.join("state"),
            items: BTreeMap::new(),
            threads: self.threads,
            ranks: 1,
            compute: olmo_stage::Compute::FLEX,
        };
        std::fs::write(dir.join(REQUEST), serde_json::to_vec(&request).unwrap()).unwrap();
        let ended = (entry.run)(&mut Context::open(&dir).unwrap());
        let said = journal::read::<Event>(&dir.join(EVENTS)).unwrap().into_iter().filter_map(|event| match event {
            Event::Message { level, text } => Some(format!("{level}: {text}\n")),
            _ => None,
        });
        match ended {
            Ok(()) => Ok(Done { said: said.collect(), dir }),
            Err(StageError::Failed(failure) | StageError::OutOfMemory(failure)) => Err(failure),
            Err(StageError::Interrupted) => panic!("nobody asked it to stop"),
        }
    }

    fn fetch(&mut self, params: Value, content: impl AsRef<[u8]>) -> Result<Done, Failure> {
        let file = self.file("some.jsonl", content);
        self.run::<olmo_stage_fetch::Fetch>(params, &[("files", &[&file])])
    }

    fn tokenize(&mut self, params: Value, documents: &Done, tokenizer: &Done) -> Result<Done, Failure> {
        let inputs = [documents.out("dataset"), tokenizer.out("tokenizer")];
        self.run::<olmo_stage_tokenize::Tokenize>(params, &[("documents", &[&inputs[0]]), ("tokenizer", &[&inputs[1]])])
    }

    fn train_tokenizer(&mut self, vocab_size: u32, documents: &[&Done]) -> Done {
        let paths: Vec<PathBuf> = documents.iter().map(|done| done.out("dataset")).collect();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let params = json!({"vocab_size": vocab_size});
        self.run::<olmo_stage_tokenizer::Tokenizer>(params, &[("documents", &paths)]).unwrap()
    }

    fn memmap(&mut self, params: Value, tokens: &Done) -> Result<Done, Failure> {
        self.run::<olmo_stage_memmap::Memmap>(params, &[("tokens", &[&tokens.out("tokens")])])
    }
}

fn data(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name)).unwrap()
}

fn chat(turns: &[(&str, &str)]) -> String {
    let messages: Vec<Value> = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({"dataset": "some", "id": "1", "messages": messages}).to_string() + "\n"
}

/// Every file in `dir` by its name, with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap())).collect()
}

/// What the sample data become: the outputs of every stage.
fn sample(threads: usize) -> (Bench, [PathBuf; 8]) {
    let mut bench = Bench::new(threads);
    let chats = bench.fetch(json!({}), data("tulu-sample.jsonl")).unwrap();
    let text = bench.fetch(json!({"format": "text"}), data("sentences.txt")).unwrap();
    let tokenizer = bench.train_tokenizer(768, &[&text, &chats]);
    let chat_tokens = bench.tokenize(json!({}), &chats, &tokenizer).unwrap();
    let text_tokens = bench.tokenize(json!({"template": "plain"}), &text, &tokenizer).unwrap();
    let mut rows =
        |tokens, pack| bench.memmap(json!({"sequence_length": 128, "pack": pack}), tokens).unwrap().out("memmap");
    let [whole, padded, concat] =
        [rows(&chat_tokens, "whole"), rows(&chat_tokens, "padded"), rows(&text_tokens, "concat")];
    let [chats, text, tokenizer] = [chats.out("dataset"), text.out("dataset"), tokenizer.out("tokenizer")];
    let [chat_tokens, text_tokens] = [chat_tokens.out("tokens"), text_tokens.out("tokens")];
    (bench, [chats, text, tokenizer, chat_tokens, text_tokens, whole, padded, concat])
}

#[test]
fn the_sample_data_become_the_same_bytes_in_other_folders_with_other_threads() {
    let (_one, first) = sample(1);
    let (_two, second) = sample(3);
    for (a, b) in first.iter().zip(&second) {
        assert_eq!(files(a).keys().collect::<Vec<_>>(), files(b).keys().collect::<Vec<_>>());
        for (name, content) in files(a) {
            assert!(content == files(b)[&name], "{} differs in {}", name.display(), a.display());
        }
    }
}

#[test]
fn the_sample_data_are_sound_from_end_to_end() {
    let (_bench, outputs) = sample(2);
    let [chats, text, tokenizer, chat_tokens, text_tokens, whole, padded, concat] = outputs;
    assert_eq!(dataset::manifest(&chats).unwrap().kind, Kind::Messages);
    let chats = dataset::read_messages(&chats).unwrap();
    let tokenizer = TextTokenizer::open(&tokenizer).unwrap();
    assert_eq!(tokenizer.special().vocab_size, 768);
    for header in ["<|user|>\n", "<|assistant|>\n"] {
        assert!(tokenizer.encode_text(header).unwrap().len() <= 4, "{header} is made of merges");
    }

    let tokens = TokensReader::open(&chat_tokens).unwrap();
    assert_eq!(tokens.manifest().documents, chats.len() as u64);
    assert_eq!((tokens.manifest().dropped, tokens.manifest().truncated), (0, 0));
    let documents: Vec<_> = tokens.map(Result::unwrap).collect();
    for (document, chat) in documents.iter().zip(&chats) {
        let ids = document.input_ids.iter().zip(&document.label_mask).filter(|(_, label)| **label);
        let ids: Vec<u32> = ids.map(|(id, _)| *id).collect();
        let answers = chat.messages.iter().filter(|message| message.role == olmo_data::Role::Assistant);
        let expected: String = answers.map(|message| format!("{}<|endoftext|>", message.text())).collect();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), expected);
    }

    let labels: u64 = documents.iter().map(|document| document.labels() as u64).sum();
    for rows in [&whole, &padded] {
        let memmap = Memmap::open(rows).unwrap();
        memmap.verify().unwrap();
        assert_eq!((memmap.manifest().labels, memmap.manifest().documents), (labels, chats.len() as u64));
        assert_eq!(memmap.manifest().tokenizer, tokenizer.digest());
    }
    assert!(Memmap::open(&whole).unwrap().instances() * 2 < Memmap::open(&padded).unwrap().instances());

    let lines = dataset::read_text(&text).unwrap();
    assert_eq!(TokensReader::open(&text_tokens).unwrap().manifest().documents, lines.len() as u64);
    let concat = Memmap::open(&concat).unwrap();
    let row = concat.instance(0).unwrap();
    assert_eq!(row.label_mask, None, "every token of plain text is a target");
    let said = tokenizer.decode(&row.input_ids, false).unwrap();
    assert!((lines.join("<|endoftext|>") + "<|endoftext|>").starts_with(&said), "{said}");
}

#[test]
fn bad_lines_are_all_named_with_file_line_and_reason() {
    let mut content = chat(&[("user", "Hi"), ("assistant", "Hello")]).into_bytes();
    content.extend_from_slice(b"{\"messages\": [\n\n\xff\xfe\n");
    content.extend_from_slice(chat(&[("user", "Hi"), ("bot", "Hello")]).as_bytes());
    content.extend_from_slice(chat(&[("user", "Hi"), ("assistant", " \n")]).as_bytes());
    let mut bench = Bench::new(1);
    let failure = bench.fetch(json!({}), &content).err().unwrap();
    assert_eq!(failure.code, "fetch::bad_lines");
    assert_eq!(
        failure.message,
        "4 lines are bad:\n\
         some.jsonl:2: is not JSON: EOF while parsing a list at column 14\n\
         some.jsonl:4: is not UTF-8 (byte 1 of the line)\n\
         some.jsonl:5: message 2 has the unknown role `bot`, expected system, developer, user, assistant, tool, function or environment\n\
         some.jsonl:6: message 2 (assistant) has neither content nor tool calls"
    );
    let hint = failure.hint.unwrap();
    assert!(hint.contains("`roles: {bot: assistant}`") && hint.contains("on_error: skip"), "{hint}");

    let done = bench.fetch(json!({"on_error": "skip"}), &content).unwrap();
    let manifest = dataset::manifest(&done.out("dataset")).unwrap();
    assert_eq!((manifest.records, manifest.skipped), (1, 4));
    assert!(done.said.contains("warning: 4 lines are skipped:\nsome.jsonl:2:"), "{}", done.said);
}

#[test]
fn of_many_bad_lines_twenty_are_shown_and_all_are_counted() {
    let failure = Bench::new(1).fetch(json!({}), "x\n".repeat(50)).err().unwrap();
    assert!(failure.message.starts_with("50 lines are bad:\nsome.jsonl:1: "), "{}", failure.message);
    assert!(failure.message.ends_with("\n… and 30 more"), "{}", failure.message);
    assert_eq!(failure.message.lines().count(), 1 + 20 + 1);
}

#[test]
fn an_empty_dataset_is_an_error() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.fetch(json!({}), "\n  \n").err().unwrap().code, "fetch::empty");
    assert_eq!(bench.fetch(json!({"on_error": "skip"}), "x\n").err().unwrap().code, "fetch::empty");
    assert_eq!(bench.run::<olmo_stage_fetch::Fetch>(json!({}), &[]).err().unwrap().code, "fetch::no_files");
}

#[test]
fn a_byte_order_mark_and_crlf_are_no_part_of_the_text() {
    let mut bench = Bench::new(1);
    let done = bench.fetch(json!({"format": "text"}), "\u{feff}One.\r\n\r\nTwo.").unwrap();
    assert_eq!(dataset::read_text(&done.out("dataset")).unwrap(), ["One.", "Two."]);
}

#[test]
fn conversations_without_an_answer_are_dropped_and_counted() {
    let mut bench = Bench::new(2);
    let content = chat(&[("user", "Hi")]) + &chat(&[("user", "Hi"), ("assistant", "Hello")]);
    let chats = bench.fetch(json!({}), content).unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&chats]);
    let tokens = bench.tokenize(json!({}), &chats, &tokenizer).unwrap();
    let manifest = TokensReader::open(&tokens.out("tokens")).unwrap().manifest().clone();
    assert_eq!((manifest.documents, manifest.dropped), (1, 1));
    assert!(tokens.said.contains("warning: 1 of 2 conversations are skipped"), "{}", tokens.said);
    assert!(tokens.said.contains("eos `<|endoftext|>` is id 0, pad `<|padding|>` is id 1"), "{}", tokens.said);

    let unanswered = bench.fetch(json!({}), chat(&[("user", "Hi")])).unwrap();
    assert_eq!(bench.tokenize(json!({}), &unanswered, &tokenizer).err().unwrap().code, "tokenize::nothing_left");
}

#[test]
fn a_vocabulary_larger_than_the_documents_give_is_warned_of() {
    let mut bench = Bench::new(2);
    let text = bench.fetch(json!({"format": "text"}), "One.\nOne.\n").unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&text]);
    assert!(
        tokenizer.said.contains("the trained vocabulary has 260 tokens, fewer than vocab_size 300"),
        "{}",
        tokenizer.said
    );
}

#[test]
fn a_conversation_that_is_cut_off_gets_no_false_eos() {
    let mut bench = Bench::new(2);
    let chats = bench.fetch(json!({}), chat(&[("user", "Hi"), ("assistant", "One two three four five six.")])).unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&chats]);
    let whole = bench.tokenize(json!({}), &chats, &tokenizer).unwrap();
    let whole = TokensReader::open(&whole.out("tokens")).unwrap().next().unwrap().unwrap();
    let length = whole.input_ids.len() - 5;
    let cut = bench.tokenize(json!({"max_length": length}), &chats, &tokenizer).unwrap();
    assert!(cut.said.contains(&format!("1 of 1 conversations are truncated at {length} tokens")), "{}", cut.said);
    let cut = TokensReader::open(&cut.out("tokens")).unwrap().next().unwrap().unwrap();
    assert_eq!(cut.input_ids, whole.input_ids[..length]);
    assert_eq!(cut.label_mask, whole.label_mask[..length]);
    assert!(!cut.input_ids[1..].contains(&0));
    let answer = whole.label_mask.iter().position(|label| *label).unwrap();
    let failure = bench.tokenize(json!({"max_length": answer}), &chats, &tokenizer).err().unwrap();
    assert_eq!(failure.code, "tokenize::nothing_left");
}

#[test]
fn text_with_the_eos_string_in_it_is_warned_of() {
    let mut bench = Bench::new(2);
    let chats = bench.fetch(json!({}), chat(&[("user", "Hi <|endoftext|>"), ("assistant", "Hello")])).unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&chats]);
    let tokens = bench.tokenize(json!({}), &chats, &tokenizer).unwrap();
    assert!(tokens.said.contains("1 records contain the text `<|endoftext|>`"), "{}", tokens.said);
}

#[test]
fn a_template_for_the_other_kind_of_dataset_is_refused() {
    let mut bench = Bench::new(2);
    let text = bench.fetch(json!({"format": "text"}), "One.\nTwo.\n").unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&text]);
    let failure = bench.tokenize(json!({}), &text, &tokenizer).err().unwrap();
    assert!(
        failure.message.contains("contains text documents, but conversations are expected here"),
        "{}",
        failure.message
    );
    assert!(failure.hint.unwrap().contains("template `plain` for `text`"));
}

#[test]
fn a_given_tokenizer_is_taken_byte_by_byte_and_must_have_the_special_tokens() {
    let mut bench = Bench::new(2);
    let text = bench.fetch(json!({"format": "text"}), "One.\nTwo.\n").unwrap();
    let trained = bench.train_tokenizer(300, &[&text]);
    let bytes = std::fs::read(trained.out("tokenizer").join("tokenizer.json")).unwrap();
    let file = bench.file("mine.json", &bytes);
    let taken = bench.run::<olmo_stage_tokenizer::Tokenizer>(json!({}), &[("file", &[&file])]).unwrap();
    assert_eq!(files(&taken.out("tokenizer")), files(&trained.out("tokenizer")));

    let failure = bench
        .run::<olmo_stage_tokenizer::Tokenizer>(json!({"eos_token": "<|im_end|>"}), &[("file", &[&file])])
        .err()
        .unwrap();
    assert!(failure.message.starts_with("mine.json: has no token `<|im_end|>` for eos_token; nearest: "));
    let both: [(&str, &[&Path]); 2] = [("file", &[&file]), ("documents", &[&text.out("dataset")])];
    let preferred = bench.run::<olmo_stage_tokenizer::Tokenizer>(json!({}), &both).unwrap();
    assert_eq!(files(&preferred.out("tokenizer")), files(&taken.out("tokenizer")), "the file wins over documents");
    let failure = bench.run::<olmo_stage_tokenizer::Tokenizer>(json!({}), &[]).err().unwrap();
    assert_eq!(failure.code, "tokenizer::inputs");
    // Settings of its last use are removed and nothing else is touched, not even the order of keys.
    let used = String::from_utf8(bytes.clone()).unwrap();
    let used = used
        .replacen("\"truncation\": null", "\"truncation\": {\"direction\":\"Right\",\"max_length\":8,\"strategy\":\"LongestFirst\",\"stride\":0}", 1)
        .replacen("\"padding\": null", "\"padding\": {\"strategy\":{\"Fixed\":16},\"direction\":\"Right\",\"pad_to_multiple_of\":null,\"pad_id\":1,\"pad_type_id\":0,\"pad_token\":\"<|padding|>\"}", 1)
        .replacen("\"dropout\": null", "\"dropout\": 0.5", 1);
    let used = bench.file("mine.json", &used);
    let cleaned = bench.run::<olmo_stage_tokenizer::Tokenizer>(json!({}), &[("file", &[&used])]).unwrap();
    assert_eq!(files(&cleaned.out("tokenizer")), files(&trained.out("tokenizer")));
    let warning = "warning: removed from mine.json: truncation to 8 tokens, padding to 16 tokens, dropout 0.5 (";
    assert!(cleaned.said.contains(warning) && !taken.said.contains("removed"), "{}", cleaned.said);
    let pointer = bench.file("mine.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n");
    let failure = bench.run::<olmo_stage_tokenizer::Tokenizer>(json!({}), &[("file", &[&pointer])]).err().unwrap();
    assert!(failure.message.starts_with("mine.json: is a git-lfs pointer"), "{}", failure.message);
    let broken = bench.file("mine.json", "{");
    let failure = bench.run::<olmo_stage_tokenizer::Tokenizer>(json!({}), &[("file", &[&broken])]).err().unwrap();
    assert_eq!(failure.code, "data::tokenizer");
}

#[test]
fn data_smaller_than_a_row_is_refused_where_it_would_be_dropped_and_padded_where_not() {
    let mut bench = Bench::new(2);
    let text = bench.fetch(json!({"format": "text"}), "One.\n").unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&text]);
    let tokens = bench.tokenize(json!({"template": "plain"}), &text, &tokenizer).unwrap();
    let failure = bench.memmap(json!({"sequence_length": 64, "pack": "concat"}), &tokens).err().unwrap();
    assert_eq!(failure.code, "memmap::too_small");
    assert!(failure.message.starts_with("1 documents with "), "{}", failure.message);
    let done = bench.memmap(json!({"sequence_length": 64}), &tokens).unwrap();
    assert_eq!(Memmap::open(&done.out("memmap")).unwrap().instances(), 1);
    assert_eq!(bench.memmap(json!({"sequence_length": 1}), &tokens).err().unwrap().code, "memmap::params");
    assert_eq!(bench.memmap(json!({"pack": "concat"}), &tokens).err().unwrap().code, "memmap::params");
    let measured = bench.memmap(json!({}), &tokens).unwrap();
    assert_eq!(Memmap::open(&measured.out("memmap")).unwrap().manifest().sequence_length, 64, "a multiple of 64");
}

/// What a conversation says, without where it is from.
fn said(dir: &Path) -> Vec<Vec<olmo_data::Message>> {
    dataset::read_messages(dir).unwrap().into_iter().map(|conversation| conversation.messages).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

#[test]
fn lines_arrays_and_packed_files_hold_the_same_chats_whatever_they_are_called() {
    let chats: Vec<String> =
        (0..3000).map(|n| chat(&[("user", &format!("Say {n} 🦀")), ("assistant", &format!("{n}!"))])).collect();
    let lines = chats.concat();
    let array = format!(" [{}]", chats.iter().map(|chat| chat.trim_end()).collect::<Vec<_>>().join(",\n"));
    let halves: Vec<u8> = [gz(&lines.as_bytes()[..1000]), gz(&lines.as_bytes()[1000..])].concat();
    let frames: Vec<u8> = [zst(&lines.as_bytes()[..1000]), zst(&lines.as_bytes()[1000..])].concat();
    let mut bench = Bench::new(2);
    let plain = bench.fetch(json!({}), &lines).unwrap().out("dataset");
    for content in [array.into_bytes(), gz(lines.as_bytes()), halves, zst(lines.as_bytes()), frames] {
        let other = bench.fetch(json!({}), content).unwrap().out("dataset");
        assert_eq!(said(&other), said(&plain));
    }
    // A dataset's own Parquet is a source like any other.
    let parquet = std::fs::read(plain.join("data.parquet")).unwrap();
    let again = bench.fetch(json!({}), parquet).unwrap().out("dataset");
    assert_eq!(files(&again), files(&plain));
}

/// Chats as lines, arrays and tables, in every format that is told from another one.
#[test]
fn the_format_of_each_file_is_found_and_reported() {
    let mut bench = Bench::new(2);
    let sharegpt = json!({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]});
    let alpaca = json!({"instruction": "Hi", "input": null, "output": "Ho"});
    let completion = json!({"prompt": "Hi", "completion": "Ho"});
    let messages = json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]});
    let files = [
        bench.file("a.jsonl", format!("{sharegpt}\n")),
        bench.file("b.json", format!("[{alpaca},\n{alpaca}]")),
        bench.file("c.jsonl", format!("{completion}\n")),
        bench.file("d.jsonl", format!("{messages}\n")),
        bench.file("empty.jsonl", "\n"),
    ];
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let done = bench.run::<olmo_stage_fetch::Fetch>(json!({"format": "auto"}), &[("files", &paths)]).unwrap();
    let expected = "info: format: a.jsonl is `sharegpt`, b.json is `alpaca`, c.jsonl is `prompt_completion`, \
                    d.jsonl is `messages`, empty.jsonl is `sharegpt`";
    assert!(done.said.contains(expected), "{}", done.said);
    let chats = said(&done.out("dataset"));
    assert_eq!(chats.len(), 5);
    assert!(chats.iter().all(|chat| *chat == chats[0]), "{chats:?}");

    // Documents, and both in one stage.
    let text = bench.fetch(json!({"format": "auto"}), "One.\n\nTwo.\n").unwrap();
    assert!(text.said.contains("some.jsonl is `text`"), "{}", text.said);
    let dolma =
        "{\"id\":\"1\",\"text\":\"One.\",\"source\":\"x\",\"metadata\":{}}\n{\"text\":null}\n{\"text\":\"Two.\"}\n";
    let dolma = bench.fetch(json!({"format": "auto"}), dolma).unwrap();
    assert!(dolma.said.contains("some.jsonl is `text` (JSON, key `text`)"), "{}", dolma.said);
    assert_eq!(files_text(&dolma), files_text(&text));
    let document = bench.file("doc.txt", "One.\n");
    let failure = bench
        .run::<olmo_stage_fetch::Fetch>(json!({"format": "auto"}), &[("files", &[paths[0], &document])])
        .err()
        .unwrap();
    assert_eq!(failure.message, "doc.txt holds text documents, a.jsonl holds conversations");
    // Datasets alone say what they hold.
    for (from, kind) in [(&dolma, Kind::Text), (&done, Kind::Messages)] {
        let inputs: [(&str, &[&Path]); 1] = [("datasets", &[&from.out("dataset")])];
        let again = bench.run::<olmo_stage_fetch::Fetch>(json!({"format": "auto"}), &inputs).unwrap();
        assert_eq!(dataset::manifest(&again.out("dataset")).unwrap().kind, kind);
    }
    let failure = bench.fetch(json!({"format": "auto"}), "{\"chosen\":[],\"rejected\":[]}\n").err().unwrap();
    assert_eq!(failure.message, "some.jsonl: its records have the keys `chosen`, `rejected`, which match no format");
    let pairs = bench.fetch(
        json!({"format": "auto", "messages_field": "chosen"}),
        "{\"chosen\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"rejected\":[]}\n",
    );
    assert_eq!(said(&pairs.unwrap().out("dataset"))[0][0].text(), "Hi");
}

fn files_text(done: &Done) -> Vec<String> {
    dataset::read_text(&done.out("dataset")).unwrap()
}

#[test]
fn documents_are_lines_of_text_or_of_json_by_what_the_file_holds() {
    let mut bench = Bench::new(1);
    let mut text = |content: &str| bench.fetch(json!({"format": "text"}), content);
    let lines: String = (0..90).map(|n| format!("{{\"text\":\"Document {n}\",\"n\":{n}}}\n")).collect();
    let all: Vec<String> = (0..90).map(|n| format!("Document {n}")).collect();
    let done = text(&lines).unwrap();
    assert_eq!(files_text(&done), all);
    assert!(done.said.contains("documents are read from the JSON key `text` in some.jsonl"), "{}", done.said);
    let array = format!("[{}]", lines.trim_end().replace('\n', ","));
    assert_eq!(files_text(&text(&array).unwrap()), all);
    assert_eq!(files_text(&text("[\"One.\", \"Two.\"]").unwrap()), ["One.", "Two."]);
    // Text that looks like JSON now and then stays text.
    for content in
        ["{\"text\": \"a\"}\nThat was JSON.\n", "[1] A reference.\n[2] Another.\n", "{ x }\n{\"a\":1}\nProse.\n"]
    {
        let done = text(content).unwrap();
        assert_eq!(files_text(&done), content.lines().collect::<Vec<_>>());
        assert_eq!(
            done.said.contains("1 of the first 2 lines are JSON"),
            content.contains("That was"),
            "{}",
            done.said
        );
    }
    // A damaged line among many is an error, not a document.
    let failure = text(&format!("{lines}{{\"text\": \"cut o\n")).err().unwrap();
    assert!(failure.message.contains("some.jsonl:91: is not JSON"), "{}", failure.message);
    let failure = text("{\"content\":\"One.\"}\n{\"content\":\"Two.\"}\n").err().unwrap();
    assert_eq!(failure.message, "some.jsonl: its records have the keys `content`, which match no format");
    assert!(failure.hint.unwrap().contains("`text_field`"));
    let failure = text("{\n  \"text\": \"One.\"\n}\n{\n  \"text\": \"Two.\"\n}\n").err().unwrap();
    assert!(failure.message.contains("span several lines, with the keys `text`"), "{}", failure.message);
    assert!(failure.hint.unwrap().contains("jq -c . 'some.jsonl'"));
    assert_eq!(files_text(&text("{ x\n}\n").unwrap()), ["{ x", "}"]);
    let failure = text("{\"messages\":[]}\n").err().unwrap();
    assert_eq!(failure.hint.unwrap(), "set `format: messages`");
    let done = bench.fetch(json!({"format": "text", "text_field": "content"}), "{\"content\":\"One.\"}\n").unwrap();
    assert_eq!(files_text(&done), ["One."]);
}

#[test]
fn records_that_all_look_like_another_format_are_refused_with_its_name() {
    let mut bench = Bench::new(1);
    let sharegpt = "{\"conversations\":[{\"from\":\"human\",\"value\":\"Hi\"}]}\n".repeat(3);
    for on_error in ["fail", "skip"] {
        let failure = bench.fetch(json!({"on_error": on_error}), &sharegpt).err().unwrap();
        let hint = "every record looks like format `sharegpt`: set `format: sharegpt`, or `format: auto`";
        assert_eq!(failure.hint.as_deref(), Some(hint), "{}", failure.message);
    }
    let one = sharegpt + &chat(&[("user", "Hi"), ("assistant", "Ho")]);
    assert!(!bench.fetch(json!({}), &one).err().unwrap().hint.unwrap().contains("looks like"));
}

#[test]
fn turns_that_say_nothing_are_reported_once_with_the_first_place() {
    let turns = |turns: &[(&str, &str)]| chat(turns);
    let content = [
        turns(&[("system", ""), ("user", "Hi"), ("assistant", "Ho")]),
        turns(&[("system", " "), ("user", "Hi"), ("assistant", "Ho"), ("user", "Bye"), ("assistant", "")]),
        turns(&[
            ("user", "Hi"),
            ("assistant", "Ho"),
            ("user", "?"),
            ("assistant", ""),
            ("user", "!"),
            ("assistant", "x"),
        ]),
    ]
    .concat();
    let mut bench = Bench::new(2);
    let done = bench.fetch(json!({"on_error": "skip"}), &content).unwrap();
    let chats = said(&done.out("dataset"));
    assert_eq!(chats.iter().map(Vec::len).collect::<Vec<_>>(), [2, 3, 2]);
    for text in [
        "info: 2 empty system turns are dropped; the first is in some.jsonl:1\n",
        "warning: 1 empty answer at the end of a conversation is dropped; the first is in some.jsonl:2\n",
        "warning: 1 conversation is cut before an empty answer; the first is in some.jsonl:3\n",
    ] {
        assert!(done.said.contains(text), "{}", done.said);
    }
    let failure = bench.fetch(json!({}), &content).err().unwrap();
    assert!(failure.message.ends_with("some.jsonl:3: message 4 (assistant) has neither content nor tool calls"));
    // An empty system turn leaves the conversation as one without it.
    let without = bench.fetch(json!({}), turns(&[("user", "Hi"), ("assistant", "Ho")])).unwrap();
    assert_eq!(chats[0], said(&without.out("dataset"))[0]);
}

/// A table with the columns that are read among others of every kind.
fn wide_batch(union: bool) -> arrow::array::RecordBatch {
    use arrow::array::*;
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Field, Fields, IntervalMonthDayNano, UnionFields};
    use std::sync::Arc;
    let text = |text: &str| Arc::new(StringArray::from(vec![text; 2])) as ArrayRef;
    let entries =
        Fields::from(vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Binary, true)]);
    let bytes = || Arc::new(BinaryArray::from(vec![&b"\xff\xfe"[..]; 2])) as ArrayRef;
    let pairs = StructArray::new(entries.clone(), vec![text("k"), bytes()], None);
    let entries = Arc::new(Field::new("entries", DataType::Struct(entries), false));
    let map = MapArray::new(entries, OffsetBuffer::from_lengths([1, 1]), pairs, None, false);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("picture", bytes()),
        ("price", Arc::new(Decimal256Array::from(vec![arrow::datatypes::i256::from(7); 2]))),
        ("at", Arc::new(TimestampNanosecondArray::from(vec![1; 2]).with_timezone("+02:00"))),
        ("map", Arc::new(map)),
        ("uuid", Arc::new(FixedSizeBinaryArray::from(vec![&[0xffu8; 16]; 2]))),
        ("prompt", text("Say")),
        ("date", Arc::new(Date32Array::from(vec![1; 2]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![1; 2]))),
        ("nothing", Arc::new(NullArray::new(2))),
        ("completion", text("It is")),
    ];
    if union {
        let fields = UnionFields::try_new([0], [Field::new("n", DataType::Utf8, true)]).unwrap();
        columns
            .push(("union", Arc::new(UnionArray::try_new(fields, vec![0, 0].into(), None, vec![text("u")]).unwrap())));
        columns.push(("span", Arc::new(DurationMillisecondArray::from(vec![1; 2]))));
        let interval = IntervalMonthDayNano::new(1, 2, 3);
        columns.push(("interval", Arc::new(IntervalMonthDayNanoArray::from(vec![interval; 2]))));
    }
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

#[test]
fn a_column_that_is_not_read_may_be_of_any_type() {
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
    let mut bench = Bench::new(1);
    let batch = wide_batch(true);
    let mut tables = Vec::new();
    for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        let options = || IpcWriteOptions::default().try_with_compression(codec).unwrap();
        let mut file = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options()).unwrap();
        file.write(&batch).unwrap();
        tables.push(file.into_inner().unwrap());
        let mut stream = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options()).unwrap();
        stream.write(&batch).unwrap();
        tables.push(stream.into_inner().unwrap());
    }
    let batch = wide_batch(false);
    let mut parquet = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    tables.push(parquet);
    for (case, table) in tables.iter().enumerate() {
        for format in ["prompt_completion", "auto"] {
            let done = bench.fetch(json!({"format": format}), table).unwrap_or_else(|e| panic!("case {case}: {e:?}"));
            let chats = said(&done.out("dataset"));
            assert_eq!((chats.len(), chats[1][0].text(), chats[1][1].text()), (2, "Say", "It is"), "case {case}");
        }
        let documents = bench.fetch(json!({"format": "text", "text_field": "completion"}), table).unwrap();
        assert_eq!(files_text(&documents), ["It is", "It is"]);
        let failure = bench.fetch(json!({}), table).err().unwrap();
        assert_eq!(failure.code, "fetch::columns");
        assert!(failure.message.starts_with("some.jsonl: has no column `messages`; it has `picture`, `price`"));
        assert_eq!(failure.hint.unwrap(), "set `format: prompt_completion`, or `format: auto`");
    }
}

#[test]
fn files_of_another_encoding_or_kind_are_refused_by_name() {
    let mut bench = Bench::new(1);
    let wide: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let failure = bench.fetch(json!({}), &wide).err().unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.message.as_str()),
        ("fetch::encoding", "some.jsonl: is UTF-16, not UTF-8")
    );
    assert_eq!(failure.hint.unwrap(), "convert it: iconv -f UTF-16 -t UTF-8 'some.jsonl' > utf8.jsonl");
    let failure = bench.fetch(json!({"format": "auto"}), b"\xfd7zXZ\0").err().unwrap();
    assert_eq!(failure.message, "some.jsonl: is compressed with xz");
}

#[test]
fn tool_calls_tools_and_weights_go_through_a_dataset() {
    let mut bench = Bench::new(1);
    let content = json!({"tools": "[{\"name\": \"sum\", \"a\": 1}]", "messages": [
        {"role": "user", "content": "1+2"},
        {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "sum", "arguments": {"y": 1, "x": 2}}}]},
        {"role": "tool", "content": "", "tool_call_id": "7"},
        {"role": "assistant", "content": "3", "weight": 0},
    ]});
    let done = bench.fetch(json!({}), content.to_string()).unwrap();
    let read = dataset::read_messages(&done.out("dataset")).unwrap().remove(0);
    assert_eq!(read.tools, Some(json!([{"name": "sum", "a": 1}])));
    assert_eq!((read.messages[1].content.as_deref(), read.messages[3].trained), (None, Some(false)));
    let calls = r#"{"tool_calls":[{"function":{"name":"sum","arguments":{"y":1,"x":2}}}]}"#;
    assert_eq!(Value::Object(read.messages[1].fields.clone()).to_string(), calls);
    // A dataset's own Parquet is a source that loses nothing.
    let parquet = std::fs::read(done.out("dataset").join("data.parquet")).unwrap();
    let again = bench.fetch(json!({}), parquet).unwrap().out("dataset");
    assert_eq!(files(&again), files(&done.out("dataset")));
    // Other tools make another conversation.
    let other = content.to_string().replace("\\\"a\\\": 1", "\\\"a\\\": 2");
    let done = bench.fetch(json!({"dedup": true}), format!("{content}\n{other}\n{content}\n")).unwrap();
    assert_eq!(said(&done.out("dataset")).len(), 2);
}

#[test]
fn ids_with_a_header_are_refused_with_the_line_that_writes_raw_ones() {
    let mut bench = Bench::new(1);
    let text = bench.fetch(json!({"format": "text"}), "One two three.\n").unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&text]);
    let raw: Vec<u8> = (0..64u16).flat_map(|n| (n % 40 + 2).to_le_bytes()).collect();
    let mask = vec![1u8; 64];
    let npy = |descr: &str, values: &[u8]| {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (64,), }}");
        let header = format!("{header:<117}\n");
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
    };
    let zip = [b"PK\x03\x04", &raw[..], b"PK\x05\x06", &[0; 18]].concat();
    let pickle = |start: &[u8]| [start, &raw[..], b"."].concat();
    let framed = pickle(&[&b"\x80\x04\x95"[..], &120u64.to_le_bytes()].concat());
    let mut import = |ids: &[u8], mask: &[u8]| {
        let files = [bench.file("ids.npy", ids), bench.file("mask.npy", mask)];
        let tokenizer = tokenizer.out("tokenizer");
        let inputs: [(&str, &[&Path]); 3] =
            [("input_ids", &[&files[0]]), ("label_mask", &[&files[1]]), ("tokenizer", &[&tokenizer])];
        bench.run::<olmo_stage_memmap::Memmap>(json!({"sequence_length": 16, "dtype": "uint16"}), &inputs)
    };
    assert_eq!(Memmap::open(&import(&raw, &mask).unwrap().out("memmap")).unwrap().instances(), 4);
    let failure = import(&npy("<u2", &raw), &mask).err().unwrap();
    assert_eq!(failure.code, "memmap::header");
    assert_eq!(
        failure.message,
        "ids.npy: is an array that numpy.save wrote, with a header; `input_ids` takes raw values, without a header"
    );
    let line = "write them raw: numpy.load(\"ids.npy\").astype(\"uint16\").tofile(\"raw-ids.npy\")";
    assert_eq!(failure.hint.unwrap(), line);
    let failure = import(&raw, &npy("|b1", &mask)).err().unwrap();
    assert!(failure.hint.unwrap().ends_with("numpy.load(\"mask.npy\").astype(\"bool\").tofile(\"raw-mask.npy\")"));
    assert!(import(&zip, &mask).err().unwrap().message.contains("is a zip archive"));
    assert!(import(&framed, &mask).err().unwrap().message.contains("is a Python pickle"));
    let old = pickle(b"\x80\x02cnumpy.core.multiarray\n_reconstruct");
    assert!(import(&old, &mask).err().unwrap().message.contains("is a Python pickle"));
    // The same two bytes as an id.
    let mut like = raw.clone();
    like[..4].copy_from_slice(&[0x80, 0x00, 0x95, 0x00]);
    assert_eq!(Memmap::open(&import(&like, &mask).unwrap().out("memmap")).unwrap().instances(), 4);
}

#[test]
fn arrow_files_of_both_kinds_are_read() {
    use arrow::array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
    use std::sync::Arc;
    let prompts: DictionaryArray<arrow::datatypes::Int32Type> = vec!["One?", "Two?", "One?"].into_iter().collect();
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(Int32Array::from(vec![7, 8, 9])) as ArrayRef),
        ("prompt", Arc::new(prompts) as ArrayRef),
        ("completion", Arc::new(StringArray::from(vec!["1", "2", "1"])) as ArrayRef),
    ])
    .unwrap();
    let mut stream = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    let mut file = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    let mut bench = Bench::new(1);
    for bytes in [stream.into_inner().unwrap(), file.into_inner().unwrap()] {
        let params = json!({"format": "prompt_completion", "dedup": true});
        let done = bench.fetch(params.clone(), &bytes).unwrap();
        let chats = dataset::read_messages(&done.out("dataset")).unwrap();
        assert_eq!(chats.iter().map(|chat| chat.id.as_str()).collect::<Vec<_>>(), ["7", "8"]);
        assert_eq!(chats[1].messages[1].text(), "2");
        assert!(done.said.contains("1 of 3 records are dropped as duplicates"), "{}", done.said);
        let failure = bench.fetch(params, &bytes[..bytes.len() / 2]).err().unwrap();
        assert!(["fetch::table", "fetch::unreadable"].contains(&failure.code.as_str()), "{failure:?}");
        assert!(failure.message.starts_with("some.jsonl"), "{}", failure.message);
    }
}

#[test]
fn parquet_of_every_codec_is_read_and_a_damaged_one_names_the_file() {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    use std::sync::Arc;
    let column =
        |text: &str| Arc::new((0..5000).map(|n| Some(format!("{text} {n}"))).collect::<StringArray>()) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("prompt", column("Say")), ("completion", column("It is"))]).unwrap();
    let mut bench = Bench::new(1);
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::LZ4,
        Compression::BROTLI(BrotliLevel::default()),
    ];
    for codec in codecs {
        let properties = parquet::file::properties::WriterProperties::builder().set_compression(codec).build();
        let mut bytes = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let done = bench.fetch(json!({"format": "prompt_completion"}), &bytes).unwrap();
        let chats = said(&done.out("dataset"));
        assert_eq!((chats.len(), chats[4999][1].text()), (5000, "It is 4999"), "{codec:?}");
        // Cut off, and with bytes of a page changed.
        let failure = bench.fetch(json!({"format": "prompt_completion"}), &bytes[..bytes.len() / 2]).err().unwrap();
        assert!(failure.message.starts_with("some.jsonl"), "{codec:?}: {failure:?}");
        if codec != Compression::UNCOMPRESSED {
            let middle = bytes.len() / 4;
            bytes[middle..middle + 400].fill(0xff);
            let failure = bench.fetch(json!({"format": "prompt_completion"}), &bytes).err().unwrap();
            assert!(failure.message.starts_with("some.jsonl"), "{codec:?}: {failure:?}");
        }
    }
}

#[test]
fn files_that_are_cut_off_are_named_with_the_line_that_was_to_be_read() {
    let lines: String = (0..400).map(|n| chat(&[("user", &format!("{n}")), ("assistant", "Yes")])).collect();
    let mut bench = Bench::new(1);
    for packed in [gz(lines.as_bytes()), zst(lines.as_bytes())] {
        let failure = bench.fetch(json!({"on_error": "skip"}), &packed[..packed.len() - 9]).err().unwrap();
        assert_eq!(failure.code, "fetch::unreadable");
        assert!(failure.message.starts_with("some.jsonl:"), "{}", failure.message);
        assert!(failure.hint.unwrap().contains("truncated"));
    }
    let plain = bench.fetch(json!({}), &lines).unwrap();
    let parquet = std::fs::read(plain.out("dataset").join("data.parquet")).unwrap();
    let failure = bench.fetch(json!({}), &parquet[..parquet.len() - 30]).err().unwrap();
    assert!(failure.message.starts_with("some.jsonl"), "{}", failure.message);
    let failure = bench.fetch(json!({}), "[{\"messages\": [").err().unwrap();
    assert_eq!(failure.code, "fetch::array");
    assert!(failure.message.starts_with("some.jsonl: after record 0: is not JSON"), "{}", failure.message);
}

#[test]
fn a_line_of_fifty_megabytes_is_left_out_by_its_number() {
    let long = chat(&[("user", &"x".repeat(50 << 20)), ("assistant", "Yes")]);
    let short = chat(&[("user", "Hi"), ("assistant", "Yes")]);
    let mut bench = Bench::new(1);
    let done = bench.fetch(json!({"on_error": "skip"}), format!("{short}{long}{short}")).unwrap();
    assert!(done.said.contains("1 line is skipped:\nsome.jsonl:2: has more than 32 MiB"), "{}", done.said);
    assert_eq!(said(&done.out("dataset")).len(), 2);
}

#[test]
fn records_are_filtered_limited_weighted_and_mixed_the_same_way_every_time() {
    let line = |n: usize| {
        let messages: Vec<Value> = (0..n % 5 + 1)
            .map(|turn| json!({"role": (["user", "assistant"][turn % 2]), "content": format!("{n} {turn}")}))
            .collect();
        json!({"dataset": (["a", "b"][n % 2]), "id": "same", "messages": messages}).to_string() + "\n"
    };
    let lines: String = (0..1000).map(line).collect();
    let mut bench = Bench::new(1);
    let filter = json!({"filter": {"datasets": ["a"], "min_messages": 2, "max_messages": 4}});
    let done = bench.fetch(filter, &lines).unwrap();
    assert!(done.said.contains("records are dropped by `filter`"), "{}", done.said);
    assert!(done.said.contains("999 records have the id of an earlier record; some.jsonl:2: has the id `same`"));
    let kept = dataset::read_messages(&done.out("dataset")).unwrap();
    assert_eq!(kept.len(), 300);
    assert!(kept.iter().all(|c| c.dataset == "a" && (2..=4).contains(&c.messages.len())));
    assert_eq!(said(&bench.fetch(json!({"limit": 7}), &lines).unwrap().out("dataset")).len(), 7);

    let [first, second] = [(); 2].map(|()| bench.fetch(json!({}), &lines).unwrap().out("dataset"));
    let file = bench.file("more.jsonl", chat(&[("user", "More"), ("assistant", "Yes")]));
    let mut mix = |weights: Value, seed: u64, threads: usize| {
        bench.threads = threads;
        let inputs: [(&str, &[&Path]); 2] = [("files", &[&file]), ("datasets", &[&first, &second])];
        let done = bench.run::<olmo_stage_fetch::Fetch>(json!({"weights": weights, "seed": seed}), &inputs);
        done.map(|done| said(&done.out("dataset")))
    };
    let mixed = mix(json!([2, 0.25, 1.5]), 1, 1).unwrap();
    assert_eq!(mixed, mix(json!([2, 0.25, 1.5]), 1, 3).unwrap());
    assert_ne!(mixed, mix(json!([2, 0.25, 1.5]), 2, 1).unwrap());
    assert_eq!(mixed[0], mixed[1]);
    assert!((1600..1900).contains(&mixed.len()), "{}", mixed.len());
    assert_eq!(mix(json!([1, 1]), 1, 1).err().unwrap().code, "fetch::params");
    assert_eq!(mix(json!([1, 1, -1]), 1, 1).err().unwrap().code, "fetch::params");
    assert_eq!(mix(json!([]), 1, 1).unwrap().len(), 2001);
}

#[test]
fn labels_and_long_chats_are_as_the_params_say() {
    let mut bench = Bench::new(2);
    let lines: String = (0..20)
        .map(|n| {
            chat(&[
                ("user", "Count."),
                ("assistant", &"one two three ".repeat(n + 1)),
                ("user", "On."),
                ("assistant", "four"),
            ])
        })
        .collect();
    let chats = bench.fetch(json!({}), lines).unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&chats]);
    let text = TextTokenizer::open(&tokenizer.out("tokenizer")).unwrap();
    let mut documents = |params: Value| {
        let done = bench.tokenize(params, &chats, &tokenizer)?;
        let documents: Vec<_> = TokensReader::open(&done.out("tokens")).unwrap().map(Result::unwrap).collect();
        Ok::<_, Failure>((documents, done.said))
    };
    let trained = |document: &olmo_data::Document| {
        let ids = document.input_ids.iter().zip(&document.label_mask).filter(|(_, label)| **label);
        text.decode(&ids.map(|(id, _)| *id).collect::<Vec<_>>(), false).unwrap()
    };
    let (last, _) = documents(json!({"train_on": {"turns": "last"}})).unwrap();
    assert!(last.iter().all(|document| trained(document) == "four<|endoftext|>"));
    let (users, _) = documents(json!({"train_on": {"roles": ["user"], "end_of_turn": false}})).unwrap();
    assert!(users.iter().all(|document| trained(document) == "Count.On."));
    let (whole, _) = documents(json!({})).unwrap();
    let over = whole.iter().filter(|document| document.input_ids.len() > 60).count();
    assert!(over > 3 && over < 20);
    let (dropped, said) = documents(json!({"max_length": 60, "too_long": "drop"})).unwrap();
    assert_eq!(dropped.len(), 20 - over);
    assert!(said.contains(&format!("{over} of 20 conversations are dropped: they have more than 60 tokens")), "{said}");
    let (split, _) = documents(json!({"max_length": 60, "too_long": "split"})).unwrap();
    assert!(split.len() > 20 && split.iter().all(|document| document.input_ids.len() <= 60));
    let tokens = |documents: &[olmo_data::Document]| documents.iter().map(|d| d.input_ids.len()).sum::<usize>();
    // The newline behind an answer may be a document of its own, of which nothing is trained.
    assert!((tokens(&whole) - 20..=tokens(&whole)).contains(&tokens(&split)));
    assert_eq!(documents(json!({"train_on": {"roles": []}})).err().unwrap().code, "tokenize::params");
    assert_eq!(documents(json!({"template": "jinja"})).err().unwrap().code, "tokenize::params");
    let (piecewise, _) = documents(json!({"template": "prepare_tulu_data"})).unwrap();
    assert_eq!(piecewise, whole);
}

#[test]
fn a_chat_template_from_a_file_is_labelled_and_one_that_fails_or_loops_names_the_record() {
    let mut bench = Bench::new(2);
    let lines = chat(&[("user", "Hi"), ("assistant", "Ho")])
        + &chat(&[("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho")]);
    let chats = bench.fetch(json!({}), lines).unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&chats]);
    let mut with = |template: &str, on_error: &str| {
        let file = bench.file("chat_template.jinja", template);
        let inputs = [chats.out("dataset"), tokenizer.out("tokenizer")];
        let ports: [(&str, &[&Path]); 3] =
            [("documents", &[&inputs[0]]), ("tokenizer", &[&inputs[1]]), ("chat_template", &[&file])];
        bench.run::<olmo_stage_tokenize::Tokenize>(json!({"template": "jinja", "on_error": on_error}), &ports)
    };
    let done =
        with("{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}\n{% endfor %}", "fail")
            .unwrap();
    let text = TextTokenizer::open(&tokenizer.out("tokenizer")).unwrap();
    let first = TokensReader::open(&done.out("tokens")).unwrap().next().unwrap().unwrap();
    let ids: Vec<u32> =
        first.input_ids.iter().zip(&first.label_mask).filter(|(_, label)| **label).map(|(id, _)| *id).collect();
    assert_eq!(text.decode(&ids, false).unwrap(), "Ho<|endoftext|>");
    let refusing = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let failure = with(refusing, "fail").err().unwrap();
    assert_eq!(failure.code, "tokenize::labels");
    let expected = "1 conversations cannot be labelled:\n  conversation `1` (record 2): the chat template fails: no system turn (line 1)";
    assert_eq!(failure.message, expected);
    let tokens = TokensReader::open(&with(refusing, "skip").unwrap().out("tokens")).unwrap();
    assert_eq!((tokens.manifest().documents, tokens.manifest().dropped), (1, 1));
    let failure =
        with("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "fail").err().unwrap();
    assert_eq!(failure.code, "tokenize::template");
    assert!(
        failure.message.contains("the chat template exceeds a limit: it takes too many steps"),
        "{}",
        failure.message
    );
}

#[test]
fn rows_of_olmos_layout_are_imported_with_an_explicit_dtype_and_checked() {
    let mut bench = Bench::new(1);
    let chats = bench.fetch(json!({}), data("tulu-heldout.jsonl")).unwrap();
    let tokenizer = bench.train_tokenizer(512, &[&chats]);
    let tokens = bench.tokenize(json!({}), &chats, &tokenizer).unwrap();
    let made = bench
        .memmap(json!({"sequence_length": 64, "pack": "padded", "csv_boundaries": true}), &tokens)
        .unwrap()
        .out("memmap");
    let read = |name: &str| std::fs::read(made.join(name)).unwrap();
    let ids = bench.file("part-0.npy", read("input_ids.npy"));
    let mask = bench.file("mask.npy", read("label_mask.npy"));
    let bounds = bench.file("part-0.csv.gz", read("boundaries.csv.gz"));
    let tokenizer = tokenizer.out("tokenizer");
    let mut import = |params: Value, ports: &[(&str, &[&Path])]| bench.run::<olmo_stage_memmap::Memmap>(params, ports);
    let all: [(&str, &[&Path]); 4] =
        [("input_ids", &[&ids]), ("label_mask", &[&mask]), ("boundaries", &[&bounds]), ("tokenizer", &[&tokenizer])];
    let params = |dtype: &str| json!({"sequence_length": 64, "dtype": dtype});
    let done = import(params("uint16"), &all).unwrap().out("memmap");
    for name in ["input_ids.npy", "label_mask.npy", "boundaries.npy"] {
        assert_eq!(std::fs::read(done.join(name)).unwrap(), read(name), "{name}");
    }
    let failure = import(params("auto"), &all).err().unwrap();
    assert_eq!(failure.code, "memmap::dtype");
    let failure = import(params("uint32"), &all[..1]).err().unwrap();
    assert!(failure.message.contains("without a `tokenizer`"), "{}", failure.message);
    let failure = import(params("uint32"), &[all[0], all[3]]).err().unwrap();
    assert_eq!(failure.code, "data::over_vocabulary");
    assert!(failure.hint.unwrap().contains("a dtype other than"));
    let failure = import(params("uint16"), &[all[0], ("label_mask", &[&ids]), all[3]]).err().unwrap();
    assert_eq!(failure.code, "memmap::label_mask");
    assert_eq!(import(params("uint16"), &[]).err().unwrap().code, "memmap::params");
}

#[test]
fn best_fit_leaves_next_to_no_padding_and_uint16_is_refused_where_it_would_wrap() {
    let mut bench = Bench::new(2);
    let chats = bench.fetch(json!({}), data("tulu-sample.jsonl")).unwrap();
    let tokenizer = bench.train_tokenizer(768, &[&chats]);
    let tokens = bench.tokenize(json!({}), &chats, &tokenizer).unwrap();
    let done = bench.memmap(json!({"sequence_length": 512, "pack": "best_fit"}), &tokens).unwrap();
    let manifest = Memmap::open(&done.out("memmap")).unwrap().manifest().clone();
    assert!(manifest.padding * 50 < manifest.count, "{} of {}", manifest.padding, manifest.count);
    assert_eq!(manifest.labels, TokensReader::open(&tokens.out("tokens")).unwrap().manifest().labels);
    // The same tokens under a vocabulary that needs four bytes.
    let dir = tokens.out("tokens");
    let path = dir.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["vocab_size"] = json!(100_278);
    std::fs::write(path, manifest.to_string()).unwrap();
    let failure = bench.memmap(json!({"sequence_length": 512, "dtype": "uint16"}), &tokens).err().unwrap();
    assert_eq!(failure.code, "data::dtype");
    assert!(failure.hint.unwrap().contains("wrap"));
}
