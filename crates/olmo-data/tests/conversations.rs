//! Conversations from messages to labelled ids, with tokenizers of three kinds made from the small
//! one in `fixtures/`, and with the rows that OLMo's own script makes with them (`scripts/goldens/tulu.py`). Where
//! `OLMO_PIPE_SHARED` names a folder that has them, OLMo's own tokenizers are taken too.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use olmo_data::chat::Source;
use olmo_data::conversation::strip;
use olmo_data::tokenizer::SpecialStrings;
use olmo_data::{
    Chat, Conversation, Document, DocumentBuffer, Labels, Message, MessageRef, Rendered, Role, Template, TextTokenizer,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const EOS: &str = "<|endoftext|>";
const PAD: &str = "<|padding|>";
/// How dolma2 (and cl100k before it) splits text into words.
const DOLMA2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn open(json: &Value) -> TextTokenizer {
    TextTokenizer::from_bytes(Path::new("tokenizer.json"), json.to_string().as_bytes(), EOS, PAD).unwrap()
}

static TOKENIZERS: LazyLock<[(&str, TextTokenizer); 3]> = LazyLock::new(tokenizers);
/// The same without what makes them fast.
static SLOW: LazyLock<[(&str, TextTokenizer); 3]> =
    LazyLock::new(|| tokenizers().map(|(name, tokenizer)| (name, tokenizer.without_shortcuts())));

/// As it is; normalising and with a post-processor that trims offsets (GPT-NeoX); splitting like dolma2.
fn tokenizers() -> [(&'static str, TextTokenizer); 3] {
    let byte_level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let mut neox = fixture();
    neox["normalizer"] = json!({"type": "NFC"});
    neox["pre_tokenizer"] = byte_level(true);
    neox["post_processor"] = byte_level(true);
    let mut dolma2 = fixture();
    let split = json!({"type": "Split", "pattern": {"Regex": DOLMA2}, "behavior": "Isolated", "invert": false});
    dolma2["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]});
    dolma2["post_processor"] = byte_level(false);
    [("plain", open(&fixture())), ("neox", open(&neox)), ("dolma2", open(&dolma2))]
}

fn labelled(document: &Document) -> Vec<u32> {
    let labelled = document.input_ids.iter().zip(&document.label_mask).filter(|(_, label)| **label);
    labelled.map(|(id, _)| *id).collect()
}

/// The ids as OLMo's script makes them: eos, then header and content of each turn on their own.
fn piecewise(tokenizer: &TextTokenizer, messages: &[Message]) -> Document {
    let eos = &tokenizer.special().eos_token;
    let mut document = Document { input_ids: vec![tokenizer.special().eos_token_id], label_mask: vec![false] };
    for message in messages {
        let mut push = |text: String, labelled: bool| {
            let ids = tokenizer.encode_text(&text).unwrap();
            document.label_mask.extend(ids.iter().map(|_| labelled));
            document.input_ids.extend(ids);
        };
        push(format!("<|{}|>\n", message.role), false);
        let content = strip(message.text());
        if message.role == Role::Assistant {
            push(format!("{content}{eos}\n"), true);
            *document.label_mask.last_mut().unwrap() = false;
        } else {
            push(format!("{content}\n"), false);
        }
    }
    document
}

fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
        "\u{1f}",
        "\u{85}",
        "é",
        "e\u{301}",
        "\u{301}",
        "ｅ",
        "漢字",
        "한",
        "\u{1112}\u{1161}",
        "🦀",
        "👩\u{200d}👩\u{200d}👧",
        "ﷺ",
        "ﬁ",
        "\u{200b}",
        "\u{feff}",
        "<|user|>",
        "<|assistant|>\n",
        "|>",
        "<",
        ">",
        "a",
        " the",
        "'s",
        "4.",
        "?",
        "!!\n",
        "123456",
        "\0",
    ]);
    let pieces = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    prop_oneof![4 => pieces, 1 => any::<String>()]
}

fn conversations() -> impl Strategy<Value = Vec<Message>> {
    let turn = (prop::sample::select(Role::ALL.to_vec()), hostile_text());
    prop::collection::vec(turn.prop_map(|(role, content)| Message::new(role, content)), 1..=6)
}

