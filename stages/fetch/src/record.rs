//! One record of a source as a conversation, or the reason why it is none: the formats in which chats come.

use olmo_data::chat::strip;
use olmo_data::{Conversation, Message, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What the files hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Tulu's and OpenAI's: `{"dataset", "id", "messages": [{"role", "content"}]}`.
    #[default]
    Messages,
    /// ShareGPT's: `{"conversations": [{"from": "human" | "gpt" | "system", "value"}], "system"}`.
    Sharegpt,
    /// Alpaca's: `{"instruction", "input", "output", "system", "history": [[question, answer]]}`.
    Alpaca,
    /// A question and its answer: `{"prompt", "completion"}` (or `response`), each a text.
    PromptCompletion,
    /// Documents: one per line that is not blank, or the column or key `text`.
    Text,
}

impl Format {
    /// As it stands in YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Sharegpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt_completion",
            Self::Text => "text",
        }
    }

    /// The format whose keys `record` has, for a hint.
    pub fn of(record: &Map<String, Value>) -> Option<Self> {
        let has = |key: &str| record.contains_key(key);
        match () {
            _ if has("messages") => Some(Self::Messages),
            _ if has("conversations") => Some(Self::Sharegpt),
            _ if has("instruction") => Some(Self::Alpaca),
            _ if has("prompt") && (has("completion") || has("response")) => Some(Self::PromptCompletion),
            _ if has("text") => Some(Self::Text),
            _ => None,
        }
    }
}

/// Why a record cannot be used. The text needs the file and the line before it.
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
    #[error("message {0} has no `role`")]
    MissingRole(usize),
    #[error("message {0} has the {1}")]
    UnknownRole(usize, String),
    #[error("message {0} ({1}) has empty content")]
    EmptyContent(usize, Role),
    #[error("has only system messages")]
    OnlySystem,
}

/// The line as text.
pub fn utf8(line: &[u8]) -> Result<&str, BadRecord> {
    std::str::from_utf8(line).map_err(|e| BadRecord::NotUtf8(e.valid_up_to() + 1))
}

/// A document: the line without surrounding white space; `None` if nothing is left.
pub fn parse_text(line: &[u8]) -> Result<Option<String>, BadRecord> {
    let text = strip(utf8(line)?);
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A line of JSON lines; `None` if it is blank.
pub fn parse_json(line: &[u8]) -> Result<Option<Value>, BadRecord> {
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

/// A document of a record: its key `text`; `None` if it is blank.
pub fn document(value: &Value) -> Result<Option<String>, BadRecord> {
    match value {
        Value::String(text) => Ok(Some(text.clone()).filter(|text| !strip(text).is_empty())),
        Value::Object(record) => match record.get("text") {
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !strip(text).is_empty())),
            Some(other) => Err(BadRecord::Schema(format!("`text` is {}, expected a string", kind(other)))),
            None => Err(BadRecord::Schema(format!("has no `text`; {}", keys(record)))),
        },
        other => Err(BadRecord::Schema(format!("expected an object, found {}", kind(other)))),
    }
}

/// A conversation of a record in `format`.
///
/// `dataset` and `id` may be left out and are empty then. Other keys
/// beside them say where a record is from and are not read; an unknown key in a message is an
/// error, since it would change what was said.
pub fn conversation(value: &Value, format: Format) -> Result<Conversation, BadRecord> {
    let Value::Object(record) = value else {
        return Err(BadRecord::Schema(format!("expected an object, found {}", kind(value))));
    };
    let dataset = text(record, "dataset")?.unwrap_or_default().to_owned();
    let id = match record.get("id") {
        Some(Value::Number(id)) if id.is_u64() => id.to_string(),
        _ => text(record, "id")?.unwrap_or_default().to_owned(),
    };
    let messages = match format {
        Format::Messages | Format::Text => messages(record)?,
        Format::Sharegpt => sharegpt(record)?,
        Format::Alpaca => alpaca(record)?,
        Format::PromptCompletion => prompt_completion(record)?,
    };
    if messages.iter().all(|message| message.role == Role::System) {
        return Err(BadRecord::OnlySystem);
    }
    Ok(Conversation { dataset, id, messages, ..Conversation::default() })
}

