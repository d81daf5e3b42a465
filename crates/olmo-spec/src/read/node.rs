//! [`Node`]: a YAML value in which every part knows its place in the source.

use olmo_base::text::quoted;
use serde_json::{Map, Number, Value};

use crate::read::source::Span;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub span: Span,
    /// The place of the `${params.…}` that inserted it, if any.
    pub used: Option<Span>,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    Object(Vec<Entry>),
    /// Could not be computed. That is already reported and must cause no further error.
    Unknown,
}

/// One `key: value` of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

impl Node {
    pub(crate) fn new(span: Span, content: Content) -> Self {
        Self { span, used: None, content }
    }

    pub(crate) fn unknown(span: Span) -> Self {
        Self::new(span, Content::Unknown)
    }

    /// A node whose parts are all at `span`.
    pub(crate) fn from_json(value: &Value, span: Span) -> Self {
        let content = match value {
            Value::Null => Content::Null,
            Value::Bool(b) => Content::Bool(*b),
            Value::Number(n) => Content::Number(n.clone()),
            Value::String(s) => Content::String(s.clone()),
            Value::Array(items) => Content::Array(items.iter().map(|item| Self::from_json(item, span)).collect()),
            Value::Object(map) => Content::Object(
                map.iter()
                    .map(|(key, value)| Entry { key: key.clone(), key_span: span, value: Self::from_json(value, span) })
                    .collect(),
            ),
        };
        Self::new(span, content)
    }

    /// The value without places. An unknown part becomes null.
    pub(crate) fn to_json(&self) -> Value {
        match &self.content {
            Content::Null | Content::Unknown => Value::Null,
            Content::Bool(b) => Value::Bool(*b),
            Content::Number(n) => Value::Number(n.clone()),
            Content::String(s) => Value::String(s.clone()),
            Content::Array(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Object(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// The entry `key`, if this is a map that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of `key`, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entries of a map; none if it is something else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Object(entries) => entries,
            _ => &[],
        }
    }

    /// The text of a string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.content == Content::Null
    }

    /// The part at the JSON pointer `pointer`, its entry, and the innermost place of use on the path.
    pub(crate) fn at(&self, pointer: &str) -> Option<(&Node, Option<&Entry>, Option<Span>)> {
        let (mut node, mut entry, mut used) = (self, None, self.used);
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            node = match &node.content {
                Content::Object(entries) => {
                    entry = Some(entries.iter().find(|entry| entry.key == part)?);
                    &entry?.value
                }
                Content::Array(items) => {
                    entry = None;
                    items.get(part.parse::<usize>().ok()?)?
                }
                _ => return None,
            };
            used = node.used.or(used);
        }
        Some((node, entry, used))
    }

    /// Whether any part could not be computed.
    pub(crate) fn has_unknown(&self) -> bool {
        match &self.content {
            Content::Unknown => true,
            Content::Array(items) => items.iter().any(Node::has_unknown),
            Content::Object(entries) => entries.iter().any(|entry| entry.value.has_unknown()),
            _ => false,
        }
    }

    /// The kind of value in the terms of JSON Schema.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.content {
            Content::Null | Content::Unknown => "null",
            Content::Bool(_) => "boolean",
            Content::Number(_) => "number",
            Content::String(_) => "string",
            Content::Array(_) => "array",
            Content::Object(_) => "object",
        }
    }

    /// The value as the object of a sentence.
    pub(crate) fn described(&self) -> String {
        match &self.content {
            Content::Null | Content::Unknown => "null".to_owned(),
            Content::Bool(b) => format!("`{b}`"),
            Content::Number(n) => format!("the number `{n}`"),
            Content::String(s) => format!("the text {}", quoted(s)),
            Content::Array(_) => "a list".to_owned(),
            Content::Object(_) => "a map".to_owned(),
        }
    }
}