proptest! {
    // A failure prints its smallest case; it becomes a test by name, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn the_labelled_tokens_say_the_assistants_turns_and_their_ends(messages in conversations()) {
        for template in Template::ALL {
            let rendered = template.render(&messages, EOS, false);
            let answers = messages.iter().filter(|message| message.role == Role::Assistant);
            let body = |message: &'_ Message| match template {
                Template::Tulu => strip(message.text()).to_owned(),
                Template::Olmo2 | Template::Chatml => message.text().to_owned(),
            };
            let end = if template == Template::Chatml { "<|im_end|>" } else { EOS };
            let bodies: Vec<String> = answers.map(body).collect();
            for (name, tokenizer) in TOKENIZERS.iter() {
                let document = tokenizer.encode_conversation(&rendered).unwrap();
                // A body is trained as the tokenizer normalises it, with tokens that reach beyond it.
                let said = tokenizer.decode(&labelled(&document), false).unwrap();
                let bodies: Vec<String> = bodies.iter().map(|body| format!("{body}{end}")).collect();
                if *name != "neox" && template == Template::Tulu {
                    prop_assert_eq!(said, bodies.concat(), "{}", name);
                } else if *name != "neox" {
                    let mut rest = said.as_str();
                    for body in &bodies {
                        let at = rest.find(body.as_str());
                        prop_assert!(at.is_some(), "{}: {:?} in {:?}", name, body, said);
                        rest = &rest[at.unwrap() + body.len()..];
                    }
                }
                if template != Template::Chatml {
                    prop_assert_eq!(document.input_ids[0], tokenizer.special().eos_token_id);
                }
                prop_assert!(!document.label_mask[0]);
            }
        }
    }

    // 20,000 hostile strings: one of its own, and those of a conversation.
    #[test]
    fn the_fast_way_gives_the_ids_of_the_slow_one(text in hostile_text(), messages in conversations()) {
        for ((name, fast), (_, slow)) in TOKENIZERS.iter().zip(SLOW.iter()) {
            prop_assert_eq!(fast.encode_text(&text).unwrap(), slow.encode_text(&text).unwrap(), "{}", name);
            for message in &messages {
                prop_assert_eq!(fast.encode_text(message.text()).unwrap(), slow.encode_text(message.text()).unwrap(), "{}", name);
            }
            for template in Template::ALL {
                let rendered = template.render(&messages, EOS, false);
                prop_assert_eq!(fast.encode_conversation(&rendered).unwrap(), slow.encode_conversation(&rendered).unwrap(), "{}", name);
            }
        }
    }

    #[test]
    fn one_text_gives_the_ids_that_olmos_pieces_give(messages in conversations()) {
        let rendered = Template::Tulu.render(&messages, EOS, false);
        for (name, tokenizer) in TOKENIZERS.iter() {
            let pieces = piecewise(tokenizer, &messages);
            prop_assert_eq!(&tokenizer.encode_conversation(&rendered).unwrap(), &pieces, "{}", name);
            prop_assert_eq!(in_pieces(tokenizer, &messages), pieces, "{}", name);
        }
    }

    #[test]
    fn the_jinja_template_makes_the_same_text(messages in conversations()) {
        let conversation = Conversation { messages, ..Conversation::default() };
        for template in Template::ALL {
            let chat = jinja(template);
            let expected = template.render(&conversation.messages, EOS, true);
            prop_assert_eq!(chat.prompt(&conversation).unwrap(), expected.text);
            let expected = template.render(&conversation.messages, EOS, false);
            let found = chat.render(&conversation, &Labels::default()).unwrap();
            prop_assert_eq!(&found.text, &expected.text);
            let bodies = |rendered: &Rendered| -> Vec<_> { rendered.turns.iter().map(|turn| turn.body.clone()).collect() };
            prop_assert_eq!(bodies(&found), bodies(&expected));
            prop_assert_eq!(found.labelled, expected.labelled);
        }
    }
}

/// The document that the tokenizer makes of a conversation piece by piece.
fn in_pieces(tokenizer: &TextTokenizer, messages: &[Message]) -> Document {
    let mut document = DocumentBuffer::default();
    let messages = messages.iter().map(MessageRef::from);
    tokenizer.encode_piecewise(messages, &mut String::new(), &mut document).unwrap();
    document.into()
}

