//! Python's `str` and `repr`.

use std::fmt::Write as _;

use crate::jinja::error::{Error, Result};
use crate::jinja::text::{Text, TextBuilder};
use crate::jinja::unicode;
use crate::jinja::value::{Dict, Value};

impl Value {
    /// Python's `str`, the printed form of the value.
    pub(crate) fn to_text(&self) -> Result<Text> {
        match self {
            Self::Undefined(_) => Ok("".into()),
            Self::Text(text) | Self::Markup(text) => Ok(text.clone()),
            other => {
                let mut builder = TextBuilder::default();
                other.write_repr(&mut builder)?;
                Ok(builder.finish())
            }
        }
    }

    /// Python's `repr`.
    pub(crate) fn repr(&self) -> Result<Text> {
        let mut builder = TextBuilder::default();
        self.write_repr(&mut builder)?;
        Ok(builder.finish())
    }

    fn write_repr(&self, out: &mut TextBuilder) -> Result<()> {
        match self {
            Self::Undefined(_) => out.push_str("Undefined"),
            Self::None => out.push_str("None"),
            Self::Bool(true) => out.push_str("True"),
            Self::Bool(false) => out.push_str("False"),
            Self::Int(value) => out.push_str(&value.to_string()),
            Self::Float(value) => out.push_str(&float_repr(*value)),
            Self::Text(text) => {
                let turn = text.pieces().first().map(|piece| piece.turn);
                let quoted = quote(text.as_str());
                out.push_str(&quoted[..1]);
                out.push_from(&quoted[1..quoted.len() - 1], turn);
                out.push_str(&quoted[quoted.len() - 1..]);
            }
            Self::Markup(_) => return Err(Error::unsupported("the repr of a result of `safe` or `escape`")),
            Self::List(items) => write_items(out, "[", items, "]")?,
            Self::Tuple(items) | Self::Group(items) => {
                write_items(out, "(", items, if items.len() == 1 { ",)" } else { ")" })?;
            }
            Self::Dict(dict) => write_pairs(out, dict)?,
            Self::View(name, items) => {
                out.push_str(name);
                write_items(out, "([", items, "])")?;
            }
            Self::Range(range) => {
                let mut text = format!("range({}, {}", range.start, range.stop);
                if range.step != 1 {
                    // Writing to a string cannot fail.
                    let _ = write!(text, ", {}", range.step);
                }
                out.push_str(&(text + ")"));
            }
            Self::Namespace(dict) => {
                out.push_str("<Namespace ");
                write_pairs(out, &dict.borrow())?;
                out.push_str(">");
            }
            other => {
                return Err(Error::unsupported(format!(
                    "printing a value of type `{}`: its text contains an address",
                    other.type_name()
                )));
            }
        }
        Ok(())
    }
}

fn write_items(out: &mut TextBuilder, open: &str, items: &[Value], close: &str) -> Result<()> {
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        item.write_repr(out)?;
    }
    out.push_str(close);
    Ok(())
}

fn write_pairs(out: &mut TextBuilder, dict: &Dict) -> Result<()> {
    out.push_str("{");
    for (i, (key, value)) in dict.pairs().iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        key.write_repr(out)?;
        out.push_str(": ");
        value.write_repr(out)?;
    }
    out.push_str("}");
    Ok(())
}

/// Python's `repr` of a string.
pub(crate) fn quote(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for c in text.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c == quote => quoted.extend(['\\', c]),
            c if unicode::is_printable(c) => quoted.push(c),
            c => {
                let code = u32::from(c);
                // Writing to a string cannot fail.
                let _ = match code {
                    0..=0xff => write!(quoted, "\\x{code:02x}"),
                    0x100..=0xffff => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
            }
        }
    }
    quoted.push(quote);
    quoted
}

/// Python's `repr` of a float: the fewest digits that parse to the same number.
pub(crate) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_and_strings_are_written_as_python_writes_them() {
        let cases = [
            (0.1, "0.1"),
            (100.0, "100.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (1e-4, "0.0001"),
            (1e300, "1e+300"),
        ];
        for (value, expected) in cases {
            assert_eq!(float_repr(value), expected);
        }
        assert_eq!(quote("it's"), "\"it's\"");
        assert_eq!(quote("it's \"so\""), "'it\\'s \"so\"'");
        assert_eq!(quote("é\u{200b}\u{7}\n"), "'é\\u200b\\x07\\n'");
    }
}
