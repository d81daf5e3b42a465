//! Reads one record of a source as a conversation or document, or reports why it cannot.
//!
//! A key whose value is null counts as missing, so that tables and JSON lines are read alike. No
//! record is repaired silently: everything counted in [`Notes`] is reported.

use std::collections::BTreeMap;

use olmo_data::conversation::UnknownRole;
use olmo_data::conversation::strip;
use olmo_data::{Conversation, Message, Role};
use serde_json::{Map, Value, json};

use crate::format::Format;
use crate::params::{FetchParams, OnError};
use crate::plain_chat::{PlainChat, PlainMessage};

/// The keys of a record whose values are not null.
pub(crate) fn filled_keys(record: &Map<String, Value>) -> Vec<&str> {
    record.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str()).collect()
}

/// Lists keys for a message.
pub(crate) fn list_keys(keys: &[&str]) -> String {
    let listed: Vec<String> = keys.iter().take(8).map(|key| format!("`{}`", key.escape_debug())).collect();
    let more = if keys.len() > listed.len() { ", …" } else { "" };
    if listed.is_empty() { "no keys".into() } else { listed.join(", ") + more }
}

/// Lists keys for a message, with the format that they match.
pub(crate) fn describe_keys(keys: &[&str]) -> String {
    let format = Format::of_keys(keys).map(|format| format!(", as format `{}` has", format.as_str()));
    list_keys(keys) + &format.unwrap_or_default()
}

/// Why a record cannot be used. Messages put the file and line in front of this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("is not UTF-8 (byte {0} of the line)")]
    NotUtf8(usize),
    #[error("is not JSON: {0}")]
    NotJson(String),
    #[error("has more than {0} MiB")]
    TooLong(usize),
    #[error("does not fit the schema: {0}")]
    Schema(String),
    /// A key that the format needs; `looks_like` is the format whose keys the record has.
    #[error("does not fit the schema: has no `{key}`; it has {found}")]
    Missing { key: String, found: String, looks_like: Option<Format> },
    #[error("message {0} has no `role`")]
    MissingRole(usize),
    #[error("message {0} has the {1}")]
    UnknownRole(usize, UnknownRole),
    #[error("message {number} ({role}) has no `content`; it has {found}")]
    MissingContent { number: usize, role: Role, found: String },
    #[error("message {0} (assistant) has neither content nor tool calls")]
    EmptyAnswer(usize),
    #[error("has only system messages")]
    OnlySystem,
    #[error("says nothing: the content of every message is empty")]
    SaysNothing,
}

/// How many empty turns of a conversation were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// Empty system turns.
    pub system: u64,
    /// Empty answers at the end.
    pub answers: u64,
    /// Conversations cut before an empty answer.
    pub cut: u64,
}

/// A record as read.
pub(crate) type Read<T> = Result<Option<(T, Notes)>, BadRecord>;

/// How to read the records of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// Never `auto`.
    pub format: Format,
    /// Whether lines are JSON. False only for `text`.
    pub json: bool,
    roles: BTreeMap<String, Role>,
    messages_field: Option<String>,
    role_field: Option<String>,
    content_field: Option<String>,
    text_field: Option<String>,
    /// Whether to cut a conversation before an empty answer.
    cut: bool,
}

/// Keys where the content might be if it is not under the expected key.
const OTHER_CONTENT: [&str; 6] = ["content", "value", "text", "message", "utterance", "body"];

impl Layout {
    pub(crate) fn new(params: &FetchParams, format: Format, json: bool) -> Self {
        let given = |field: &String| Some(field.clone()).filter(|field| !field.is_empty());
        Self {
            format,
            json,
            roles: params.roles.clone(),
            messages_field: given(&params.messages_field),
            role_field: given(&params.role_field),
            content_field: given(&params.content_field),
            text_field: given(&params.text_field),
            cut: params.on_error == OnError::Skip,
        }
    }

    /// The key of a document.
    pub(crate) fn text_key(&self) -> &str {
        self.text_field.as_deref().unwrap_or("text")
    }

    /// The key of the list of messages.
    pub(crate) fn messages_key(&self) -> &str {
        let own = if self.format == Format::Sharegpt { "conversations" } else { "messages" };
        self.messages_field.as_deref().unwrap_or(own)
    }

    /// The required keys of a record: one of each list.
    pub(crate) fn needed(&self) -> Vec<Vec<&str>> {
        match self.format {
            Format::Messages | Format::Sharegpt | Format::Auto => vec![vec![self.messages_key()]],
            Format::Alpaca => vec![vec!["instruction"], vec!["output"]],
            Format::PromptCompletion => vec![vec!["prompt"], vec!["completion", "response"]],
            Format::Text => vec![vec![self.text_key()]],
        }
    }

    /// The keys of a record that are read.
    pub(crate) fn columns(&self) -> Vec<String> {
        let mut keys = self.needed().concat();
        if self.format != Format::Text {
            keys.extend(["dataset", "id", "tools", "functions", "documents"]);
        }
        match self.format {
            Format::Sharegpt => keys.push("system"),
            Format::Alpaca => keys.extend(["input", "system", "history"]),
            _ => {}
        }
        keys.into_iter().map(str::to_owned).collect()
    }

    /// Reads a document from a line: as JSON, or without surrounding whitespace; `None` if nothing
    /// is left.
    pub(crate) fn document_line(&self, line: &[u8]) -> Read<String> {
        if self.json {
            return parse_json(line)?.map_or(Ok(None), |value| self.document(&value));
        }
        let text = strip(utf8(line)?);
        Ok((!text.is_empty()).then(|| (text.to_owned(), Notes::default())))
    }