/// The template as any other: by its text in Jinja alone.
fn jinja(template: Template) -> Chat {
    let special = SpecialStrings { eos: EOS.into(), ..SpecialStrings::default() };
    let added = [(0, EOS.to_owned()), (1, "<|im_end|>".to_owned())];
    let source = Source::Jinja(template.jinja().into());
    Chat::new(&source, &special, &added, None, olmo_base::Digest::of(b"")).unwrap()
}

#[test]
fn the_labels_are_those_that_were_asked_for() {
    let chat = [
        Message::new(Role::System, "Be kind."),
        Message::new(Role::User, "One?"),
        Message::new(Role::Assistant, "Yes, one."),
        Message::new(Role::User, "Two?"),
        Message::new(Role::Assistant, "Yes, two."),
    ];
    let both = vec![Role::User, Role::Assistant];
    let cases = [
        (Labels::default(), "Yes, one.<E>Yes, two.<E>"),
        (Labels { end_of_turn: false, ..Labels::default() }, "Yes, one.Yes, two."),
        (Labels { last_turn_only: true, ..Labels::default() }, "Yes, two.<E>"),
        (Labels { roles: both.clone(), ..Labels::default() }, "One?<U>Yes, one.<E>Two?<U>Yes, two.<E>"),
        (Labels { roles: both, end_of_turn: false, last_turn_only: true }, "Yes, two."),
        (Labels { roles: vec![Role::System], ..Labels::default() }, "Be kind.<U>"),
    ];
    for template in Template::ALL {
        let (end, user) = if template == Template::Chatml { ("<|im_end|>", "<|im_end|>") } else { (EOS, "") };
        for (labels, expected) in &cases {
            for (name, tokenizer) in TOKENIZERS.iter() {
                let rendered = template.render(&chat, EOS, false).with(labels);
                let document = tokenizer.encode_conversation(&rendered).unwrap();
                let said = tokenizer.decode(&labelled(&document), false).unwrap();
                assert_eq!(said, expected.replace("<E>", end).replace("<U>", user), "{name} {template:?}");
            }
        }
    }
}

#[test]
fn one_to_six_turns_with_and_without_a_system_turn_are_labelled_by_every_template() {
    for template in Template::ALL {
        for system in [false, true] {
            for turns in 1..=6 {
                let mut chat: Vec<Message> =
                    system.then(|| Message::new(Role::System, "Be short.")).into_iter().collect();
                for turn in 0..turns {
                    let role = [Role::User, Role::Assistant][turn % 2];
                    chat.push(Message::new(role, format!("Turn {turn}, <b>ünïcode 漢</b>!\n")));
                }
                let rendered = template.render(&chat, EOS, false);
                // The same template as Hugging Face has it finds the same turns.
                let conversation = Conversation { messages: chat.clone(), ..Conversation::default() };
                let found = jinja(template).render(&conversation, &Labels::default()).unwrap();
                assert_eq!(found.text, rendered.text, "{template:?}");
                assert_eq!(found.labelled, rendered.labelled, "{template:?}");
                for (name, tokenizer) in TOKENIZERS.iter() {
                    let document = tokenizer.encode_conversation(&rendered).unwrap();
                    assert_eq!(document.labels() == 0, turns == 1, "{name} {template:?} {turns}");
                }
            }
        }
    }
}

