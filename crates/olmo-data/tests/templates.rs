//! Chat templates beside transformers: what `scripts/goldens/templates.py` rendered and encoded with it.
//!
//! Every case gives the same text and the same labels, fails as well, or is refused by name.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use olmo_data::chat::Source;
use olmo_data::jinja::{Bounds, ErrorKind, Template, Variables};
use olmo_data::tokenizer::SpecialStrings;
use olmo_data::{Chat, ChatError, Conversation, Labels, Message, TextTokenizer};
use serde_json::{Map, Value};

const BOUNDS: Bounds = Bounds { fuel: 2_000_000, longest: 1 << 20 };
/// Cases that are refused by name. More of them need a reason.
const UNSUPPORTED_SNIPPETS: usize = 124;
const UNSUPPORTED_STYLES: usize = 40;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates")
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn style(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("styles/{name}.jinja"))).unwrap()
}

/// Pairs of positions in characters as byte ranges of `text`.
fn byte_ranges(text: &str, pairs: &Value) -> Vec<Range<usize>> {
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let place = |position: &Value| places[position.as_u64().unwrap() as usize];
    pairs.as_array().unwrap().iter().map(|pair| place(&pair[0])..place(&pair[1])).collect()
}

#[test]
fn snippets_give_the_text_of_transformers_or_are_refused() {
    let all = read("snippets.json");
    let cases = all["cases"].as_array().unwrap();
    assert!(cases.len() > 2000);
    let (mut wrong, mut unsupported) = (Vec::new(), 0);
    for case in cases {
        let others = case["context"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.clone()));
        let variables = Variables { others: others.collect(), ..Variables::default() };
        let made = Template::parse(case["template"].as_str().unwrap()).and_then(|t| t.render(&variables, BOUNDS));
        match (case["expected"].as_str(), made) {
            (_, Err(error)) if matches!(error.kind, ErrorKind::Unsupported(_)) => unsupported += 1,
            (Some(expected), Ok(made)) if made.text == expected => {
                let generations = case.get("generation_indices").filter(|indices| !indices.is_null());
                if generations.is_some_and(|indices| byte_ranges(expected, indices) != made.generations) {
                    wrong.push(format!("{}: {:?}", case["name"], made.generations));
                }
            }
            (None, Err(_)) => {}
            (_, made) => wrong.push(format!("{case}: {made:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(unsupported, UNSUPPORTED_SNIPPETS);
}

/// A conversation of `styles.json`, as stage fetch would read it.
fn conversation(value: &Value) -> Conversation {
    let message = |value: &Value| {
        let mut fields = value.as_object().unwrap().clone();
        fields.retain(|_, value| !value.is_null());
        let role = fields.remove("role").unwrap();
        let content = fields.remove("content");
        let mut message = Message::new(role.as_str().unwrap().parse().ok()?, "");
        message.content = match content {
            Some(Value::String(text)) => Some(text),
            None => None,
            // Content in parts is joined when it is read.
            Some(_) => return None,
        };
        message.fields = fields;
        Some(message)
    };
    let messages: Option<Vec<Message>> = value["messages"].as_array().unwrap().iter().map(message).collect();
    let given = |name: &str| value.get(name).filter(|value| !value.is_null()).cloned();
    Conversation {
        messages: messages.unwrap_or_default(),
        tools: given("tools"),
        documents: given("documents"),
        ..Conversation::default()
    }
}

/// The messages as transformers passes them to a template.
fn messages(value: &Value) -> Vec<Map<String, Value>> {
    let message = |value: &Value| {
        let mut fields = value.as_object().unwrap().clone();
        fields.retain(|_, value| !value.is_null());
        let names = ["reasoning_content", "thinking", "reasoning"];
        let Some(reasoning) = names.into_iter().find_map(|name| fields.get(name).cloned()) else { return fields };
        let mut all = Map::new();
        all.insert("thinking".into(), reasoning.clone());
        all.extend(fields);
        all.insert("reasoning_content".into(), reasoning);
        all
    };
    value.as_array().unwrap().iter().map(message).collect()
}

#[test]
fn styles_of_real_templates_give_the_text_of_transformers() {
    let all = read("styles.json");
    let cases = all["cases"].as_array().unwrap();
    let (mut wrong, mut unsupported, mut styles) = (Vec::new(), 0, BTreeMap::new());
    for case in cases {
        let name = case["style"].as_str().unwrap();
        let template = styles.entry(name).or_insert_with(|| Template::parse(&style(name)));
        let given = &all["conversations"][case["conversation"].as_str().unwrap()];
        for (prompt, output) in case["outputs"].as_array().unwrap().iter().enumerate() {
            let mut others: BTreeMap<String, Value> = BTreeMap::new();
            others
                .extend(["tools", "documents"].map(|name| (name.into(), given.get(name).cloned().unwrap_or_default())));
            others.insert("add_generation_prompt".into(), (prompt == 1).into());
            let tokens = all["special_tokens"][name].as_object().unwrap();
            others.extend(tokens.iter().map(|(name, token)| (name.clone(), token.clone())));
            // What a caller gives by name goes before the tokenizer's own.
            for (name, value) in given.as_object().unwrap() {
                match value {
                    Value::Object(values) => others.extend(values.clone()),
                    value if !["messages", "tools", "documents"].contains(&name.as_str()) => {
                        others.insert(name.clone(), value.clone());
                    }
                    _ => {}
                }
            }
            let variables =
                Variables { messages: messages(&given["messages"]), others: others.into_iter().collect(), date: None };
            let made = template.clone().and_then(|template| template.render(&variables, BOUNDS));
            match (output["text"].as_str(), made) {
                (_, Err(error)) if matches!(error.kind, ErrorKind::Unsupported(_)) => unsupported += 1,
                (Some(expected), Ok(made)) if made.text == expected => {
                    let generations = output.get("generation_indices").filter(|indices| !indices.is_null());
                    if generations.is_some_and(|indices| byte_ranges(expected, indices) != made.generations) {
                        wrong.push(format!("{name} {}: {:?}", case["conversation"], made.generations));
                    }
                }
                (None, Err(_)) => {}
                (_, made) => wrong.push(format!("{name} {} {output}: {made:?}", case["conversation"])),
            }
        }
    }
    assert!(styles.len() >= 40);
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(unsupported, UNSUPPORTED_STYLES);
}

#[test]
fn labels_are_those_of_transformers_mask_with_and_without_tags() {
    let (styles, labels) = (read("styles.json"), read("labels.json"));
    let pairs = labels["pairs"].as_object().unwrap();
    let mut tokenizers = BTreeMap::new();
    for (name, described) in labels["tokenizers"].as_object().unwrap() {
        let token = |key: &str| described["special_tokens"][key].as_str().map(str::to_owned);
        let special = SpecialStrings {
            bos: token("bos_token"),
            eos: token("eos_token").unwrap(),
            pad: token("pad_token"),
            unk: token("unk_token"),
        };
        let pad = special.pad.clone().unwrap_or_else(|| special.eos.clone());
        let path = folder().join(format!("tokenizers/{name}.json"));
        let tokenizer = TextTokenizer::from_file(&path, &special.eos, &pad).unwrap();
        tokenizers.insert(name.as_str(), (tokenizer, special));
    }
    let (mut wrong, mut compared, mut refused) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for case in labels["cases"].as_array().unwrap() {
        let Some(expected) = case.get("input_ids").filter(|ids| !ids.is_null()) else { continue };
        let (name, tagged) = (case["tokenizer"].as_str().unwrap(), case["style"].as_str().unwrap());
        let (tokenizer, special) = &tokenizers[name];
        let conversation = conversation(&styles["conversations"][case["conversation"].as_str().unwrap()]);
        let given = &styles["conversations"][case["conversation"].as_str().unwrap()];
        let known = |key: &String| ["messages", "tools", "documents"].contains(&key.as_str());
        // Variables of a caller's own have no place in an artifact.
        if conversation.messages.is_empty() || !given.as_object().unwrap().keys().all(known) {
            continue;
        }
        // Without tags an answer without content leaves no trace in a text that does not show its calls.
        let empty = |message: &Message| message.role == olmo_data::Role::Assistant && message.content.is_none();
        let traced = !conversation.messages.iter().any(empty);
        let untagged = pairs.get(tagged).and_then(Value::as_str).filter(|_| traced);
        for style_name in [Some(tagged), untagged].into_iter().flatten() {
            let source = Source::Jinja(style(style_name));
            let chat = Chat::new(&source, special, tokenizer.added_tokens(), None, tokenizer.digest());
            let rendered = chat.and_then(|chat| chat.render(&conversation, &Labels::default()));
            let document = match rendered {
                // A tag may stand around a turn's end that is no token of this tokenizer.
                Ok(rendered) if rendered.endless > 0 => continue,
                Ok(rendered) => tokenizer.encode_conversation(&rendered).unwrap(),
                // Not every tokenizer has a token that ends such an answer.
                Err(ChatError::NoStop { .. }) => {
                    *refused.entry(style_name).or_insert(0) += 1;
                    continue;
                }
                Err(ChatError::Template(error)) if matches!(error.kind, ErrorKind::Unsupported(_)) => {
                    *refused.entry(style_name).or_insert(0) += 1;
                    continue;
                }
                Err(error) => {
                    wrong.push(format!("{name} {style_name} {}: {error}", case["conversation"]));
                    continue;
                }
            };
            let mask: Vec<u8> = document.label_mask.iter().map(|label| u8::from(*label)).collect();
            *compared.entry(style_name == tagged).or_insert(0) += 1;
            if serde_json::json!(document.input_ids) != *expected || serde_json::json!(mask) != case["assistant_masks"]
            {
                let text: Vec<String> =
                    document.input_ids.iter().map(|id| tokenizer.decode(&[*id], false).unwrap()).collect();
                wrong.push(format!(
                    "{name} {style_name} {}\n  {text:?}\n  want {}\n  got  {mask:?}",
                    case["conversation"], case["assistant_masks"]
                ));
            }
        }
    }
    eprintln!("compared {compared:?}, refused {refused:?}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared[&true] > 300 && compared[&false] > 200, "{compared:?}");
}

#[test]
fn no_template_exhausts_the_stack_of_a_small_thread() {
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    let sources = [
        "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}".to_owned(),
        "{% macro m(n) %}{% for x in [1] %}{% if true %}{{ [[[m(n)]]] | join }}{% endif %}{% endfor %}{% endmacro %}{{ m(1) }}".into(),
        "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}".into(),
        format!("{{{{ {} }}}}", nested(55)),
        format!("{{{{ {} }}}}", nested(5000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(99)),
        format!("{{{{ {}1 }}}}", "not ".repeat(50)),
        "{% set ns = namespace(s=[]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}".into(),
        "{% set ns = namespace(s=[]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] | batch(1) | list %}{% endfor %}".into(),
        "{% set ns = namespace(s=[]) %}{% for i in range(190) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}{{ ns.s | tojson }}{{ ns.s == [ns.s] }}".into(),
        "{% set ns = namespace(m=none) %}{% for i in range(9999) %}{% set p = ns.m %}{% macro m() %}{{ p }}{% endmacro %}{% set ns.m = m %}{% endfor %}".into(),
    ];
    let run = move || {
        for source in sources {
            let made = Template::parse(&source).and_then(|template| template.render(&Variables::default(), BOUNDS));
            // That it returns is what counts.
            eprintln!("{:.60}: {:.100?}", source, made.map(|made| made.text.len()).map_err(|e| e.to_string()));
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn a_long_conversation_takes_linear_time() {
    let turns = 20_000;
    let mut messages: Vec<Message> = Vec::new();
    for i in 0..turns {
        let role = if i % 2 == 0 { olmo_data::Role::User } else { olmo_data::Role::Assistant };
        messages.push(Message::new(role, "ab"));
    }
    let conversation = Conversation { messages, ..Conversation::default() };
    let added = [(0, "<|im_start|>".to_owned()), (1, "<|im_end|>".to_owned())];
    let special = SpecialStrings { eos: "<|im_end|>".into(), ..SpecialStrings::default() };
    let source = Source::Jinja(style("chatml"));
    let chat = Chat::new(&source, &special, &added, None, olmo_base::Digest::of(b"")).unwrap();
    // More than linear work would not get by with the fuel that each turn brings.
    let rendered = chat.render(&conversation, &Labels::default()).unwrap();
    assert_eq!(rendered.labelled.len(), turns / 2);
}