/// The text at `key`; `None` if there is none or null.
fn text<'r>(record: &'r Map<String, Value>, key: &str) -> Result<Option<&'r str>, BadRecord> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(BadRecord::Schema(format!("`{key}` is {}, expected a string", kind(other)))),
    }
}

fn required<'r>(record: &'r Map<String, Value>, key: &str) -> Result<&'r str, BadRecord> {
    text(record, key)?.ok_or_else(|| BadRecord::Schema(format!("has no `{key}`; {}", keys(record))))
}

/// What keys a record has, and the format that they are of.
fn keys(record: &Map<String, Value>) -> String {
    let keys: Vec<String> = record.keys().take(8).map(|key| format!("`{}`", key.escape_debug())).collect();
    let keys = if keys.is_empty() { "no keys".into() } else { keys.join(", ") };
    let format = Format::of(record).map(|format| format!(", as format `{}` has", format.as_str())).unwrap_or_default();
    format!("it has {keys}{format}")
}

fn array<'r>(record: &'r Map<String, Value>, key: &str) -> Result<&'r [Value], BadRecord> {
    match record.get(key) {
        Some(Value::Array(turns)) if turns.is_empty() => Err(BadRecord::Schema(format!("`{key}` is empty"))),
        Some(Value::Array(turns)) => Ok(turns),
        Some(other) => Err(BadRecord::Schema(format!("`{key}` is {}, expected an array", kind(other)))),
        None => Err(BadRecord::Schema(format!("has no `{key}`; {}", keys(record)))),
    }
}

fn messages(record: &Map<String, Value>) -> Result<Vec<Message>, BadRecord> {
    array(record, "messages")?.iter().enumerate().map(|(i, turn)| message(turn, i + 1)).collect()
}

fn said(number: usize, role: Role, content: &str) -> Result<Message, BadRecord> {
    if strip(content).is_empty() {
        return Err(BadRecord::EmptyContent(number, role));
    }
    Ok(Message::new(role, content))
}

fn message(turn: &Value, number: usize) -> Result<Message, BadRecord> {
    let schema = |reason: String| BadRecord::Schema(format!("message {number} {reason}"));
    let turn: &Map<String, Value> =
        turn.as_object().ok_or_else(|| schema(format!("is {}, expected an object", kind(turn))))?;
    let role = match turn.get("role") {
        None | Some(Value::Null) => return Err(BadRecord::MissingRole(number)),
        Some(Value::String(role)) => role,
        Some(other) => return Err(schema(format!("has a `role` that is {}, expected a string", kind(other)))),
    };
    let role: Role = role
        .parse()
        .map_err(|e: olmo_data::conversation::UnknownRole| BadRecord::UnknownRole(number, e.to_string()))?;
    let content = match turn.get("content") {
        None => return Err(schema("has no `content`".into())),
        Some(Value::Null) => return Err(BadRecord::EmptyContent(number, role)),
        Some(Value::String(content)) => content.clone(),
        Some(Value::Array(parts)) => typed_content(parts).map_err(schema)?,
        Some(other) => return Err(schema(format!("has a `content` that is {}, expected a string", kind(other)))),
    };
    if let Some(key) = turn.keys().find(|key| !["role", "content"].contains(&key.as_str())) {
        return Err(schema(format!("has the key `{}`; only `role` and `content` are understood", key.escape_debug())));
    }
    said(number, role, &content)
}

/// OpenAI's content in parts: `[{"type": "text", "text": …}]`.
fn typed_content(parts: &[Value]) -> Result<String, String> {
    let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        (Some(other), _) => Err(format!("has a part of type `{}`; only text can be trained", other.escape_debug())),
        _ => Err("has a part of content that is no `{\"type\": \"text\", \"text\": …}`".into()),
    };
    parts.iter().map(part).collect()
}