/// The rows that OLMo's script made of `fixtures/tulu/chats.jsonl` with the tokenizer that `variants.json` says.
#[test]
fn prepare_tulu_data_makes_the_bytes_of_olmos_script() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tulu");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let variants: Value = serde_json::from_slice(&read("variants.json")).unwrap();
    let chats = String::from_utf8(read("chats.jsonl")).unwrap();
    assert_eq!(variants.as_object().unwrap().len(), 3);
    for (name, variant) in variants.as_object().unwrap() {
        let mut json = fixture();
        for (key, value) in variant["changes"].as_object().unwrap() {
            json[key] = value.clone();
        }
        let bytes = json.to_string().into_bytes();
        let bare = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        let token = |id: &Value| bare.id_to_token(id.as_u64().unwrap() as u32).unwrap();
        let (eos, pad) = (token(&variant["eos"]), token(&variant["pad"]));
        let tokenizer = TextTokenizer::from_bytes(Path::new("t.json"), &bytes, &eos, &pad).unwrap();
        assert_eq!(tokenizer.special().pad_token_id, variant["pad"].as_u64().unwrap() as u32);
        let length = variant["seq_len"].as_u64().unwrap() as usize;
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for line in chats.split('\n').filter(|line| !line.is_empty()) {
            let chat: Value = serde_json::from_str(line).unwrap();
            let message = |turn: &Value| {
                Message::new(turn["role"].as_str().unwrap().parse().unwrap(), turn["content"].as_str().unwrap())
            };
            let messages: Vec<Message> = chat["messages"].as_array().unwrap().iter().map(message).collect();
            let mut document = in_pieces(&tokenizer, &messages);
            document.truncate(length);
            if document.labels() > 0 {
                document.input_ids.resize(length, tokenizer.special().pad_token_id);
                document.label_mask.resize(length, false);
                ids.extend(document.input_ids.iter().flat_map(|id| (*id as u16).to_le_bytes()));
                mask.extend(document.label_mask.iter().map(|label| u8::from(*label)));
            }
        }
        assert!(ids == read(&format!("{name}.input_ids.npy")), "{name}");
        assert!(mask == read(&format!("{name}.label_mask.npy")), "{name}");
    }
}

#[test]
fn a_tokenizer_that_lacks_the_token_names_those_it_has() {
    let bytes = fixture().to_string();
    let open = |eos: &str| TextTokenizer::from_bytes(Path::new("tokenizer.json"), bytes.as_bytes(), eos, PAD).err();
    let error = open("<|end_of_text|>").unwrap().to_string();
    assert_eq!(
        error,
        "tokenizer.json: has no token `<|end_of_text|>` for eos_token; \
         nearest: `<|endoftext|>` (id 0), `<|padding|>` (id 1); to take the first, set `eos_token: \"<|endoftext|>\"`"
    );
    let error = open("a").map(|e| e.to_string());
    assert_eq!(error, None, "a letter is one token, if an odd one for eos");
}

#[test]
fn the_token_named_first_is_one_for_that_purpose() {
    let mut json = fixture();
    for (id, content) in [(900, "<|pad_it|>"), (901, "<|im_pad|>"), (902, "</s>"), (903, "<|padder|>")] {
        let added = json["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["id"] = json!(id);
        token["content"] = json!(content);
        added.push(token);
    }
    let bytes = json.to_string();
    let error = |eos: &str, pad: &str| {
        TextTokenizer::from_bytes(Path::new("t.json"), bytes.as_bytes(), eos, pad).err().unwrap().to_string()
    };
    assert!(error(EOS, "<|im_pad>").ends_with("to take the first, set `pad_token: \"<|im_pad|>\"`"));
    // Spelled like the wanted one, but not for padding.
    assert!(
        error(EOS, "<|endofpad|>").contains("nearest: `<|")
            && !error(EOS, "<|endofpad|>").contains("nearest: `<|endof")
    );
    assert!(error("<s>", PAD).contains("set `eos_token: \"</s>\"`"));
}

#[test]
fn byte_level_bpe_takes_the_fast_way_and_other_kinds_do_not() {
    assert!(TOKENIZERS.iter().all(|(_, tokenizer)| tokenizer.has_shortcut()));
    assert!(!SLOW.iter().any(|(_, tokenizer)| tokenizer.has_shortcut()));
    fn byte_level(add_prefix_space: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true})
    }
    let changed = |change: fn(&mut Value)| {
        let mut json = fixture();
        change(&mut json);
        open(&json).has_shortcut()
    };
    assert!(changed(|json| json["decoder"] = Value::Null));
    assert!(changed(|json| json["post_processor"] = byte_level(false)));
    // Each of these would give other ids, or lengths that are not known.
    assert!(!changed(|json| json["normalizer"] = json!({"type": "Lowercase"})));
    assert!(!changed(|json| json["pre_tokenizer"] = json!({"type": "Whitespace"})));
    assert!(!changed(|json| json["pre_tokenizer"] = byte_level(true)));
    assert!(!changed(|json| json["model"]["byte_fallback"] = json!(true)));
    assert!(!changed(|json| json["model"]["end_of_word_suffix"] = json!("</w>")));
    assert!(!changed(|json| json["added_tokens"][1]["lstrip"] = json!(true)));
    assert!(!changed(|json| json["added_tokens"][1]["single_word"] = json!(true)));
    assert!(!changed(|json| {
        let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocabulary.remove("Ċ").unwrap();
        vocabulary.insert("no newline".into(), id);
    }));
}