    /// Reads a document from a record's key `text`; `None` if it is blank or null.
    pub(crate) fn document(&self, value: &Value) -> Read<String> {
        let said = |text: &String| Ok((!is_blank(text)).then(|| (text.clone(), Notes::default())));
        let key = self.text_key();
        match value {
            Value::String(text) => said(text),
            Value::Object(record) => match record.get(key) {
                Some(Value::String(text)) => said(text),
                Some(Value::Null) => Ok(None),
                Some(other) => Err(BadRecord::Schema(format!("`{key}` is {}, expected a string", kind(other)))),
                None => Err(missing(record, key)),
            },
            other => Err(BadRecord::Schema(format!("expected an object, found {}", kind(other)))),
        }
    }

    /// Reads a conversation from a line of JSON.
    pub(crate) fn conversation_line(&self, line: &[u8]) -> Read<Conversation> {
        if let Some(read) = self.plain_conversation(line) {
            return read.map(Some);
        }
        parse_json(line)?.map_or(Ok(None), |value| self.conversation(&value))
    }

    /// Reads a conversation of nothing but texts; `None` if the line is of another form.
    fn plain_conversation(&self, line: &[u8]) -> Option<Result<(Conversation, Notes), BadRecord>> {
        let own_keys = [&self.messages_field, &self.role_field, &self.content_field];
        if self.format != Format::Messages || own_keys.iter().any(|key| key.is_some()) {
            return None;
        }
        let PlainChat { dataset, id, messages: plain } = PlainChat::read(line)?;
        let mut messages = Vec::with_capacity(plain.len());
        for PlainMessage { role, content } in plain {
            messages.push(Message::new(self.speaker(&role).ok()??, content));
        }
        let tidied = self.tidy(messages, 0);
        Some(tidied.map(|(messages, notes)| (Conversation { dataset, id, messages, ..Conversation::default() }, notes)))
    }

    /// Reads a conversation from a record.
    ///
    /// `dataset` and `id` may be missing and are then empty. Keys outside the format describe a
    /// record's origin and are ignored. All keys of a message are kept.
    pub(crate) fn conversation(&self, value: &Value) -> Read<Conversation> {
        let Value::Object(record) = value else {
            return Err(BadRecord::Schema(format!("expected an object, found {}", kind(value))));
        };
        let (dataset, id) = (label(record, "dataset"), label(record, "id"));
        let messages = match self.format {
            Format::Alpaca => alpaca(record)?,
            Format::PromptCompletion => self.prompt_completion(record)?,
            _ => self.messages(record)?,
        };
        let unnumbered = usize::from(self.format == Format::Sharegpt && system(record)?.is_some());
        let (messages, notes) = self.tidy(messages, unnumbered)?;
        let tools = match tools(record, "tools")? {
            None => tools(record, "functions")?,
            tools => tools,
        };
        let documents = documents(record);
        Ok(Some((Conversation { dataset, id, messages, tools, documents }, notes)))
    }

    /// The messages of a record, after those in its key `system`.
    fn messages(&self, record: &Map<String, Value>) -> Result<Vec<Message>, BadRecord> {
        let mut messages = Vec::new();
        if self.format == Format::Sharegpt {
            messages.extend(system(record)?);
        }
        let key = self.messages_key();
        let parsed;
        let turns = match record.get(key) {
            None | Some(Value::Null) => return Err(missing(record, key)),
            Some(Value::Array(turns)) => turns,
            // Tables often store a list as JSON text.
            Some(Value::String(text)) => {
                parsed = serde_json::from_str(text)
                    .map_err(|_| BadRecord::Schema(format!("`{key}` is a string that is no JSON array")))?;
                &parsed
            }
            Some(other) => return Err(BadRecord::Schema(format!("`{key}` is {}, expected an array", kind(other)))),
        };
        if turns.is_empty() {
            return Err(BadRecord::Schema(format!("`{key}` is empty")));
        }
        for (i, turn) in turns.iter().enumerate() {
            messages.push(self.message(turn, i + 1)?);
        }
        Ok(messages)
    }

    /// Reads message `number` of a record.
    fn message(&self, turn: &Value, number: usize) -> Result<Message, BadRecord> {
        let schema = |reason: String| BadRecord::Schema(format!("message {number} {reason}"));
        let turn = turn.as_object().ok_or_else(|| schema(format!("is {}, expected an object", kind(turn))))?;
        let said = |key: &&str| turn.get(*key).is_some_and(|value| !value.is_null());
        let role_key = self.role_field.as_deref().or_else(|| ["role", "from"].into_iter().find(said));
        let name = match role_key.and_then(|key| turn.get(key)) {
            None | Some(Value::Null) => return Err(BadRecord::MissingRole(number)),
            Some(Value::String(role)) => role,
            Some(other) => return Err(schema(format!("has a `role` that is {}, expected a string", kind(other)))),
        };
        let content_key = self.content_field.as_deref().or_else(|| ["content", "value"].into_iter().find(said));
        let content = match content_key.and_then(|key| turn.get(key)) {
            None | Some(Value::Null) => None,
            Some(Value::String(content)) => Some(content.clone()),
            Some(Value::Array(parts)) => Some(typed_content(parts).map_err(schema)?),
            Some(other) => return Err(schema(format!("has a `content` that is {}, expected a string", kind(other)))),
        };
        let mut trained = None;
        let mut fields = Map::new();
        for (key, value) in turn {
            let read = Some(key.as_str()) == role_key || Some(key.as_str()) == content_key;
            match (key.as_str(), value) {
                _ if read || value.is_null() => {}
                ("weight", _) => trained = Some(weight(value).map_err(schema)?),
                // A message from one of our own datasets.
                ("trained", Value::Bool(value)) => trained = Some(*value),
                ("fields", Value::String(text)) if text.starts_with('{') => match serde_json::from_str(text) {
                    Ok(Value::Object(mut own)) => fields.append(&mut own),
                    _ => drop(fields.insert(key.clone(), value.clone())),
                },
                _ => drop(fields.insert(key.clone(), value.clone())),
            }
        }
        let role = match self.speaker(name) {
            Ok(Some(role)) => role,
            Ok(None) => {
                let calls = tool_calls(content.as_deref().unwrap_or_default())
                    .map_err(|why| schema(format!("({}) {why}", name.escape_debug())))?;
                fields.insert("tool_calls".into(), calls);
                return Ok(Message { role: Role::Assistant, content: None, trained, fields });
            }
            Err(unknown) => return Err(BadRecord::UnknownRole(number, unknown)),
        };
        let message = Message { role, content, trained, fields };
        let filled = |key: &&str| message.fields.get(*key).and_then(Value::as_str).is_some_and(|text| !is_blank(text));
        if message.content.is_none() && !message.speaks() && OTHER_CONTENT.iter().any(filled) {
            return Err(BadRecord::MissingContent { number, role, found: list_keys(&filled_keys(turn)) });
        }
        Ok(message)
    }

