//! [`Parts`]: a `tokenizer.json` whose vocabulary and merges, which are nearly all of it, stay text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{self, Write as _};

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The content of a `tokenizer.json`.
pub(super) struct Parts<'t> {
    /// Everything but the vocabulary and the merges of the model.
    pub(super) settings: Map<String, Value>,
    vocabulary: Option<&'t RawValue>,
    merges: Option<&'t RawValue>,
}

impl<'t> Parts<'t> {
    pub(super) fn read(content: &'t [u8]) -> Result<Self, serde_json::Error> {
        let mut parts: HashMap<Cow<'t, str>, &'t RawValue> = serde_json::from_slice(content)?;
        let (mut vocabulary, mut merges) = (None, None);
        let mut settings = Map::new();
        if let Some(model) = parts.remove("model") {
            let model = match serde_json::from_str::<HashMap<Cow<'t, str>, &'t RawValue>>(model.get()) {
                Ok(mut model) => {
                    (vocabulary, merges) = (model.remove("vocab"), model.remove("merges"));
                    Value::Object(values(model)?)
                }
                // Not an object; the libraries say so.
                Err(_) => serde_json::from_str(model.get())?,
            };
            settings.insert("model".into(), model);
        }
        settings.extend(values(parts)?);
        Ok(Self { settings, vocabulary, merges })
    }

    pub(super) fn setting(&self, name: &str) -> &Value {
        self.settings.get(name).unwrap_or(&Value::Null)
    }

    /// Calls `each` with every token of the vocabulary and its id; `None` if there is another kind
    /// of vocabulary.
    pub(super) fn tokens(&self, each: impl FnMut(&str, u32)) -> Option<()> {
        let text = self.vocabulary?.get();
        serde_json::Deserializer::from_str(text).deserialize_map(Tokens(each)).ok()
    }

    /// The file in the form that `tokenizers` 1.0 reads; `None` if it has none.
    pub(super) fn canonical(mut self) -> Option<String> {
        let model = self.settings.get_mut("model")?.as_object_mut()?;
        // In their place; the canonical form of neither depends on what it holds.
        model.insert("vocab".into(), Value::Object(Map::new()));
        model.insert("merges".into(), Value::Array(Vec::new()));
        let mut settings = Value::Object(self.settings);
        tokenizers_1::canonicalize_value(&mut settings).ok()?;
        let model = settings.as_object_mut()?.remove("model")?;
        let (vocabulary, merges) = (self.vocabulary?.get(), pairs(self.merges?.get())?);
        let mut text = String::with_capacity(vocabulary.len() + merges.len() + (1 << 16));
        write!(text, "{{\"model\":{{\"vocab\":{vocabulary},\"merges\":{merges}").ok()?;
        for (name, value) in model.as_object()?.iter().filter(|(name, _)| *name != "vocab" && *name != "merges") {
            write!(text, ",{}:{value}", Value::from(name.as_str())).ok()?;
        }
        text.push('}');
        for (name, value) in settings.as_object()? {
            write!(text, ",{}:{value}", Value::from(name.as_str())).ok()?;
        }
        text.push('}');
        Some(text)
    }
}

fn values(parts: HashMap<Cow<'_, str>, &RawValue>) -> Result<Map<String, Value>, serde_json::Error> {
    parts.into_iter().map(|(name, value)| Ok((name.into_owned(), serde_json::from_str(value.get())?))).collect()
}

/// Merges as pairs: older files have one string for both halves, with a space between them. `None`
/// if a string is of another form.
fn pairs(merges: &str) -> Option<Cow<'_, str>> {
    let first = merges.strip_prefix('[')?.trim_start();
    if first.starts_with('[') || first == "]" {
        return Some(Cow::Borrowed(merges));
    }
    let mut text = String::with_capacity(merges.len() * 3 / 2);
    text.push('[');
    let mut rest = first;
    while let Some(string) = rest.strip_prefix('"') {
        let end = end_of_string(string)?;
        let merge = &string[..end];
        // An escaped space would be one of the two characters that a space may stand for here.
        let (left, right) = merge.split_once(' ')?;
        if right.contains(' ') || merge.contains("\\u0020") {
            return None;
        }
        if !merge.starts_with("#version") {
            text.push_str(if text.len() > 1 { ",[\"" } else { "[\"" });
            text.push_str(left);
            text.push_str("\",\"");
            text.push_str(right);
            text.push_str("\"]");
        }
        rest = string[end + 1..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    text.push(']');
    (rest == "]").then_some(Cow::Owned(text))
}

/// The length of a JSON string that has begun, up to its closing quotation mark.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// Visits the tokens of a vocabulary.
struct Tokens<F>(F);

impl<'de, F: FnMut(&str, u32)> Visitor<'de> for Tokens<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
        while let Some(token) = map.next_key::<Key<'de>>()? {
            (self.0)(&token.0, map.next_value()?);
        }
        Ok(())
    }
}

/// A key that is copied only if it has escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'t>(#[serde(borrow)] Cow<'t, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_become_pairs() {
        for (given, wanted) in [
            (r#"[["a","b"]]"#, Some(r#"[["a","b"]]"#)),
            (r#"[]"#, Some("[]")),
            (r#"["a b", "\u0120\" \\"]"#, Some(r#"[["a","b"],["\u0120\"","\\"]]"#)),
            (r##"["#version: 0.2","a b"]"##, Some(r#"[["a","b"]]"#)),
            (r#"["a  b"]"#, None),
            (r#"["ab"]"#, None),
            (r#"["a\u0020b c"]"#, None),
            (r#"[1]"#, None),
            (r#"{}"#, None),
        ] {
            assert_eq!(pairs(given).as_deref(), wanted, "{given}");
        }
    }

    #[test]
    fn the_canonical_form_is_that_of_the_library() {
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer.json")).unwrap();
        let ours: Value = serde_json::from_str(&Parts::read(text.as_bytes()).unwrap().canonical().unwrap()).unwrap();
        let theirs: Value = serde_json::from_str(&tokenizers_1::canonicalize_str(&text).unwrap()).unwrap();
        assert_eq!(ours, theirs);
    }
}