#[test]
fn the_fast_way_gives_the_ids_of_the_slow_one_for_the_committed_corpus() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let mut texts = 0;
    for name in ["sentences.txt", "tulu-sample.jsonl", "tulu-heldout.jsonl", "README.md"] {
        let text = std::fs::read_to_string(data.join(name)).unwrap();
        for ((kind, fast), (_, slow)) in TOKENIZERS.iter().zip(SLOW.iter()) {
            for line in text.lines() {
                let (ours, theirs) = (fast.encode_text(line).unwrap(), slow.encode_text(line).unwrap());
                assert_eq!(ours, theirs, "{kind}: {line}");
                texts += 1;
            }
            assert_eq!(fast.encode_text(&text).unwrap(), slow.encode_text(&text).unwrap(), "{kind}: {name}");
        }
    }
    assert!(texts > 40_000, "{texts}");
}

/// A tokenizer whose artifact was written is opened without the library for every kind; the ids are
/// the same, and so is what needs that library after all.
#[test]
fn an_opened_tokenizer_gives_the_ids_of_the_one_that_was_saved() {
    for (name, saved) in TOKENIZERS.iter() {
        let dir = tempfile::tempdir().unwrap();
        let json = match *name {
            "plain" => fixture(),
            _ => {
                let mut json = fixture();
                json["normalizer"] = json!({"type": "NFC"});
                json
            }
        };
        let written = open(&json);
        written.save(dir.path(), json.to_string().as_bytes()).unwrap();
        let opened = TextTokenizer::open(dir.path()).unwrap();
        assert!(opened.has_shortcut());
        assert_eq!((opened.special(), opened.record()), (written.special(), written.record()), "{name}");
        assert_eq!(opened.added_tokens(), saved.added_tokens());
        // The second text is not in the form NFC.
        for text in ["I'm 12 <|endoftext|>\n", "e\u{301}\u{212a}", "漢\u{1112}\u{1161}"] {
            assert_eq!(opened.encode(text).unwrap(), written.encode(text).unwrap(), "{name}: {text}");
        }
        assert_eq!(opened.id_to_token(opened.special().eos_token_id).as_deref(), Some(EOS));
        // Probes of another tokenizer are noticed.
        let probes = dir.path().join("probes.json");
        let text = std::fs::read_to_string(&probes).unwrap();
        let at = text.find("\": \"").unwrap() + 4;
        std::fs::write(&probes, format!("{}9{}", &text[..at], &text[at..])).unwrap();
        let opened = TextTokenizer::open(dir.path()).unwrap();
        assert_eq!(opened.record().probes, written.record().probes, "{name}");
    }
}