    /// The role that `name` maps to; `None` for ShareGPT's tool-call turns.
    fn speaker(&self, name: &str) -> Result<Option<Role>, UnknownRole> {
        if let Some(role) = self.roles.get(name) {
            return Ok(Some(*role));
        }
        match name.to_ascii_lowercase().as_str() {
            "human" => Ok(Some(Role::User)),
            "gpt" | "chatgpt" | "model" => Ok(Some(Role::Assistant)),
            "observation" => Ok(Some(Role::Tool)),
            "function_call" => Ok(None),
            lower => lower.parse().map(Some).map_err(|_| UnknownRole(name.to_owned())),
        }
    }

    fn prompt_completion(&self, record: &Map<String, Value>) -> Result<Vec<Message>, BadRecord> {
        let second = if filled_keys(record).contains(&"completion") { "completion" } else { "response" };
        let mut messages = Vec::new();
        for (key, role) in [("prompt", Role::User), (second, Role::Assistant)] {
            match record.get(key) {
                // TRL's conversational form uses lists of messages.
                Some(Value::Array(turns)) => {
                    for turn in turns {
                        messages.push(self.message(turn, messages.len() + 1)?);
                    }
                }
                _ => messages.push(Message::new(role, required(record, key)?)),
            }
        }
        Ok(messages)
    }

    /// Drops the empty turns of `messages` that can be dropped. The first `unnumbered` messages
    /// come from a separate key, so the record's list begins after them.
    fn tidy(&self, messages: Vec<Message>, unnumbered: usize) -> Result<(Vec<Message>, Notes), BadRecord> {
        let mut notes = Notes::default();
        let instructs = |message: &Message| matches!(message.role, Role::System | Role::Developer);
        if messages.iter().all(instructs) {
            return Err(if messages.iter().any(Message::speaks) {
                BadRecord::OnlySystem
            } else {
                BadRecord::SaysNothing
            });
        }
        let numbered =
            messages.into_iter().enumerate().map(|(i, message)| ((i + 1).saturating_sub(unnumbered), message));
        let mut turns: Vec<(usize, Message)> = numbered.collect();
        let before = turns.len();
        turns.retain(|(_, message)| !instructs(message) || message.speaks());
        notes.system = (before - turns.len()) as u64;
        // An empty answer that is not trained is harmless.
        let empty =
            |message: &Message| message.role == Role::Assistant && !message.speaks() && message.trained != Some(false);
        let answer = |(_, message): &(usize, Message)| {
            message.role == Role::Assistant && message.speaks() && message.trained != Some(false)
        };
        while let Some((number, message)) = turns.last() {
            if !empty(message) {
                break;
            }
            if !turns.iter().any(answer) {
                return Err(BadRecord::EmptyAnswer(*number));
            }
            turns.pop();
            notes.answers += 1;
        }
        if let Some(at) = turns.iter().position(|(_, message)| empty(message)) {
            let last = turns[..at].iter().rposition(answer).filter(|_| self.cut);
            let last = last.ok_or(BadRecord::EmptyAnswer(turns[at].0))?;
            turns.truncate(last + 1);
            notes.cut = 1;
        }
        if !turns.iter().any(|(_, message)| message.speaks()) {
            return Err(BadRecord::SaysNothing);
        }
        let messages = turns.into_iter().map(|(_, mut message)| {
            // A tool may return nothing. Templates read the content of every turn except the
            // assistant's.
            if message.content.is_none() && !(message.role == Role::Assistant && message.speaks()) {
                message.content = Some(String::new());
            }
            message
        });
        Ok((messages.collect(), notes))
    }
}

fn is_blank(text: &str) -> bool {
    strip(text).is_empty()
}

/// The line as text.
fn utf8(line: &[u8]) -> Result<&str, BadRecord> {
    std::str::from_utf8(line).map_err(|e| BadRecord::NotUtf8(e.valid_up_to() + 1))
}

/// Parses a line of JSON lines; `None` if it is blank.
pub(crate) fn parse_json(line: &[u8]) -> Result<Option<Value>, BadRecord> {
    let text = utf8(line)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_str(text).map_err(|e| {
        let reason = e.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        BadRecord::NotJson(format!("{reason} at column {}", e.column()))
    })?;
    Ok(Some(value))
}

/// The text at `key`; `None` if it is missing or null.
fn text<'r>(record: &'r Map<String, Value>, key: &str) -> Result<Option<&'r str>, BadRecord> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(BadRecord::Schema(format!("`{key}` is {}, expected a string", kind(other)))),
    }
}

/// The system turn of a record with a separate key for it.
fn system(record: &Map<String, Value>) -> Result<Option<Message>, BadRecord> {
    let system = text(record, "system")?.filter(|system| !is_blank(system));
    Ok(system.map(|system| Message::new(Role::System, system)))
}