fn sharegpt(record: &Map<String, Value>) -> Result<Vec<Message>, BadRecord> {
    let mut messages = Vec::new();
    if let Some(system) = text(record, "system")?.filter(|system| !strip(system).is_empty()) {
        messages.push(Message::new(Role::System, system));
    }
    for (i, turn) in array(record, "conversations")?.iter().enumerate() {
        let number = i + 1;
        let schema = |reason: String| BadRecord::Schema(format!("message {number} {reason}"));
        let turn = turn.as_object().ok_or_else(|| schema(format!("is {}, expected an object", kind(turn))))?;
        let from = match turn.get("from") {
            Some(Value::String(from)) => from.as_str(),
            _ => return Err(BadRecord::MissingRole(number)),
        };
        let role = match from {
            "human" | "user" => Role::User,
            "gpt" | "assistant" | "chatgpt" | "model" => Role::Assistant,
            "system" => Role::System,
            other => {
                let role = format!("unknown role `{}`, expected human, gpt or system", other.escape_debug());
                return Err(BadRecord::UnknownRole(number, role));
            }
        };
        match turn.get("value") {
            Some(Value::String(value)) => messages.push(said(number, role, value)?),
            _ => return Err(schema("has no `value` that is a string".into())),
        }
    }
    Ok(messages)
}

fn alpaca(record: &Map<String, Value>) -> Result<Vec<Message>, BadRecord> {
    let mut messages = Vec::new();
    if let Some(system) = text(record, "system")?.filter(|system| !strip(system).is_empty()) {
        messages.push(Message::new(Role::System, system));
    }
    if let Some(history) = record.get("history").filter(|history| !history.is_null()) {
        let pairs = history.as_array().ok_or_else(|| BadRecord::Schema("`history` is no array".into()))?;
        for pair in pairs {
            let (Some(question), Some(answer)) = (pair[0].as_str(), pair[1].as_str()) else {
                return Err(BadRecord::Schema("`history` holds something else than pairs of texts".into()));
            };
            messages.push(said(messages.len() + 1, Role::User, question)?);
            messages.push(said(messages.len() + 1, Role::Assistant, answer)?);
        }
    }
    let (instruction, output) = (required(record, "instruction")?, required(record, "output")?);
    let prompt = match text(record, "input")?.filter(|input| !strip(input).is_empty()) {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction.to_owned(),
    };
    messages.push(said(messages.len() + 1, Role::User, &prompt)?);
    messages.push(said(messages.len() + 1, Role::Assistant, output)?);
    Ok(messages)
}

