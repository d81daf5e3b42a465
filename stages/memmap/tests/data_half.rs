//! The four stages from files to rows, each run as a worker runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_data::dataset::{self, Kind};
use olmo_data::tokens::TokensReader;
use olmo_data::{Memmap, TextTokenizer};
use olmo_stage::journal;
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
            backend: "flex".into(),
        };
        std::fs::write(dir.join(REQUEST), serde_json::to_vec(&request).unwrap()).unwrap();
        let ended = (entry.run)(&mut Context::open(&dir).unwrap());
        let said = journal::read::<Event>(&dir.join(EVENTS)).unwrap().into_iter().filter_map(|event| match event {
            Event::Message { level, text } => Some(format!("{level}: {text}\n")),
            _ => None,
        });
        match ended {
            Ok(()) => Ok(Done { said: said.collect(), dir }),
            Err(StageError::Failed(failure)) => Err(failure),
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
        let expected: String = answers.map(|message| format!("{}<|endoftext|>", message.content)).collect();
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
    let row = concat.instance(0);
    assert_eq!(row.label_mask, None, "every token of plain text is a target");
    let said = tokenizer.decode(&row.input_ids, false).unwrap();
    assert!((lines.join("<|endoftext|>") + "<|endoftext|>").starts_with(&said), "{said}");
}

#[test]
fn bad_lines_are_all_named_with_file_line_and_reason() {
    let mut content = chat(&[("user", "Hi"), ("assistant", "Hello")]).into_bytes();
    content.extend_from_slice(b"{\"messages\": [\n\n\xff\xfe\n");
    content.extend_from_slice(chat(&[("user", "Hi"), ("bot", "Hello")]).as_bytes());
    content.extend_from_slice(chat(&[("user", " \n"), ("assistant", "Hello")]).as_bytes());
    let mut bench = Bench::new(1);
    let failure = bench.fetch(json!({}), &content).err().unwrap();
    assert_eq!(failure.code, "fetch::bad_lines");
    assert_eq!(
        failure.message,
        "4 lines are bad:\n\
         some.jsonl:2: is not JSON: EOF while parsing a list at column 14\n\
         some.jsonl:4: is not UTF-8 (byte 1 of the line)\n\
         some.jsonl:5: message 2 has the unknown role `bot`, expected system, user or assistant\n\
         some.jsonl:6: message 1 (user) has empty content"
    );
    assert!(failure.hint.unwrap().contains("on_error: skip"));

    let done = bench.fetch(json!({"on_error": "skip"}), &content).unwrap();
    let manifest = dataset::manifest(&done.out("dataset")).unwrap();
    assert_eq!((manifest.records, manifest.skipped), (1, 4));
    assert!(done.said.contains("warning: 4 lines are left out:\nsome.jsonl:2:"), "{}", done.said);
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
    assert!(tokens.said.contains("warning: 1 of 2 conversations are left out"), "{}", tokens.said);
    assert!(tokens.said.contains("eos `<|endoftext|>` is id 0, pad `<|padding|>` is id 1"), "{}", tokens.said);

    let unanswered = bench.fetch(json!({}), chat(&[("user", "Hi")])).unwrap();
    assert_eq!(bench.tokenize(json!({}), &unanswered, &tokenizer).err().unwrap().code, "tokenize::nothing_left");
}

#[test]
fn a_vocabulary_larger_than_the_documents_give_is_warned_of() {
    let mut bench = Bench::new(2);
    let text = bench.fetch(json!({"format": "text"}), "One.\nOne.\n").unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&text]);
    assert!(tokenizer.said.contains("the documents gave 260 tokens, fewer than vocab_size 300"), "{}", tokenizer.said);
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
    assert!(cut.said.contains(&format!("1 of 1 conversations are cut off at {length} tokens")), "{}", cut.said);
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
    assert!(tokens.said.contains("1 records hold the text `<|endoftext|>`"), "{}", tokens.said);
}

#[test]
fn a_template_for_the_other_kind_of_dataset_is_refused() {
    let mut bench = Bench::new(2);
    let text = bench.fetch(json!({"format": "text"}), "One.\nTwo.\n").unwrap();
    let tokenizer = bench.train_tokenizer(300, &[&text]);
    let failure = bench.tokenize(json!({}), &text, &tokenizer).err().unwrap();
    assert!(failure.message.contains("holds text documents, but conversations are wanted here"), "{}", failure.message);
    assert!(failure.hint.unwrap().contains("`text` with template `plain`"));
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
    assert!(failure.message.starts_with("1 documents of "), "{}", failure.message);
    let done = bench.memmap(json!({"sequence_length": 64}), &tokens).unwrap();
    assert_eq!(Memmap::open(&done.out("memmap")).unwrap().instances(), 1);
    assert_eq!(bench.memmap(json!({"sequence_length": 1}), &tokens).err().unwrap().code, "memmap::params");
    assert_eq!(bench.memmap(json!({}), &tokens).err().unwrap().code, "worker::params");
}