/// The text at `key`, or the JSON of any other value; empty if there is none.
fn label(record: &Map<String, Value>, key: &str) -> String {
    match record.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        // Many tools turn integers into floats if other values are missing.
        Some(Value::Number(number)) if number.is_f64() => match number.as_f64().filter(|float| float.fract() == 0.0) {
            Some(float) => format!("{float}"),
            None => number.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

fn required<'r>(record: &'r Map<String, Value>, key: &str) -> Result<&'r str, BadRecord> {
    text(record, key)?.ok_or_else(|| missing(record, key))
}

fn missing(record: &Map<String, Value>, key: &str) -> BadRecord {
    let keys = filled_keys(record);
    BadRecord::Missing { key: key.to_owned(), found: describe_keys(&keys), looks_like: Format::of_keys(&keys) }
}

/// OpenAI's content in parts: `[{"type": "text", "text": …}]`.
fn typed_content(parts: &[Value]) -> Result<String, String> {
    let part = |part: &Value| match (part, part["type"].as_str(), &part["text"]) {
        (Value::String(text), ..) => Ok(text.clone()),
        (_, Some("text" | "input_text" | "output_text"), Value::String(text)) => Ok(text.clone()),
        (_, Some("text" | "input_text" | "output_text"), Value::Null) => Ok(String::new()),
        (_, Some(other), _) => Err(format!("has a part of type `{}`; only text can be trained", other.escape_debug())),
        _ => Err("has a part of content that is no `{\"type\": \"text\", \"text\": …}`".into()),
    };
    parts.iter().map(part).collect()
}

/// Whether a message is trained, according to its `weight`.
fn weight(value: &Value) -> Result<bool, String> {
    match (value.as_f64(), value) {
        (Some(0.0), _) | (_, Value::Bool(false)) => Ok(false),
        (Some(1.0), _) | (_, Value::Bool(true)) => Ok(true),
        _ => Err(format!("has the `weight` {value}; only 0 (not trained) and 1 (trained) are understood")),
    }
}

/// Converts ShareGPT's tool call to OpenAI's `tool_calls`.
fn tool_calls(text: &str) -> Result<Value, String> {
    let expected = "holds no tool call: expected the JSON `{\"name\", \"arguments\"}` or a list of such";
    let calls = match serde_json::from_str(text) {
        Ok(Value::Array(calls)) if !calls.is_empty() => calls,
        Ok(Value::Object(call)) => vec![Value::Object(call)],
        _ => return Err(expected.into()),
    };
    let call = |call: &Value| {
        // Some files contain OpenAI's form.
        let function = if call["function"].is_object() { &call["function"] } else { call };
        let name = function["name"].as_str().ok_or(expected)?;
        let arguments = match &function["arguments"] {
            Value::Null => json!({}),
            arguments => arguments.clone(),
        };
        Ok(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
    };
    calls.iter().map(call).collect()
}

/// The tools at `key`, as a list or its JSON; `None` if there are none.
fn tools(record: &Map<String, Value>, key: &str) -> Result<Option<Value>, BadRecord> {
    let value = match record.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if is_blank(text) => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|e| BadRecord::Schema(format!("`{key}` is a string that is not JSON: {e}")))?,
        Some(value) => value.clone(),
    };
    match value {
        Value::Null => Ok(None),
        Value::Array(tools) if tools.is_empty() => Ok(None),
        Value::Array(_) => Ok(Some(value)),
        Value::Object(_) => Ok(Some(Value::Array(vec![value]))),
        other => Err(BadRecord::Schema(format!("`{key}` is {}, expected an array", kind(&other)))),
    }
}

/// The list at `documents`, or its JSON. Any other value describes the record's origin.
fn documents(record: &Map<String, Value>) -> Option<Value> {
    let value = match record.get("documents")? {
        Value::String(text) => serde_json::from_str(text).ok()?,
        value => value.clone(),
    };
    value.as_array().is_some_and(|documents| !documents.is_empty()).then_some(value)
}