fn prompt_completion(record: &Map<String, Value>) -> Result<Vec<Message>, BadRecord> {
    // Completions as messages are TRL's conversational form of the same.
    if let (Some(Value::Array(prompt)), Some(Value::Array(completion))) =
        (record.get("prompt"), record.get("completion"))
    {
        return prompt.iter().chain(completion).enumerate().map(|(i, turn)| message(turn, i + 1)).collect();
    }
    let key = if record.contains_key("completion") { "completion" } else { "response" };
    Ok(vec![said(1, Role::User, required(record, "prompt")?)?, said(2, Role::Assistant, required(record, key)?)?])
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

    fn parse(line: &[u8], format: Format) -> Result<Option<Conversation>, BadRecord> {
        parse_json(line)?.map(|value| conversation(&value, format)).transpose()
    }

    fn reason(line: &[u8]) -> String {
        parse(line, Format::Messages).unwrap_err().to_string()
    }

    #[test]
    fn a_conversation_of_the_tulu_schema_is_read() {
        let line = r#"{"dataset":"flan","id":"flan_7","messages":[{"role":"user","content":" Hi 🦀 "},{"role":"assistant","content":"Yes."}]}"#;
        let read = parse(line.as_bytes(), Format::Messages).unwrap().unwrap();
        assert_eq!((read.dataset.as_str(), read.id.as_str()), ("flan", "flan_7"));
        assert_eq!(read.messages, [Message::new(Role::User, " Hi 🦀 "), Message::new(Role::Assistant, "Yes.")]);
    }

    #[test]
    fn dataset_and_id_may_be_left_out() {
        let line = br#"{"source":"x","messages":[{"role":"user","content":"Hi"}]}"#;
        let read = parse(line, Format::Messages).unwrap().unwrap();
        assert_eq!((read.dataset.as_str(), read.id.as_str()), ("", ""));
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
                Format::Messages,
                r#"{"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":[{"type":"text","text":"One?"}]},{"role":"assistant","content":"Yes."},{"role":"user","content":"Two?"},{"role":"assistant","content":"No."}]}"#,
            ),
            (
                Format::Sharegpt,
                r#"{"system":"Be kind.","conversations":[{"from":"human","value":"One?"},{"from":"gpt","value":"Yes."},{"from":"human","value":"Two?"},{"from":"gpt","value":"No."}]}"#,
            ),
            (
                Format::Alpaca,
                r#"{"system":"Be kind.","history":[["One?","Yes."]],"instruction":"Two?","input":"","output":"No."}"#,
            ),
        ];
        for (format, line) in cases {
            assert_eq!(parse(line.as_bytes(), format).unwrap().unwrap().messages, expected, "{format:?}");
        }
        let asked = [Message::new(Role::User, "Add.\n\n1 2"), Message::new(Role::Assistant, "3")];
        let line = br#"{"instruction":"Add.","input":"1 2","output":"3"}"#;
        assert_eq!(parse(line, Format::Alpaca).unwrap().unwrap().messages, asked);
        for line in [
            r#"{"prompt":"Add.\n\n1 2","completion":"3"}"#,
            r#"{"prompt":"Add.\n\n1 2","response":"3"}"#,
            r#"{"prompt":[{"role":"user","content":"Add.\n\n1 2"}],"completion":[{"role":"assistant","content":"3"}]}"#,
        ] {
            assert_eq!(parse(line.as_bytes(), Format::PromptCompletion).unwrap().unwrap().messages, asked);
        }
    }

    #[test]
    fn each_kind_of_bad_line_has_its_reason() {
        let cases: [(&[u8], &str); 18] = [
            (b"{\"messages\": \"\xff\"}", "is not UTF-8 (byte 15 of the line)"),
            (b"{\"messages\": [", "is not JSON: EOF while parsing a list at column 14"),
            (b"{\"messages\": []} x", "is not JSON: trailing characters at column 18"),
            (
                br#"{"messages": [{"role":"user","content":"\ud800"}]}"#,
                "is not JSON: unexpected end of hex escape at column 47",
            ),
            (b"[1]", "does not fit the schema: expected an object, found an array"),
            (b"{\"text\": \"a\"}", "does not fit the schema: has no `messages`; it has `text`, as format `text` has"),
            (b"{\"messages\": {}}", "does not fit the schema: `messages` is an object, expected an array"),
            (b"{\"messages\": []}", "does not fit the schema: `messages` is empty"),
            (b"{\"messages\": [3]}", "does not fit the schema: message 1 is a number, expected an object"),
            (
                br#"{"id": true, "messages": [{"role":"user","content":"a"}]}"#,
                "does not fit the schema: `id` is a boolean, expected a string",
            ),
            (br#"{"messages": [{"content":"a"}]}"#, "message 1 has no `role`"),
            (
                br#"{"messages": [{"role":"user","content":"a"},{"role":"bot","content":"a"}]}"#,
                "message 2 has the unknown role `bot`, expected system, developer, user, assistant, tool, function or environment",
            ),
            (br#"{"messages": [{"role":"user"}]}"#, "does not fit the schema: message 1 has no `content`"),
            (
                br#"{"messages": [{"role":"assistant","content":" \n\u001f"}]}"#,
                "message 1 (assistant) has empty content",
            ),
            (
                br#"{"messages": [{"role":"user","content":"a","name":"b"}]}"#,
                "does not fit the schema: message 1 has the key `name`; only `role` and `content` are understood",
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
        let sharegpt = |line: &str| parse(line.as_bytes(), Format::Sharegpt).unwrap_err().to_string();
        assert_eq!(
            sharegpt(r#"{"conversations":[{"from":"tool","value":"x"}]}"#),
            "message 1 has the unknown role `tool`, expected human, gpt or system"
        );
        assert_eq!(sharegpt(r#"{"conversations":[{"value":"x"}]}"#), "message 1 has no `role`");
    }

    #[test]
    fn blank_lines_are_nothing() {
        assert_eq!(parse_json(b"  \r"), Ok(None));
        assert_eq!(parse_text(b" \t"), Ok(None));
        assert_eq!(parse_text(b" One. \r"), Ok(Some("One.".into())));
        assert_eq!(parse_text(b"a\xffb"), Err(BadRecord::NotUtf8(2)));
    }
}
