//! Settings of a `tokenizer.json` that make encoding random, or truncate and pad texts.
//!
//! They come from the last use of the tokenizer and are not part of its definition. [`clean`] sets
//! them to null and keeps every other byte of the file.

use std::ops::Range;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

/// A `tokenizer.json` without those settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    pub bytes: Vec<u8>,
    /// What was removed, as parts of a sentence.
    pub removed: Vec<String>,
}

/// Removes truncation, padding and BPE dropout from the content of a `tokenizer.json`. `None` if it
/// has none of them, or is not a JSON object.
pub fn clean(bytes: &[u8]) -> Option<Cleaned> {
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for (key, place) in members(bytes, 0)? {
        let value: Value = match key.as_str() {
            "truncation" | "padding" => serde_json::from_slice(&bytes[place.clone()]).ok()?,
            "model" => {
                edits.extend(dropout(bytes, place.start));
                continue;
            }
            _ => continue,
        };
        if !value.is_null() {
            edits.push((place, describe(&key, &value)));
        }
    }
    if edits.is_empty() {
        return None;
    }
    edits.sort_by_key(|(place, _)| place.start);
    let mut cleaned = Vec::with_capacity(bytes.len());
    let mut kept = 0;
    for (place, _) in &edits {
        cleaned.extend_from_slice(&bytes[kept..place.start]);
        cleaned.extend_from_slice(b"null");
        kept = place.end;
    }
    cleaned.extend_from_slice(&bytes[kept..]);
    Some(Cleaned { bytes: cleaned, removed: edits.into_iter().map(|(_, removed)| removed).collect() })
}

/// The byte ranges of `dropout` in the model at `start`, unless it is null or 0.
fn dropout(bytes: &[u8], start: usize) -> Vec<(Range<usize>, String)> {
    let edit = |(key, place): (String, Range<usize>)| {
        let rate: f64 = serde_json::from_slice(&bytes[place.clone()]).ok()?;
        (key == "dropout" && rate != 0.0)
            .then(|| (place, format!("dropout {rate} (it encodes equal texts differently each time)")))
    };
    members(bytes, start).unwrap_or_default().into_iter().filter_map(edit).collect()
}

fn describe(key: &str, value: &Value) -> String {
    let length = match key {
        "truncation" => value.get("max_length"),
        _ => value.get("strategy").and_then(|strategy| strategy.get("Fixed")),
    };
    length.map_or_else(|| key.to_owned(), |length| format!("{key} to {length} tokens"))
}

/// Keys and byte ranges of the values of the JSON object that starts at `start`. `None` if it is
/// not a valid object.
fn members(bytes: &[u8], start: usize) -> Option<Vec<(String, Range<usize>)>> {
    let mut at = expect(bytes, start, b'{')?;
    let mut found = Vec::new();
    if expect(bytes, at, b'}').is_some() {
        return Some(found);
    }
    loop {
        let (key, place) = next::<String>(bytes, at)?;
        let (_, place) = next::<IgnoredAny>(bytes, expect(bytes, place.end, b':')?)?;
        at = place.end;
        found.push((key, place));
        match expect(bytes, at, b',') {
            Some(after) => at = after,
            None => return expect(bytes, at, b'}').map(|_| found),
        }
    }
}

/// The position after `wanted`, if it is the next non-whitespace byte.
fn expect(bytes: &[u8], at: usize, wanted: u8) -> Option<usize> {
    let at = skip_space(bytes, at);
    (bytes.get(at) == Some(&wanted)).then_some(at + 1)
}

/// The JSON value at `at`, and its byte range.
fn next<T: DeserializeOwned>(bytes: &[u8], at: usize) -> Option<(T, Range<usize>)> {
    let start = skip_space(bytes, at);
    let mut stream = serde_json::Deserializer::from_slice(bytes.get(start..)?).into_iter::<T>();
    let value = stream.next()?.ok()?;
    Some((value, start..start + stream.byte_offset()))
}

fn skip_space(bytes: &[u8], at: usize) -> usize {
    let space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    at + bytes.get(at..).unwrap_or_default().iter().take_while(space).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(text: &str) -> Option<(String, Vec<String>)> {
        clean(text.as_bytes()).map(|cleaned| (String::from_utf8(cleaned.bytes).unwrap(), cleaned.removed))
    }

    #[test]
    fn only_the_values_change_and_every_other_byte_stays() {
        let text = "{ \"b\" : [1.50, {\"truncation\": 1}],\n\"padding\":{\"strategy\":{\"Fixed\":16},\"pad_id\":1}, \
                    \"trunc\\u0061tion\" : {\"max_length\": 8}\t,\"model\": {\"vocab\":{\"dropout\":7}, \"dropout\":0.5 ,\"z\":1} }\n";
        let want = "{ \"b\" : [1.50, {\"truncation\": 1}],\n\"padding\":null, \
                    \"trunc\\u0061tion\" : null\t,\"model\": {\"vocab\":{\"dropout\":7}, \"dropout\":null ,\"z\":1} }\n";
        let (got, what) = removed(text).unwrap();
        assert_eq!(got, want);
        assert_eq!(
            what,
            [
                "padding to 16 tokens",
                "truncation to 8 tokens",
                "dropout 0.5 (it encodes equal texts differently each time)"
            ]
        );
        assert_eq!(removed("{\"padding\":{\"strategy\":\"BatchLongest\"}}").unwrap().1, ["padding"]);
    }

    #[test]
    fn a_file_without_such_settings_is_left_alone() {
        for rate in ["null", "0", "0.0", "-0.0"] {
            let text = format!("{{\"truncation\":null,\"padding\":null,\"model\":{{\"dropout\":{rate}}}}}");
            assert_eq!(removed(&text), None, "{text}");
        }
        for text in [
            "",
            "[]",
            "{",
            "{}",
            "{\"padding\":{\"a\":}}",
            "{\"padding\":1",
            "null",
            "\"{}\"",
            "{\"a\" 1}",
            "\u{1f980}",
        ] {
            assert_eq!(removed(text), None, "{text}");
        }
    }
}
