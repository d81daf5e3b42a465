//! One line of a source file as a document or a conversation, or the reason why it is none.

use olmo_data::template::strip;
use olmo_data::{Conversation, Message, Role};
use serde_json::{Map, Value};

/// Why a line cannot be used. The text needs the file and the line before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("is not UTF-8 (byte {0} of the line)")]
    NotUtf8(usize),
    #[error("is not JSON: {0}")]
    NotJson(String),
    #[error("does not fit the schema: {0}")]
    Schema(String),
    #[error("message {0} has no `role`")]
    MissingRole(usize),
    #[error("message {0} has the {1}")]
    UnknownRole(usize, String),
    #[error("message {0} ({1}) has empty content")]
    EmptyContent(usize, Role),
}

fn utf8(line: &[u8]) -> Result<&str, BadLine> {
    std::str::from_utf8(line).map_err(|e| BadLine::NotUtf8(e.valid_up_to() + 1))
}

/// A document: the line without surrounding white space; `None` if nothing is left.
pub fn parse_text(line: &[u8]) -> Result<Option<String>, BadLine> {
    let text = strip(utf8(line)?);
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A conversation: `{"dataset": …, "id": …, "messages": [{"role": …, "content": …}, …]}`; `None`
/// for a blank line.
///
/// `dataset` and `id` may be left out (`number`, the record's number, is then the id). Other keys
/// beside them say where a record is from and are not read; an unknown key in a message is an
/// error, since it would change what was said.
pub fn parse_messages(line: &[u8], number: u64) -> Result<Option<Conversation>, BadLine> {
    let text = utf8(line)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(text).map_err(|e| {
        let reason = e.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        BadLine::NotJson(format!("{reason} at column {}", e.column()))
    })?;
    let Value::Object(record) = value else {
        return Err(BadLine::Schema(format!("expected an object, found {}", kind(&value))));
    };
    let string = |key: &str, default: String| match record.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(BadLine::Schema(format!("`{key}` is {}, expected a string", kind(other)))),
    };
    let dataset = string("dataset", String::new())?;
    let id = string("id", number.to_string())?;
    let turns = match record.get("messages") {
        Some(Value::Array(turns)) if turns.is_empty() => return Err(BadLine::Schema("`messages` is empty".into())),
        Some(Value::Array(turns)) => turns,
        Some(other) => return Err(BadLine::Schema(format!("`messages` is {}, expected an array", kind(other)))),
        None => {
            let keys: Vec<String> = record.keys().take(8).map(|key| format!("`{}`", key.escape_debug())).collect();
            let keys = if keys.is_empty() { "no keys".into() } else { keys.join(", ") };
            return Err(BadLine::Schema(format!("has no `messages`; it has {keys}")));
        }
    };
    let messages = turns.iter().enumerate().map(|(i, turn)| message(turn, i + 1)).collect::<Result<_, _>>()?;
    Ok(Some(Conversation { dataset, id, messages }))
}

fn message(turn: &Value, number: usize) -> Result<Message, BadLine> {
    let schema = |reason: String| BadLine::Schema(format!("message {number} {reason}"));
    let turn: &Map<String, Value> =
        turn.as_object().ok_or_else(|| schema(format!("is {}, expected an object", kind(turn))))?;
    let role = match turn.get("role") {
        None | Some(Value::Null) => return Err(BadLine::MissingRole(number)),
        Some(Value::String(role)) => role,
        Some(other) => return Err(schema(format!("has a `role` that is {}, expected a string", kind(other)))),
    };
    let role: Role =
        role.parse().map_err(|e: olmo_data::template::UnknownRole| BadLine::UnknownRole(number, e.to_string()))?;
    let content = match turn.get("content") {
        None => return Err(schema("has no `content`".into())),
        Some(Value::Null) => return Err(BadLine::EmptyContent(number, role)),
        Some(Value::String(content)) => content,
        Some(other) => return Err(schema(format!("has a `content` that is {}, expected a string", kind(other)))),
    };
    if let Some(key) = turn.keys().find(|key| !["role", "content"].contains(&key.as_str())) {
        return Err(schema(format!("has the key `{}`; only `role` and `content` are understood", key.escape_debug())));
    }
    if strip(content).is_empty() {
        return Err(BadLine::EmptyContent(number, role));
    }
    Ok(Message::new(role, content.as_str()))
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

    fn reason(line: &[u8]) -> String {
        parse_messages(line, 1).unwrap_err().to_string()
    }

    #[test]
    fn a_conversation_of_the_tulu_schema_is_read() {
        let line = r#"{"dataset":"flan","id":"flan_7","messages":[{"role":"user","content":" Hi 🦀 "},{"role":"assistant","content":"Yes."}]}"#;
        let read = parse_messages(line.as_bytes(), 3).unwrap().unwrap();
        assert_eq!((read.dataset.as_str(), read.id.as_str()), ("flan", "flan_7"));
        assert_eq!(read.messages, [Message::new(Role::User, " Hi 🦀 "), Message::new(Role::Assistant, "Yes.")]);
    }

    #[test]
    fn a_record_without_an_id_gets_its_number() {
        let line = br#"{"source":"x","messages":[{"role":"user","content":"Hi"}]}"#;
        let read = parse_messages(line, 12).unwrap().unwrap();
        assert_eq!((read.dataset.as_str(), read.id.as_str()), ("", "12"));
    }

    #[test]
    fn each_kind_of_bad_line_has_its_reason() {
        let cases: [(&[u8], &str); 14] = [
            (b"{\"messages\": \"\xff\"}", "is not UTF-8 (byte 15 of the line)"),
            (b"{\"messages\": [", "is not JSON: EOF while parsing a list at column 14"),
            (b"{\"messages\": []} x", "is not JSON: trailing characters at column 18"),
            (b"[1]", "does not fit the schema: expected an object, found an array"),
            (b"{\"text\": \"a\"}", "does not fit the schema: has no `messages`; it has `text`"),
            (b"{\"messages\": {}}", "does not fit the schema: `messages` is an object, expected an array"),
            (b"{\"messages\": []}", "does not fit the schema: `messages` is empty"),
            (b"{\"messages\": [3]}", "does not fit the schema: message 1 is a number, expected an object"),
            (
                br#"{"id": 3, "messages": [{"role":"user","content":"a"}]}"#,
                "does not fit the schema: `id` is a number, expected a string",
            ),
            (br#"{"messages": [{"content":"a"}]}"#, "message 1 has no `role`"),
            (
                br#"{"messages": [{"role":"user","content":"a"},{"role":"bot","content":"a"}]}"#,
                "message 2 has the unknown role `bot`, expected system, user or assistant",
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
        ];
        for (line, expected) in cases {
            assert_eq!(reason(line), expected);
        }
    }

    #[test]
    fn blank_lines_are_nothing() {
        assert_eq!(parse_messages(b"  \r", 1), Ok(None));
        assert_eq!(parse_text(b" \t"), Ok(None));
        assert_eq!(parse_text(b" One. \r"), Ok(Some("One.".into())));
        assert_eq!(parse_text(b"a\xffb"), Err(BadLine::NotUtf8(2)));
    }
}
