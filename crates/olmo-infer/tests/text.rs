//! Texts in and out of a model with a tokenizer and a chat template (tests/fixtures/hf_chat).

use std::path::{Path, PathBuf};

use olmo_base::Digest;
use olmo_infer::text::{
    Answer, AnswerFile, AnswerRecord, Content, Listener, ModelText, Prompt, TextDecoder, TextOptions, TokenizerPlaces,
    complete,
};
use olmo_infer::{Finish, LanguageModel, Placement, Sampling, open};
use olmo_stage::StageError;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf_chat")
}

fn text() -> ModelText {
    ModelText::open(&folder(), TokenizerPlaces::default(), None, "test").expect("a tokenizer")
}

fn model() -> Box<dyn LanguageModel> {
    let placement = Placement { compute: olmo_stage::Compute::FLEX, device: "cpu", stage: "test" };
    open(&folder(), &placement).expect("a model")
}

fn prompts(texts: &[&str]) -> Vec<Prompt> {
    let contents = texts.iter().map(|text| Content::Text((*text).to_owned()));
    contents.enumerate().map(|(index, content)| Prompt { index: index as u64, content }).collect()
}

/// Collects answers, and the pieces of their texts.
#[derive(Default)]
struct Collected {
    answers: Vec<(u64, Vec<Answer>)>,
    pieces: std::collections::BTreeMap<(u64, u64), String>,
}

impl Listener for Collected {
    fn text(&mut self, prompt: &Prompt, sample: u64, text: &str) -> Result<(), StageError> {
        self.pieces.entry((prompt.index, sample)).or_default().push_str(text);
        Ok(())
    }

    fn answered(&mut self, prompt: &Prompt, answers: Vec<Answer>) -> Result<(), StageError> {
        self.answers.push((prompt.index, answers));
        Ok(())
    }
}

fn answer(prompts: &[Prompt], options: &TextOptions) -> Vec<Vec<Answer>> {
    let mut collected = Collected::default();
    complete(&*model(), &text(), prompts, options, &mut collected).expect("answers");
    for (index, answers) in &collected.answers {
        for (sample, answer) in answers.iter().enumerate() {
            let pieces = collected.pieces.get(&(*index, sample as u64)).cloned().unwrap_or_default();
            assert_eq!(pieces, answer.text, "the pieces are the answer");
        }
    }
    collected.answers.sort_by_key(|(index, _)| *index);
    assert_eq!(collected.answers.len(), prompts.len());
    collected.answers.into_iter().map(|(_, answers)| answers).collect()
}

#[test]
fn a_text_that_comes_token_by_token_is_the_text_of_all_tokens() {
    let text = text();
    let tokenizer = text.tokenizer();
    for words in ["Hello, world!", "naïve café: 🦀🦀 → ∑ßé\n\n日本語 text", " leading and trailing ", ""]
    {
        let ids = tokenizer.encode_text(words).expect("ids");
        let mut decoder = TextDecoder::new(true);
        let mut came = String::new();
        for id in &ids {
            let piece = decoder.push(tokenizer, *id).expect("text");
            assert!(!piece.contains('\u{fffd}'), "half a character in {piece:?}");
            came += &piece;
        }
        came += &decoder.finish(tokenizer).expect("text");
        assert_eq!(came, words);
    }
    // Bytes that are no text end as replacement characters, as they do together.
    let ids = tokenizer.encode_text("🦀").expect("ids");
    assert!(ids.len() > 1, "the crab has several tokens");
    let mut decoder = TextDecoder::new(true);
    assert_eq!(decoder.push(tokenizer, ids[0]).expect("text"), "");
    assert_eq!(decoder.finish(tokenizer).expect("text"), tokenizer.decode(&ids[..1], true).expect("text"));
}

#[test]
fn answers_are_texts_with_their_tokens_and_end_before_stop_strings() {
    let options = TextOptions { max_new_tokens: 24, ignores_eos: true, ..TextOptions::default() };
    let plain = answer(&prompts(&["Hello", "One two"]), &options);
    for answers in &plain {
        let [answer] = &answers[..] else { panic!("one answer") };
        assert_eq!((answer.tokens.len(), answer.finish), (24, Finish::Length));
        assert_eq!(answer.text, text().tokenizer().decode(&answer.tokens, true).expect("text"));
    }
    let whole = &plain[0][0].text;
    let middle: String = whole.chars().skip(whole.chars().count() / 2).take(3).collect();
    let stopped = answer(&prompts(&["Hello"]), &TextOptions { stop: vec![middle.clone()], ..options });
    let first = &stopped[0][0];
    assert_eq!(first.text, whole[..whole.find(&middle).expect("it is there")]);
    assert_eq!(first.finish, Finish::Stop);
    assert!(first.tokens.len() < 24);
}

