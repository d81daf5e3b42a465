//! [`PlainChat`]: a line of nothing but texts, read without a JSON value in between.
//!
//! Nearly all lines of format `messages` are such. Any other line, good or bad, is left to
//! [`crate::record`], which reads these lines alike.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

/// A conversation whose messages have only a role and a content.
#[derive(Default)]
pub(crate) struct PlainChat<'l> {
    pub dataset: String,
    pub id: String,
    pub messages: Vec<PlainMessage<'l>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlainMessage<'l> {
    #[serde(borrow)]
    pub role: Cow<'l, str>,
    pub content: String,
}

/// A key that is copied only if it has escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'l>(#[serde(borrow)] Cow<'l, str>);

impl<'l> Deserialize<'l> for PlainChat<'l> {
    fn deserialize<D: Deserializer<'l>>(deserializer: D) -> Result<Self, D::Error> {
        struct Record;

        impl<'l> Visitor<'l> for Record {
            type Value = PlainChat<'l>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a plain conversation")
            }

            fn visit_map<M: MapAccess<'l>>(self, mut map: M) -> Result<PlainChat<'l>, M::Error> {
                let mut chat = PlainChat::default();
                while let Some(Key(key)) = map.next_key()? {
                    // The last of equal keys counts.
                    match key.as_ref() {
                        "dataset" => chat.dataset = map.next_value()?,
                        "id" => chat.id = map.next_value()?,
                        "messages" => chat.messages = map.next_value()?,
                        "tools" | "functions" | "documents" => return Err(M::Error::custom("not plain")),
                        // Ignored, but it must be valid.
                        _ => drop(map.next_value::<Value>()?),
                    }
                }
                Ok(chat)
            }
        }

        deserializer.deserialize_map(Record)
    }
}

impl<'l> PlainChat<'l> {
    /// The conversation in `line`; `None` if the line is of another form.
    pub(crate) fn read(line: &'l [u8]) -> Option<Self> {
        let chat: Self = serde_json::from_slice(line).ok()?;
        (!chat.messages.is_empty()).then_some(chat)
    }
}
