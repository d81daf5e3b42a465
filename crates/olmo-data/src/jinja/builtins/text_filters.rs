//! Filters that rewrite a text.

use crate::jinja::error::{Error, Result};
use crate::jinja::python::operators;
use crate::jinja::session::Session;
use crate::jinja::text::{Text, TextBuilder};
use crate::jinja::unicode;
use crate::jinja::value::Value;

/// Jinja2's own `title`: words start after whitespace and some punctuation.
pub(super) fn title(text: &str) -> String {
    let begins = |c: char| unicode::is_space(c) || "-({[<".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if begins(c) {
            out.push(c);
            start = true;
        } else if start {
            out.extend(c.to_uppercase());
            start = false;
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

pub(super) fn indent(session: &Session, text: &Text, width: &Text, first: bool, blank: bool) -> Result<Text> {
    let mut out = TextBuilder::default();
    if first {
        out.push(width);
    }
    let string = text.as_str();
    let mut lines: Vec<&str> = unicode::lines(string).into_iter().map(|(line, _)| line).collect();
    // The text is split after appending a newline.
    let ends_in_line = string.is_empty() || unicode::lines(string).last().is_some_and(|(_, end)| !end.is_empty());
    if ends_in_line {
        lines.push("");
    }
    session.spend(lines.len() * (1 + width.as_str().len() / 16))?;
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push_str("\n");
            if blank || !line.is_empty() {
                out.push(width);
            }
        }
        if !line.is_empty() {
            out.push(&text.subslice(line));
        }
    }
    Ok(out.finish())
}

pub(super) fn file_size(value: &Value, binary: bool) -> Result<String> {
    let bytes = match value.defined()? {
        Value::Text(text) => operators::parse_float(text.as_str()),
        other => other.as_float(),
    };
    let Some(bytes) = bytes else { return Err(Error::value_error("could not convert to float")) };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    let unit = if binary { "iB" } else { "B" };
    let letters = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc() as i128));
    }
    let mut shown = String::new();
    for (i, letter) in letters.chars().enumerate() {
        let next = base.powi(i as i32 + 2);
        shown = format!("{:.1} {letter}{unit}", base * bytes / next);
        if bytes < next {
            break;
        }
    }
    Ok(shown)
}

pub(super) fn url_encode(value: &Value) -> Result<String> {
    let quote = |text: &str, query: bool| {
        let mut quoted = String::new();
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => quoted.push(byte.into()),
                b'/' if !query => quoted.push('/'),
                b' ' if query => quoted.push('+'),
                byte => quoted.push_str(&format!("%{byte:02X}")),
            }
        }
        quoted
    };
    let pairs = match value {
        Value::Text(text) => return Ok(quote(text.as_str(), false)),
        Value::Dict(dict) => dict.pairs().iter().map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>(),
        other if other.as_items().is_some() => {
            let mut pairs = Vec::new();
            for pair in other.items()? {
                match pair.items()?.as_slice() {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    _ => return Err(Error::value_error("expected pairs")),
                }
            }
            pairs
        }
        other => return Ok(quote(other.to_text()?.as_str(), false)),
    };
    let mut parts = Vec::new();
    for (key, value) in pairs {
        parts.push(format!("{}={}", quote(key.to_text()?.as_str(), true), quote(value.to_text()?.as_str(), true)));
    }
    Ok(parts.join("&"))
}

pub(super) fn escape(text: &Text) -> Text {
    let mut out = TextBuilder::default();
    let string = text.as_str();
    let mut at = 0;
    for (start, c) in string.char_indices() {
        let entity = match c {
            '&' => "&amp;",
            '>' => "&gt;",
            '<' => "&lt;",
            '\'' => "&#39;",
            '"' => "&#34;",
            _ => continue,
        };
        out.push(&text.slice(at..start));
        out.push(&text.slice(start..start + 1).derive(entity.into()));
        at = start + 1;
    }
    out.push(&text.slice(at..string.len()));
    out.finish()
}
