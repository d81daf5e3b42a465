//! The conversation types: [`Role`], [`Message`] and [`Conversation`].
//!
//! A message keeps every non-null key of its source. `content` and `weight` have their own fields;
//! all other keys stay in [`Message::fields`], in order, because a chat template may read any of
//! them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::jinja::unicode;

/// Keys under which an assistant calls tools.
const CALLS: [&str; 3] = ["tool_calls", "function_calls", "function_call"];
/// Keys other than content and calls that make a message non-empty: reasoning, or the tools offered
/// by a system turn.
const OTHER_SPEECH: [&str; 5] = ["reasoning_content", "reasoning", "thinking", "functions", "tools"];

/// The role of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
    Environment,
}

impl Role {
    /// Every role, in the order used in messages.
    pub const ALL: [Role; 7] =
        [Role::System, Role::Developer, Role::User, Role::Assistant, Role::Tool, Role::Function, Role::Environment];

    /// The name in data and in templates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Function => "function",
            Self::Environment => "environment",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// A role that is not one of [`Role::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown role `{}`, expected {}", .0.escape_debug(), role_list())]
pub struct UnknownRole(pub String);

/// Lists the roles for a message.
fn role_list() -> String {
    let names = Role::ALL.map(Role::as_str);
    let (last, others) = names.split_last().expect("there are roles");
    format!("{} or {last}", others.join(", "))
}

/// One turn of a conversation. It serializes to the keys that a chat template reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    pub role: Role,
    /// `None` if the source has no `content`, or a null one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Overrides for this message whether its role is trained. Set from a `weight` of 0 or 1.
    #[serde(skip)]
    pub trained: Option<bool>,
    /// The other non-null keys of the message: `tool_calls`, `functions`, `name`,
    /// `reasoning_content`, …
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: Some(content.into()), trained: None, fields: Map::new() }
    }

    /// The content; empty if there is none.
    pub fn text(&self) -> &str {
        self.content.as_deref().unwrap_or_default()
    }

    /// Whether the message calls tools.
    pub fn calls_tools(&self) -> bool {
        CALLS.iter().any(|key| self.fields.get(*key).is_some_and(is_filled))
    }

    /// Whether the message has non-blank content, tool calls, reasoning or tools.
    pub fn speaks(&self) -> bool {
        let other = || OTHER_SPEECH.iter().any(|key| self.fields.get(*key).is_some_and(is_filled));
        !strip(self.text()).is_empty() || self.calls_tools() || other()
    }
}

/// A message without its further fields, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRef<'m> {
    pub role: Role,
    /// As [`Message::content`].
    pub content: Option<&'m str>,
    /// As [`Message::trained`].
    pub trained: Option<bool>,
}

impl<'m> MessageRef<'m> {
    /// The content; empty if there is none.
    pub fn text(&self) -> &'m str {
        self.content.unwrap_or_default()
    }
}

impl<'m> From<&'m Message> for MessageRef<'m> {
    fn from(message: &'m Message) -> Self {
        Self { role: message.role, content: message.content.as_deref(), trained: message.trained }
    }
}

/// Whether a field is not empty; lists and objects may be given as JSON text.
fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !["", "[]", "{}", "null"].contains(&strip(text)),
        Value::Array(items) => !items.is_empty(),
        Value::Object(keys) => !keys.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A conversation and its origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The source's name for the part it belongs to; evaluations use it as the family.
    pub dataset: String,
    pub id: String,
    pub messages: Vec<Message>,
    /// Tools that the assistant may call, for the chat template.
    pub tools: Option<Value>,
    /// Documents that the assistant may cite, for the chat template.
    pub documents: Option<Value>,
}

/// `text` without surrounding whitespace as defined by Python's `str.strip`: Unicode's whitespace
/// and the four separators U+001C to U+001F.
pub fn strip(text: &str) -> &str {
    unicode::trim(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_by_name_and_an_unknown_one_is_an_error_that_lists_them() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        let error = "bot".parse::<Role>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown role `bot`, expected system, developer, user, assistant, tool, function or environment"
        );
    }

    #[test]
    fn a_message_speaks_with_content_calls_reasoning_or_tools() {
        let with = |content: &str, key: &str, value: Value| {
            let fields = Map::from_iter([(key.to_owned(), value)]);
            Message { fields, ..Message::new(Role::Assistant, content) }
        };
        let call = || serde_json::json!([{"function": {"name": "f"}}]);
        assert!(with("x", "name", Value::Null).speaks() && !with(" \n", "name", "x".into()).speaks());
        for key in CALLS {
            assert!(with("", key, call()).calls_tools() && with("", key, "[{}]".into()).speaks());
            assert!(!with("", key, Value::Array(vec![])).speaks() && !with("", key, " [] ".into()).calls_tools());
        }
        assert!(with("", "thinking", "Hm.".into()).speaks() && !with("x", "thinking", "Hm.".into()).calls_tools());
        assert!(with("", "functions", call()).speaks());
    }

    #[test]
    fn a_message_serializes_to_what_a_template_reads() {
        let fields = Map::from_iter([("tool_calls".to_owned(), serde_json::json!([1]))]);
        let call = Message { role: Role::Assistant, content: None, trained: Some(false), fields };
        assert_eq!(serde_json::to_string(&call).unwrap(), r#"{"role":"assistant","tool_calls":[1]}"#);
        let plain = serde_json::to_string(&Message::new(Role::User, "Hi")).unwrap();
        assert_eq!(plain, r#"{"role":"user","content":"Hi"}"#);
    }

    #[test]
    fn a_message_without_content_has_an_empty_text() {
        assert_eq!(Message { content: None, ..Message::new(Role::Tool, "") }.text(), "");
        assert_eq!(Message::new(Role::User, "Hi").text(), "Hi");
    }
}