#[test]
fn samples_differ_and_do_not_depend_on_other_prompts() {
    let sampling = Sampling { temperature: 1.0, seed: 1, ..Sampling::default() };
    let options = TextOptions { max_new_tokens: 8, samples: 3, sampling, ignores_eos: true, ..TextOptions::default() };
    let both = answer(&prompts(&["Hello", "One two"]), &options);
    let texts: std::collections::BTreeSet<&str> = both[0].iter().map(|answer| answer.text.as_str()).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    let second = &prompts(&["Hello", "One two"])[1..];
    assert_eq!(answer(second, &options)[0], both[1]);
}

#[test]
fn prompts_that_cannot_be_answered_are_named() {
    let refuse = |content: Content, options: &TextOptions| {
        let prompts = [Prompt { index: 4, content }];
        match complete(&*model(), &text(), &prompts, options, &mut Collected::default()) {
            Err(StageError::Failed(failure)) => format!("{}: {}", failure.code, failure.message),
            other => panic!("{other:?}"),
        }
    };
    let options = TextOptions::default();
    assert_eq!(refuse(Content::Text(String::new()), &options), "test::empty: prompt 5: the prompt is empty");
    let long = refuse(Content::Text("a b c d ".repeat(200)), &options);
    assert!(long.starts_with("test::too_long: prompt 5 has ") && long.contains("256"), "{long}");
    let beyond = refuse(Content::Tokens(vec![1_000_000]), &options);
    assert!(beyond.starts_with("test::model: prompt 5: ") && beyond.contains("1000000"), "{beyond}");
    let none = TextOptions { max_new_tokens: 0, ..options.clone() };
    assert!(refuse(Content::Text("a".into()), &none).contains("`max_new_tokens` is 0"));
    let nan = Sampling { temperature: f64::NAN, ..Sampling::default() };
    assert!(refuse(Content::Text("a".into()), &TextOptions { sampling: nan, ..options }).contains("`temperature`"));
}

#[test]
fn unfinished_answers_go_on_with_the_same_settings_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let (journal, output) = (dir.path().join("a.jsonl.partial"), dir.path().join("a.jsonl"));
    let options = TextOptions { max_new_tokens: 3, logprobs: Some(2), ..TextOptions::default() };
    let asked = prompts(&["Hello", "One", "Two"]);
    let record = |prompt: &Prompt| {
        let answers = answer(std::slice::from_ref(prompt), &options).remove(0);
        AnswerRecord::new(&text(), prompt, answers).expect("a record")
    };
    let settings = Digest::of(b"settings");
    let mut file = AnswerFile::open(&journal, settings).expect("a new file");
    file.add(record(&asked[2])).expect("written");
    let busy = AnswerFile::open(&journal, settings).err().map(|error| format!("{error:?}")).unwrap_or_default();
    assert!(busy.contains("another process"), "{busy}");
    drop(file);
    // A line that was torn by a kill.
    let mut bytes = std::fs::read(&journal).expect("a journal");
    bytes.extend_from_slice(b"{\"c\":\"01");
    std::fs::write(&journal, bytes).expect("written");

    let other = AnswerFile::open(&journal, Digest::of(b"other")).err().map(|error| format!("{error:?}"));
    assert!(other.is_some_and(|error| error.contains("other options")));
    let mut file = AnswerFile::open(&journal, settings).expect("the same file");
    assert_eq!((file.len(), file.has(2), file.has(0)), (1, true, false));
    file.add(record(&asked[1])).expect("written");
    file.add(record(&asked[0])).expect("written");
    file.finish(&output).expect("written");
    assert!(!journal.exists());
    let lines = std::fs::read_to_string(&output).expect("the output");
    let records: Vec<AnswerRecord> = lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!(records, asked.iter().map(record).collect::<Vec<_>>());
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!((line["index"].as_u64(), line["prompt"].as_str()), (Some(0), Some("Hello")));
    assert_eq!(line["answers"][0]["logprobs"].as_array().map(Vec::len), Some(3));
    assert_eq!(line["answers"][0]["logprobs"][0]["top"].as_array().map(Vec::len), Some(2));
}

#[test]
fn messages_use_the_models_template_and_its_stop_tokens() {
    let text = text();
    let question = Content::question(Some("Be kind."), "Hi");
    let ids = text.encode(&question).expect("ids");
    let shown = text.tokenizer().decode(&ids, false).expect("text");
    assert!(shown.contains("Be kind.") && shown.contains("Hi") && shown.len() > "Be kind.Hi".len() + 8, "{shown}");
    let options = TextOptions::default();
    let stops = options.for_content(&text, &question).expect("options").stop_token_ids;
    assert_eq!(stops, text.end_of_answer_ids().expect("stops"));
    let ignoring = TextOptions { ignores_eos: true, stop_token_ids: vec![7], ..options };
    assert_eq!(ignoring.for_content(&text, &question).expect("options").stop_token_ids, [7]);
}
