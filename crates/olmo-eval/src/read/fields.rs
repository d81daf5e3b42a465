//! [`Fields`]: the values of a JSON object, with errors that name the key.

use serde_json::{Map, Value};

use crate::request::Message;

/// The values of an object.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// The path of the object, with a final dot; empty for the line itself.
    path: &'static str,
}

/// What a value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl<'a> Fields<'a> {
    /// The values of a line.
    pub(super) fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, path: "" }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The value of `key`; `None` if it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> String {
        format!("has {} in `{}{key}`, where {expected} is expected", kind(value), self.path)
    }

    fn missing(&self, key: &str, expected: &str) -> String {
        format!("has no `{}{key}` ({expected})", self.path)
    }

    /// The object in `key`, whose path is `path`.
    pub(super) fn object(&self, key: &str, path: &'static str) -> Result<Option<Fields<'a>>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { object, path })),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "text")),
        }
    }

    pub(super) fn required_text(&self, key: &str) -> Result<&'a str, String> {
        self.text(key)?.ok_or_else(|| self.missing(key, "text"))
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => {
                let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
                number.map(Some).ok_or_else(|| self.wrong(key, value, "a whole number of at least 0"))
            }
        }
    }

    /// The id in `key`: a whole number or text.
    pub(super) fn id(&self, key: &str) -> Result<String, String> {
        match self.get(key) {
            None => Err(self.missing(key, "a number or text that names the request")),
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(Value::Number(number)) if number.is_u64() => Ok(number.to_string()),
            Some(other) => Err(self.wrong(key, other, "a whole number of at least 0, or text that is not empty,")),
        }
    }

    /// The texts in `key`: a list, or a single text. Empty if it is absent.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, String> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(items)) => {
                let text = |item: &Value| item.as_str().map(str::to_owned);
                let found: Option<Vec<String>> = items.iter().map(text).collect();
                found.ok_or_else(|| format!("has a list in `{}{key}` that holds more than texts", self.path))
            }
            Some(other) => Err(self.wrong(key, other, "a list of texts")),
        }
    }

    /// The turns in `key`.
    pub(super) fn messages(&self, key: &str) -> Result<Option<Vec<Message>>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Array(items) = value else { return Err(self.wrong(key, value, "a list of messages")) };
        let message = |(index, item): (usize, &Value)| {
            let part = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
            match (part("role"), part("content")) {
                (Some(role), Some(content)) => Ok(Message { role, content }),
                _ => Err(format!(
                    "has a message {} in `{}{key}` without `role` and `content` as texts",
                    index + 1,
                    self.path
                )),
            }
        };
        let messages: Vec<Message> = items.iter().enumerate().map(message).collect::<Result<_, _>>()?;
        if messages.is_empty() {
            return Err(format!("has no messages in `{}{key}`", self.path));
        }
        Ok(Some(messages))
    }
}