fn alpaca(record: &Map<String, Value>) -> Result<Vec<Message>, BadRecord> {
    let mut messages = Vec::new();
    messages.extend(system(record)?);
    if let Some(history) = record.get("history").filter(|history| !history.is_null()) {
        let pairs = history.as_array().ok_or_else(|| BadRecord::Schema("`history` is no array".into()))?;
        for pair in pairs {
            for (side, role) in [Role::User, Role::Assistant].into_iter().enumerate() {
                match pair.get(side) {
                    Some(Value::String(text)) => messages.push(Message::new(role, text)),
                    Some(Value::Null) => messages.push(Message::new(role, "")),
                    _ => return Err(BadRecord::Schema("`history` holds something else than pairs of texts".into())),
                }
            }
        }
    }
    let input = text(record, "input")?.filter(|input| !is_blank(input));
    let instruction = match text(record, "instruction")? {
        None if !record.contains_key("instruction") => return Err(missing(record, "instruction")),
        instruction => instruction.filter(|instruction| !is_blank(instruction)),
    };
    if !record.contains_key("output") {
        return Err(missing(record, "output"));
    }
    let prompt = match (instruction, input) {
        (Some(instruction), Some(input)) => format!("{instruction}\n\n{input}"),
        (said, other) => said.or(other).unwrap_or_default().to_owned(),
    };
    messages.push(Message::new(Role::User, prompt));
    messages.push(Message::new(Role::Assistant, text(record, "output")?.unwrap_or_default()));
    Ok(messages)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(params: Value) -> Layout {
        let params: FetchParams = serde_json::from_value(params).unwrap();
        let format = params.format;
        Layout::new(&params, format, true)
    }

    fn read(params: Value, line: &str) -> Result<(Conversation, Notes), BadRecord> {
        layout(params).conversation_line(line.as_bytes()).map(|read| read.expect("the line is not blank"))
    }

    fn messages(params: Value, line: &str) -> Vec<Message> {
        read(params, line).unwrap().0.messages
    }

    fn reason(line: &[u8]) -> String {
        layout(json!({})).conversation_line(line).unwrap_err().to_string()
    }

    fn turn(role: Role, text: &str) -> Message {
        Message::new(role, text)
    }

    #[test]
    fn a_conversation_of_the_tulu_schema_is_read() {
        let line = r#"{"dataset":"flan","id":"flan_7","messages":[{"role":"user","content":" Hi 🦀 "},{"role":"assistant","content":"Yes."}]}"#;
        let (read, notes) = read(json!({}), line).unwrap();
        assert_eq!((read.dataset.as_str(), read.id.as_str(), notes), ("flan", "flan_7", Notes::default()));
        assert_eq!(read.messages, [turn(Role::User, " Hi 🦀 "), turn(Role::Assistant, "Yes.")]);
    }

    #[test]
    fn dataset_and_id_may_be_left_out_or_be_anything() {
        let id = |text: &str| {
            let line = format!(r#"{{{text}"source":"x","messages":[{{"role":"user","content":"Hi"}}]}}"#);
            let read = read(json!({}), &line).unwrap().0;
            (read.dataset, read.id)
        };
        let expect = |dataset: &str, id: &str| (dataset.to_owned(), id.to_owned());
        assert_eq!(id(""), expect("", ""));
        assert_eq!(id(r#""id":null,"dataset":null,"#), expect("", ""));
        assert_eq!(id(r#""id":7,"dataset":1,"#), expect("1", "7"));
        assert_eq!(id(r#""id":7.0,"#), expect("", "7"));
        assert_eq!(id(r#""id":-7.5,"#), expect("", "-7.5"));
        assert_eq!(id(r#""id":{"$oid":"a1"},"dataset":true,"#), expect("true", r#"{"$oid":"a1"}"#));
    }

    #[test]
    fn every_format_says_the_same_conversation() {
        let expected = [
            (Role::System, "Be kind."),
            (Role::User, "One?"),
            (Role::Assistant, "Yes."),
            (Role::User, "Two?"),
            (Role::Assistant, "No."),
        ]
        .map(|(role, content)| Message::new(role, content));
        let cases = [
            (
                "messages",
                r#"{"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":[{"type":"text","text":"One?"}]},{"role":"assistant","content":"Yes."},{"role":"user","content":["Two?"]},{"role":"assistant","content":[{"type":"text","text":null},{"type":"output_text","text":"No."}]}]}"#,
            ),
            (
                "sharegpt",
                r#"{"system":"Be kind.","conversations":[{"from":"human","value":"One?"},{"from":"gpt","value":"Yes."},{"from":"Human","value":"Two?"},{"from":"GPT","value":"No."}]}"#,
            ),
            (
                "sharegpt",
                r#"{"system":null,"conversations":[{"role":"system","content":"Be kind."},{"role":"user","content":"One?"},{"from":"model","value":"Yes.","weight":null},{"from":"user","value":"Two?"},{"from":"chatgpt","value":"No."}]}"#,
            ),
            (
                "alpaca",
                r#"{"system":"Be kind.","history":[["One?","Yes."]],"instruction":"Two?","input":"","output":"No."}"#,
            ),
            (
                "alpaca",
                r#"{"system":"Be kind.","history":[["One?","Yes."]],"instruction":"","input":"Two?","output":"No."}"#,
            ),
            (
                "prompt_completion",
                r#"{"prompt":[{"role":"system","content":"Be kind."},{"role":"human","content":"One?"},{"role":"gpt","content":"Yes."},{"role":"user","content":"Two?"}],"completion":"No.","response":null}"#,
            ),
        ];
        for (format, line) in cases {
            assert_eq!(messages(json!({"format": format}), line), expected, "{line}");
        }
        // A list stored as JSON text in a table.
        let line = r#"{"messages":"[{\"role\":\"user\",\"content\":\"Hi\"}]"}"#;
        assert_eq!(messages(json!({}), line), [turn(Role::User, "Hi")]);
        // A blank key is not a turn.
        let line = r#"{"system":"","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#;
        let (chat, notes) = read(json!({"format": "sharegpt"}), line).unwrap();
        assert_eq!((chat.messages.len(), notes), (2, Notes::default()));
        let asked = [turn(Role::User, "Add.\n\n1 2"), turn(Role::Assistant, "3")];
        let line = r#"{"instruction":"Add.","input":"1 2","output":"3","system":null,"history":null}"#;
        assert_eq!(messages(json!({"format": "alpaca"}), line), asked);
        for line in [
            r#"{"prompt":"Add.\n\n1 2","completion":"3"}"#,
            r#"{"prompt":"Add.\n\n1 2","completion":null,"response":"3"}"#,
            r#"{"prompt":[{"role":"user","content":"Add.\n\n1 2"}],"completion":[{"role":"assistant","content":"3"}]}"#,
        ] {
            assert_eq!(messages(json!({"format": "prompt_completion"}), line), asked);
        }
    }

    #[test]
    fn null_says_nothing_and_other_keys_are_kept_in_their_order() {
        let line = r#"{"messages":[{"role":"user","content":"hello","name":null,"tool_calls":null},{"role":"assistant","content":"hi","name":null}],"tools":null,"functions":null,"documents":null}"#;
        let read_of = read(json!({}), line).unwrap().0;
        assert_eq!(read_of.messages, [turn(Role::User, "hello"), turn(Role::Assistant, "hi")]);
        assert_eq!((read_of.tools, read_of.documents), (None, None));
        let call = r#"[{"id":"1","type":"function","function":{"name":"f","arguments":{"b":null,"a":1}}}]"#;
        let line = format!(
            r#"{{"messages":[{{"role":"user","content":"1+1","name":"Ann"}},{{"role":"assistant","content":null,"tool_calls":{call},"refusal":null}},{{"role":"tool","content":"","tool_call_id":"1"}},{{"role":"assistant","content":"2"}}]}}"#
        );
        let read = messages(json!({}), &line);
        assert_eq!(read[0].fields, Map::from_iter([("name".to_owned(), json!("Ann"))]));
        assert_eq!(read[1].content, None);
        assert_eq!(Value::Object(read[1].fields.clone()).to_string(), format!(r#"{{"tool_calls":{call}}}"#));
        assert_eq!((read[2].content.as_deref(), read[2].role), (Some(""), Role::Tool));
        assert_eq!(read[2].fields["tool_call_id"], "1");
    }

    #[test]
    fn tools_and_documents_are_kept_whether_they_are_lists_or_their_json() {
        let of = |key: &str, value: Value| {
            let record = json!({"messages": [{"role": "user", "content": "Hi"}], key: value});
            let (read, _) = layout(json!({})).conversation(&record).unwrap().unwrap();
            (read.tools, read.documents)
        };
        let list = json!([{"name": "f", "parameters": {"z": 1, "a": 2}}]);
        for key in ["tools", "functions"] {
            assert_eq!(of(key, list.clone()), (Some(list.clone()), None));
            assert_eq!(of(key, list.to_string().into()), (Some(list.clone()), None));
            assert_eq!(of(key, list[0].clone()), (Some(list.clone()), None));
            for nothing in [json!([]), json!("[]"), json!(" "), json!(null), json!("null")] {
                assert_eq!(of(key, nothing), (None, None));
            }
        }
        assert_eq!(of("documents", json!(["a"])), (None, Some(json!(["a"]))));
        assert_eq!(of("documents", json!("[{}]")), (None, Some(json!([{}]))));
        assert_eq!(of("documents", json!("a.txt")), (None, None), "says where the record is from");
        let error = |value: Value| {
            let record = json!({"messages": [{"role": "user", "content": "Hi"}], "tools": value});
            layout(json!({})).conversation(&record).unwrap_err().to_string()
        };
        assert!(error(json!("f(x)")).contains("`tools` is a string that is not JSON"));
        assert!(error(json!(3)).contains("`tools` is a number, expected an array"));
    }

    #[test]
    fn calls_and_observations_of_sharegpt_are_calls_and_turns_of_a_tool() {
        let call = |value: &str| {
            let turns = json!([{"from": "human", "value": "sum 1 2"}, {"from": "function_call", "value": value},
                {"from": "observation", "value": "3"}, {"from": "gpt", "value": "3"}]);
            json!({"conversations": turns, "tools": "[]"}).to_string()
        };
        let read = messages(json!({"format": "sharegpt"}), &call(r#"{"name":"sum","arguments":{"b":2,"a":1}}"#));
        let roles = [Role::User, Role::Assistant, Role::Tool, Role::Assistant];
        assert_eq!(read.iter().map(|message| message.role).collect::<Vec<_>>(), roles);
        assert_eq!(read[1].content, None);
        let expected = r#"{"tool_calls":[{"type":"function","function":{"name":"sum","arguments":{"b":2,"a":1}}}]}"#;
        assert_eq!(Value::Object(read[1].fields.clone()).to_string(), expected);
        let read = messages(json!({"format": "sharegpt"}), &call(r#"[{"name":"a"},{"name":"b","arguments":"{}"}]"#));
        assert_eq!(read[1].fields["tool_calls"][0]["function"], json!({"name": "a", "arguments": {}}));
        assert_eq!(read[1].fields["tool_calls"][1]["function"], json!({"name": "b", "arguments": "{}"}));
        let error = super::tests::read(json!({"format": "sharegpt"}), &call("sum(1, 2)")).unwrap_err().to_string();
        assert!(error.contains("message 2 (function_call) holds no tool call: expected the JSON"), "{error}");
        // The text as the assistant's turn.
        let params = json!({"format": "sharegpt", "roles": {"function_call": "assistant"}});
        assert_eq!(messages(params, &call("sum(1, 2)"))[1], turn(Role::Assistant, "sum(1, 2)"));
    }

    #[test]
    fn roles_and_keys_may_have_other_names() {
        let params = json!({"roles": {"Q": "user", "bot": "assistant"}, "messages_field": "chat", "role_field": "who",
            "content_field": "said"});
        let line = r#"{"chat":[{"who":"Q","said":"Hi"},{"who":"bot","said":"Ho","role":"x","content":"y"}]}"#;
        let read = messages(params, line);
        assert_eq!(read[0], turn(Role::User, "Hi"));
        assert_eq!((read[1].role, read[1].text()), (Role::Assistant, "Ho"));
        assert_eq!(read[1].fields["role"], "x");
        for (name, role) in [
            ("developer", Role::Developer),
            ("tool", Role::Tool),
            ("function", Role::Function),
            ("environment", Role::Environment),
            ("observation", Role::Tool),
            ("human", Role::User),
            ("Assistant", Role::Assistant),
        ] {
            let turns = json!({"messages": [{"role": "user", "content": "a"}, {"role": name, "content": "b"}]});
            assert_eq!(messages(json!({}), &turns.to_string())[1].role, role);
        }
    }

    #[test]
    fn plain_lines_are_read_as_any_other() {
        let lines = [
            r#"{"dataset":"d","id":"1","messages":[{"role":"user","content":"a\u00e9\n"},{"content":"b","role":"assistant"}]}"#,
            r#"{"messages":[{"role":"Human","content":" "},{"role":"gpt","content":"b"}],"source":{"x":[1,"\u20ac"]}}"#,
            r#"{"messages":[{"role":"system","content":""},{"role":"user","content":"a"},{"role":"assistant","content":""}]}"#,
            r#"{"id":"1","id":"2","messages":[{"role":"user","content":"a"}],"messages":[{"role":"user","content":"b"}]}"#,
            r#"{"id":7,"messages":[{"role":"user","content":"a"}]}"#,
            r#"{"id":null,"messages":[{"role":"user","content":"a"}],"tools":null}"#,
            r#"{"messages":[{"role":"user","content":"a"}],"tools":[{"name":"f"}],"documents":["d"]}"#,
            r#"{"messages":[{"role":"user","content":"a","name":"n","content":"b"},{"role":"assistant","content":null}]}"#,
            r#"{"messages":[{"role":"bot","content":"a"}]}"#,
            r#"{"messages":[{"role":"function_call","content":"{\"name\":\"f\"}"},{"role":"user","content":"a"}]}"#,
            r#"{"messages":[{"role":"user","content":"a"}],"x":"\ud800"}"#,
            r#"{"messages":[],"id":"1"}"#,
            r#"{"messages":[{"role":"user","content":"a"}]} x"#,
            r#"{"id":"1"}"#,
            "[]",
            "\u{feff}{}",
        ];
        let layout = layout(json!({}));
        for line in lines {
            let as_any = parse_json(line.as_bytes()).and_then(|value| layout.conversation(&value.unwrap()));
            assert_eq!(layout.conversation_line(line.as_bytes()), as_any, "{line}");
        }
        let is_plain = |line: &str| PlainChat::read(line.as_bytes()).is_some();
        assert_eq!(lines.iter().filter(|line| is_plain(line)).count(), 6);
    }

    #[test]
    fn a_weight_is_0_or_1() {
        let of = |weight: Value| {
            let turns = json!({"messages": [{"role": "user", "content": "a"},
                {"role": "assistant", "content": "b", "weight": weight}]});
            layout(json!({})).conversation(&turns).map(|read| read.unwrap().0.messages[1].trained)
        };
        for (weight, trained) in [
            (json!(0), Some(false)),
            (json!(1), Some(true)),
            (json!(0.0), Some(false)),
            (json!(1.0), Some(true)),
            (json!(null), None),
        ] {
            assert_eq!(of(weight).unwrap(), trained);
        }
        assert_eq!(
            of(json!(0.5)).unwrap_err().to_string(),
            "does not fit the schema: message 2 has the `weight` 0.5; only 0 (not trained) and 1 (trained) are understood"
        );
        assert!(of(json!("1")).is_err());
    }

    /// The roles and texts that remain of `turns`, and what was dropped.
    fn tidied(params: Value, turns: &[(&str, Option<&str>)]) -> Result<(Vec<(Role, String)>, Notes), String> {
        let turns: Vec<Value> = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        let (read, notes) = read(params, &json!({"messages": turns}).to_string()).map_err(|e| e.to_string())?;
        Ok((read.messages.iter().map(|m| (m.role, m.text().to_owned())).collect(), notes))
    }

    #[test]
    fn empty_turns_are_left_out_kept_or_refused_by_what_they_mean() {
        let said = |turns: &[(Role, &str)]| turns.iter().map(|(r, t)| (*r, (*t).to_owned())).collect::<Vec<_>>();
        let short = said(&[(Role::User, "a"), (Role::Assistant, "b")]);
        // A system turn without content is not a turn.
        for empty in [None, Some(""), Some(" \n\u{1f}")] {
            let turns = [("system", empty), ("developer", empty), ("user", Some("a")), ("assistant", Some("b"))];
            assert_eq!(tidied(json!({}), &turns), Ok((short.clone(), Notes { system: 2, ..Notes::default() })));
        }
        // A user or a tool may say nothing.
        for role in ["user", "tool", "environment", "function"] {
            let turns = [("user", Some("a")), ("assistant", Some("b")), (role, None), ("assistant", Some("c"))];
            let (kept, notes) = tidied(json!({}), &turns).unwrap();
            assert_eq!((kept.len(), kept[2].1.as_str(), notes), (4, "", Notes::default()), "{role}");
        }
        assert_eq!(tidied(json!({}), &[("user", Some("")), ("assistant", Some("b"))]).unwrap().0[0].1, "");
        // An empty answer at the end keeps the turns before it.
        let turns = [("user", Some("a")), ("assistant", Some("b")), ("user", Some("c")), ("assistant", Some(""))];
        let expected = said(&[(Role::User, "a"), (Role::Assistant, "b"), (Role::User, "c")]);
        assert_eq!(tidied(json!({}), &turns), Ok((expected, Notes { answers: 1, ..Notes::default() })));
        let alone = [("user", Some("a")), ("assistant", Some(" "))];
        let refused = "message 2 (assistant) has neither content nor tool calls";
        assert_eq!(tidied(json!({}), &alone), Err(refused.into()));
        assert_eq!(tidied(json!({"on_error": "skip"}), &alone), Err(refused.into()));
        // In the middle it is an error; with `on_error: skip`, the turns before it are kept.
        let turns = [
            ("user", Some("a")),
            ("assistant", Some("b")),
            ("user", Some("c")),
            ("assistant", None),
            ("user", Some("d")),
            ("assistant", Some("e")),
        ];
        assert_eq!(tidied(json!({}), &turns), Err("message 4 (assistant) has neither content nor tool calls".into()));
        assert_eq!(tidied(json!({"on_error": "skip"}), &turns), Ok((short, Notes { cut: 1, ..Notes::default() })));
        assert!(tidied(json!({"on_error": "skip"}), &turns[2..]).is_err(), "nothing precedes it");
        let nothing = Err("says nothing: the content of every message is empty".into());
        assert_eq!(tidied(json!({}), &[("user", Some("")), ("tool", None)]), nothing);
        assert_eq!(tidied(json!({}), &[("system", Some(""))]), nothing);
        assert_eq!(tidied(json!({}), &[("system", Some("a")), ("user", Some(" "))]).unwrap().0.len(), 2);
    }

    #[test]
    fn an_answer_that_is_not_trained_may_be_empty_and_tools_of_a_system_turn_are_kept() {
        let line = r#"{"messages":[{"role":"system","content":"","functions":"[{\"name\":\"f\"}]"},{"role":"user","content":"a"},{"role":"assistant","content":"","weight":0},{"role":"user","content":"b"},{"role":"assistant","function_calls":"f()"}]}"#;
        let (read, notes) = read(json!({}), line).unwrap();
        assert_eq!((read.messages.len(), notes), (5, Notes::default()));
        assert_eq!((read.messages[2].trained, read.messages[4].content.as_deref()), (Some(false), None));
        // Turns from a separate key are not counted.
        let line = r#"{"system":"s","conversations":[{"from":"human","value":"a"},{"from":"gpt","value":""}]}"#;
        let error = super::tests::read(json!({"format": "sharegpt"}), line).unwrap_err();
        assert_eq!(error, BadRecord::EmptyAnswer(2));
    }

    #[test]
    fn each_kind_of_bad_line_has_its_reason() {
        let cases: [(&[u8], &str); 16] = [
            (b"{\"messages\": \"\xff\"}", "is not UTF-8 (byte 15 of the line)"),
            (b"{\"messages\": [", "is not JSON: EOF while parsing a list at column 14"),
            (b"{\"messages\": []} x", "is not JSON: trailing characters at column 18"),
            (
                br#"{"messages": [{"role":"user","content":"\ud800"}]}"#,
                "is not JSON: unexpected end of hex escape at column 47",
            ),
            (b"[1]", "does not fit the schema: expected an object, found an array"),
            (
                br#"{"text": "a", "messages": null}"#,
                "does not fit the schema: has no `messages`; it has `text`, as format `text` has",
            ),
            (b"{\"messages\": {}}", "does not fit the schema: `messages` is an object, expected an array"),
            (b"{\"messages\": []}", "does not fit the schema: `messages` is empty"),
            (b"{\"messages\": [3]}", "does not fit the schema: message 1 is a number, expected an object"),
            (br#"{"messages": [{"content":"a"}]}"#, "message 1 has no `role`"),
            (
                br#"{"messages": [{"role":"user","content":"a"},{"role":"bot","content":"a"}]}"#,
                "message 2 has the unknown role `bot`, expected system, developer, user, assistant, tool, function or environment",
            ),
            (br#"{"messages": [{"role":"user"}]}"#, "says nothing: the content of every message is empty"),
            (
                br#"{"messages": [{"role":"user","text":"a"},{"role":"assistant","content":"b"}]}"#,
                "message 1 (user) has no `content`; it has `role`, `text`",
            ),
            (
                br#"{"messages": [{"role":"user","content":[{"type":"image_url"}]}]}"#,
                "does not fit the schema: message 1 has a part of type `image_url`; only text can be trained",
            ),
            (br#"{"messages": [{"role":"system","content":"a"}]}"#, "has only system messages"),
            (
                br#"{"conversations": []}"#,
                "does not fit the schema: has no `messages`; it has `conversations`, as format `sharegpt` has",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(reason(line), expected);
        }
        let error = read(json!({"format": "sharegpt"}), r#"{"conversations":[{"value":"x"}]}"#).unwrap_err();
        assert_eq!(error.to_string(), "message 1 has no `role`");
        let error = read(json!({"format": "alpaca"}), r#"{"instruction":"x","output":null}"#).unwrap_err();
        assert_eq!(error.to_string(), "message 2 (assistant) has neither content nor tool calls");
        let error = read(json!({"format": "alpaca"}), r#"{"instruction":"x"}"#).unwrap_err();
        assert_eq!(error.to_string(), "does not fit the schema: has no `output`; it has `instruction`");
    }

    #[test]
    fn messages_of_a_dataset_of_our_own_come_back() {
        let line = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","trained":false,"fields":"{\"tool_calls\":[1],\"a\":2}"}]}"#;
        let read = messages(json!({}), line);
        assert_eq!((read[1].trained, read[1].fields.len()), (Some(false), 2));
        assert_eq!(Value::Object(read[1].fields.clone()).to_string(), r#"{"tool_calls":[1],"a":2}"#);
    }

    #[test]
    fn documents_are_lines_or_the_key_text() {
        let params: FetchParams = serde_json::from_value(json!({"format": "text", "text_field": "body"})).unwrap();
        let (lines, json) = (Layout::new(&params, Format::Text, false), Layout::new(&params, Format::Text, true));
        let text = |read: Read<String>| read.map(|read| read.map(|(text, _)| text));
        assert_eq!(text(lines.document_line(b" \t")), Ok(None));
        assert_eq!(text(lines.document_line(b" One. \r")), Ok(Some("One.".into())));
        assert_eq!(text(lines.document_line(b"a\xffb")), Err(BadRecord::NotUtf8(2)));
        assert_eq!(text(json.document_line(br#"{"id":"1","body":" One.\n"}"#)), Ok(Some(" One.\n".into())));
        assert_eq!(text(json.document_line(br#"{"body":null}"#)), Ok(None));
        assert!(text(json.document_line(br#"{"text":"x"}"#)).unwrap_err().to_string().contains("has no `body`"));
        assert_eq!(parse_json(b"  \r"), Ok(None));
    }
}
