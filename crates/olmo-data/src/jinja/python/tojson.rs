//! The filter `tojson` as defined by transformers: Python's `json.dumps`.

use std::fmt::Write as _;

use crate::jinja::error::{Error, Result};
use crate::jinja::python::repr::float_repr;
use crate::jinja::session::Session;
use crate::jinja::text::{Text, TextBuilder};
use crate::jinja::value::Value;

/// The options of `json.dumps` that the filter supports.
pub(crate) struct Options {
    pub ensure_ascii: bool,
    pub indent: Option<Text>,
    /// Separators between items, and between a key and its value.
    pub separators: (Text, Text),
    pub sort_keys: bool,
}

pub(crate) fn dump(session: &Session, value: &Value, options: &Options) -> Result<Text> {
    let mut out = TextBuilder::default();
    write(session, value, options, 0, &mut out)?;
    Ok(out.finish())
}

fn write(session: &Session, value: &Value, options: &Options, level: usize, out: &mut TextBuilder) -> Result<()> {
    session.spend(1)?;
    if level > 200 {
        return Err(Error::raised("RecursionError", "maximum recursion depth exceeded"));
    }
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Float(value) => out.push_str(&float(*value)),
        Value::Text(text) | Value::Markup(text) => write_string(text, options.ensure_ascii, out),
        Value::List(items) | Value::Tuple(items) | Value::Group(items) => {
            if items.is_empty() {
                out.push_str("[]");
                return Ok(());
            }
            out.push_str("[");
            for (i, item) in items.iter().enumerate() {
                separate(options, i > 0, level + 1, out);
                write(session, item, options, level + 1, out)?;
            }
            new_line(options, level, out);
            out.push_str("]");
        }
        Value::Dict(dict) => {
            if dict.pairs().is_empty() {
                out.push_str("{}");
                return Ok(());
            }
            let mut pairs: Vec<&(Value, Value)> = dict.pairs().iter().collect();
            if options.sort_keys {
                super::comparison::sort_by_key(&mut pairs, |pair| Ok(pair.0.clone()), false)?;
            }
            out.push_str("{");
            for (i, (key, value)) in pairs.into_iter().enumerate() {
                separate(options, i > 0, level + 1, out);
                let key = match key {
                    Value::Text(key) => key.clone(),
                    Value::None => "null".into(),
                    Value::Bool(value) => if *value { "true" } else { "false" }.into(),
                    Value::Int(value) => value.to_string().into(),
                    Value::Float(value) => float(*value).into(),
                    other => {
                        let kind = other.type_name();
                        return Err(Error::type_error(format!(
                            "keys must be str, int, float, bool or None, not {kind}"
                        )));
                    }
                };
                write_string(&key, options.ensure_ascii, out);
                out.push(&options.separators.1);
                write(session, value, options, level + 1, out)?;
            }
            new_line(options, level, out);
            out.push_str("}");
        }
        other => {
            let kind = other.type_name();
            return Err(Error::type_error(format!("Object of type {kind} is not JSON serializable")));
        }
    }
    Ok(())
}

fn separate(options: &Options, between: bool, level: usize, out: &mut TextBuilder) {
    if between {
        out.push(&options.separators.0);
    }
    new_line(options, level, out);
}

fn new_line(options: &Options, level: usize, out: &mut TextBuilder) {
    if let Some(indent) = &options.indent {
        out.push_str("\n");
        (0..level).for_each(|_| out.push(indent));
    }
}

fn float(value: f64) -> String {
    match float_repr(value).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        other => other.into(),
    }
}

fn write_string(text: &Text, ensure_ascii: bool, out: &mut TextBuilder) {
    let mut escaped = String::with_capacity(text.as_str().len() + 2);
    for c in text.as_str().chars() {
        match c {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\u{c}' => escaped.push_str("\\f"),
            '\u{8}' => escaped.push_str("\\b"),
            c if c < ' ' || ensure_ascii && c > '~' => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
            c => escaped.push(c),
        }
    }
    out.push_str("\"");
    out.push_from(&escaped, text.pieces().first().map(|piece| piece.turn));
    out.push_str("\"");
}