#[test]
fn tokenizers_that_split_text_differently_are_told_apart() {
    let [plain, neox, dolma2] = [0, 1, 2].map(|kind| TOKENIZERS[kind].1.record().probes.clone().unwrap());
    assert_eq!(plain.difference(&plain), None);
    let difference = neox.difference(&dolma2).unwrap();
    let encode = |kind: usize| {
        let ids = TOKENIZERS[kind].1.encode_text(&difference.text).unwrap();
        ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(difference.ids, [encode(1), encode(2)]);
    // Another control token is no difference.
    let mut more = fixture();
    let mut token = more["added_tokens"][0].clone();
    token["id"] = json!(more["model"]["vocab"].as_object().unwrap().len() + 500);
    token["content"] = json!("<|im_start|>");
    more["added_tokens"].as_array_mut().unwrap().push(token);
    assert_eq!(open(&more).record().probes, Some(plain));
}

#[test]
fn dropout_in_the_file_changes_no_id() {
    let text = "the river and the stone and the lamp that the river took";
    let want = open(&fixture()).encode_text(text).unwrap();
    let mut json = fixture();
    json["model"]["dropout"] = json!(0.9);
    for tokenizer in [open(&json), open(&json).without_shortcuts()] {
        for _ in 0..5 {
            assert_eq!(tokenizer.encode_text(text).unwrap(), want);
        }
    }
}

#[test]
fn a_merge_that_text_is_split_before_is_no_end_token() {
    // ` the` is in the vocabulary; with the digits split off, `a1` is not one token.
    let mut json = fixture();
    json["model"]["vocab"]["a1"] = json!(9000);
    let error = TextTokenizer::from_bytes(Path::new("t.json"), json.to_string().as_bytes(), "a1", PAD).err().unwrap();
    assert!(error.to_string().contains("`a1` is id 9000, but it is not encoded as that one token in text"));
}

#[test]
fn the_artifact_opens_again_and_a_changed_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fixture().to_string().into_bytes();
    let tokenizer = open(&fixture());
    tokenizer.save(dir.path(), &bytes).unwrap();
    let opened = TextTokenizer::open(dir.path()).unwrap();
    assert_eq!((opened.special(), opened.digest()), (tokenizer.special(), tokenizer.digest()));
    let path = dir.path().join("special_tokens.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"eos_token_id\": 0", "\"eos_token_id\": 5")).unwrap();
    assert!(
        TextTokenizer::open(dir.path())
            .err()
            .unwrap()
            .to_string()
            .contains("special_tokens.json: contains SpecialTokens")
    );
}

#[test]
fn padding_may_be_any_id_but_eos_must_be_encoded_as_itself() {
    let bytes = fixture().to_string();
    let tokenizer = TextTokenizer::from_bytes(Path::new("t.json"), bytes.as_bytes(), EOS, "Ġthe").unwrap();
    assert_eq!(tokenizer.id_to_token(tokenizer.special().pad_token_id).as_deref(), Some("Ġthe"));
    assert!(TextTokenizer::from_bytes(Path::new("t.json"), bytes.as_bytes(), "Ġthe", PAD).is_err());
}

#[test]
fn eos_and_pad_may_be_one_token_and_eos_is_still_trained() {
    let bytes = fixture().to_string();
    let tokenizer = TextTokenizer::from_bytes(Path::new("t.json"), bytes.as_bytes(), EOS, EOS).unwrap();
    let messages = [Message::new(Role::User, "a"), Message::new(Role::Assistant, "b")];
    let document = tokenizer.encode_conversation(&Template::Tulu.render(&messages, EOS, false)).unwrap();
    assert_eq!(labelled(&document).last(), Some(&tokenizer.special().eos_token_id));
}

#[test]
fn a_plain_document_ends_with_eos_and_is_trained_whole() {
    let tokenizer = open(&fixture());
    let mut document = DocumentBuffer::default();
    tokenizer.encode_plain("The sun.", &mut document).unwrap();
    let document = Document::from(document);
    assert_eq!(tokenizer.decode(&document.input_ids, false).unwrap(), format!("The sun.{EOS}"));
    assert!(document.label_mask.iter().all(|label| *label));
}

/// The folder with OLMo's tokenizers, which are too large to be kept here.
fn shared() -> Option<PathBuf> {
    let shared = std::env::var_os("OLMO_PIPE_SHARED").map(PathBuf::from);
    if shared.is_none() {
        olmo_base::testing::skip("OLMO_PIPE_SHARED does not name a folder with OLMo's tokenizers");
    }
    shared
}

fn olmo_tokenizers(shared: &Path) -> [TextTokenizer; 2] {
    let open =
        |name: &str, pad: &str| TextTokenizer::from_file(&shared.join("tokenizers").join(name), EOS, pad).unwrap();
    [open("allenai_gpt-neox-olmo-dolma-v1_5.json", PAD), open("allenai_dolma2.json", "<|pad|>")]
}

