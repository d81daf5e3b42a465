//! [`Parts`]: a `tokenizer.json` whose vocabulary and merges, which are nearly all of it, stay text.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
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
        serde_json::from_slice(content)
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

impl<'de> Deserialize<'de> for Parts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(File)
    }
}

/// Visits the members of the file. Those of its model are visited in turn, so that the vocabulary is
/// passed over once.
struct File;

impl<'de> Visitor<'de> for File {
    type Value = Parts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tokenizer")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut parts = Parts { settings: Map::new(), vocabulary: None, merges: None };
        while let Some(name) = map.next_key::<String>()? {
            let value = match name.as_str() {
                "model" => map.next_value_seed(Model(&mut parts))?,
                _ => map.next_value()?,
            };
            parts.settings.insert(name, value);
        }
        Ok(parts)
    }
}

/// Reads the model, of which only the vocabulary and the merges go into the parts.
struct Model<'p, 't>(&'p mut Parts<'t>);

impl<'de> DeserializeSeed<'de> for Model<'_, 'de> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Model<'_, 'de> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the model of a tokenizer")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value, M::Error> {
        let mut settings = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "vocab" => self.0.vocabulary = Some(map.next_value()?),
                "merges" => self.0.merges = Some(map.next_value()?),
                _ => drop(settings.insert(name, map.next_value()?)),
            }
        }
        Ok(Value::Object(settings))
    }
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