#[test]
fn olmos_tokenizers_give_the_ids_of_olmos_script() {
    let Some(shared) = shared() else { return };
    let messages = [
        Message::new(Role::User, "What is 2+2? "),
        Message::new(Role::Assistant, " 4."),
        Message::new(Role::User, "Thanks"),
        Message::new(Role::Assistant, "You're welcome!"),
    ];
    let rendered = Template::Tulu.render(&messages, EOS, false);
    let [neox, dolma2] = olmo_tokenizers(&shared).map(|tokenizer| tokenizer.encode_conversation(&rendered).unwrap());
    assert_eq!(
        neox.input_ids,
        [
            50279, 29, 93, 4537, 49651, 187, 1276, 310, 374, 12, 19, 32, 187, 29, 93, 515, 5567, 49651, 187, 21, 15,
            50279, 187, 29, 93, 4537, 49651, 187, 8061, 187, 29, 93, 515, 5567, 49651, 187, 1394, 1472, 10112, 2,
            50279, 187
        ]
    );
    assert_eq!(labelled(&neox), [21, 15, 50279, 1394, 1472, 10112, 2, 50279]);
    assert_eq!(
        dolma2.input_ids,
        [
            100257, 27, 91, 882, 91, 397, 3923, 374, 220, 17, 10, 17, 5380, 27, 91, 78191, 91, 397, 19, 13, 100257,
            198, 27, 91, 882, 91, 397, 12947, 198, 27, 91, 78191, 91, 397, 2675, 2351, 10788, 0, 100257, 198
        ]
    );
    assert_eq!(labelled(&dolma2), [19, 13, 100257, 2675, 2351, 10788, 0, 100257]);
}

#[test]
fn olmos_tokenizers_take_the_fast_way_and_give_the_same_ids() {
    let Some(shared) = shared() else { return };
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let corpus = ["sentences.txt", "tulu-sample.jsonl"].map(|name| std::fs::read_to_string(data.join(name)).unwrap());
    for (fast, slow) in olmo_tokenizers(&shared).into_iter().zip(olmo_tokenizers(&shared)) {
        assert!(fast.has_shortcut());
        let slow = slow.without_shortcuts();
        for text in &corpus {
            assert_eq!(fast.encode_text(text).unwrap(), slow.encode_text(text).unwrap());
        }
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            cases: 20_000,
            ..ProptestConfig::default()
        });
        let same = |text: String| {
            prop_assert_eq!(fast.encode(&text).unwrap().ids, slow.encode_text(&text).unwrap());
            Ok(())
        };
        runner.run(&hostile_text(), same).unwrap();
    }
}

#[test]
fn olmos_tokenizers_give_the_rows_of_olmos_script_for_real_chats() {
    let Some(shared) = shared() else { return };
    let goldens = shared.join("goldens/tulu");
    let unpack = |name: &str| {
        let mut gzip = Command::new("gzip").arg("-dc").arg(goldens.join(name)).stdout(Stdio::piped()).spawn().unwrap();
        let mut bytes = Vec::new();
        gzip.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(gzip.wait().unwrap().success());
        bytes
    };
    let ids: Vec<u32> =
        unpack("input_ids.npy.gz").chunks(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
    let mask: Vec<bool> = unpack("label_mask.npy.gz").into_iter().map(|byte| byte == 1).collect();
    const LENGTH: usize = 512;

    let [neox, dolma2] = olmo_tokenizers(&shared);
    let text = std::fs::read_to_string(goldens.join("chats.jsonl")).unwrap();
    let mut rows = 0;
    for line in text.lines() {
        let chat: Value = serde_json::from_str(line).unwrap();
        let message = |turn: &Value| {
            Message::new(turn["role"].as_str().unwrap().parse().unwrap(), turn["content"].as_str().unwrap())
        };
        let messages: Vec<Message> = chat["messages"].as_array().unwrap().iter().map(message).collect();
        let rendered = Template::Tulu.render(&messages, EOS, false);
        assert_eq!(dolma2.encode_conversation(&rendered).unwrap(), piecewise(&dolma2, &messages), "{line}");
        let mut document = neox.encode_conversation(&rendered).unwrap();
        assert_eq!(document, piecewise(&neox, &messages), "{line}");
        document.truncate(LENGTH);
        if document.label_mask.iter().any(|label| *label) {
            document.input_ids.resize(LENGTH, neox.special().pad_token_id);
            document.label_mask.resize(LENGTH, false);
            assert_eq!(document.input_ids, ids[rows * LENGTH..][..LENGTH], "row {rows}");
            assert_eq!(document.label_mask, mask[rows * LENGTH..][..LENGTH], "row {rows}");
            rows += 1;
        }
    }
    assert_eq!(rows * LENGTH, ids.len());
    eprintln!("{rows} rows are equal");
}
