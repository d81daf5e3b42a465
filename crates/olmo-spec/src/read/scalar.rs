//! The meaning of unquoted YAML words. Words on which readers disagree are rejected.

use serde_json::Number;

use crate::read::node::Content;

/// The meaning of an unquoted scalar.
pub(crate) enum Plain {
    Value(Content),
    /// Other readers give it another meaning, or it fits no value.
    Refused {
        code: &'static str,
        why: &'static str,
        help: String,
    },
}

/// Reads `text` by YAML's core schema, as `serde_yaml` does.
pub(crate) fn plain(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Value(Content::Null),
        "true" | "True" | "TRUE" => return Plain::Value(Content::Bool(true)),
        "false" | "False" | "FALSE" => return Plain::Value(Content::Bool(false)),
        _ => {}
    }
    if let Some(refused) = surprise(text) {
        return refused;
    }
    match number(text) {
        Some(Ok(number)) => Plain::Value(Content::Number(number)),
        Some(Err(())) => Plain::Refused {
            code: "yaml::number_range",
            why: "does not fit into 64 bits",
            help: format!("put it in quotes if it is meant as a text: \"{text}\""),
        },
        None => Plain::Value(Content::String(text.to_owned())),
    }
}

/// Words that readers of YAML 1.1 (such as PyYAML) take for something else.
fn surprise(text: &str) -> Option<Plain> {
    let ambiguous = |why, help| Some(Plain::Refused { code: "yaml::ambiguous", why, help });
    let truth = match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" => Some(true),
        "no" | "off" | "n" => Some(false),
        _ => None,
    };
    if let Some(truth) = truth {
        let help = format!("write `{truth}`, or \"{text}\" if it is a text");
        return ambiguous("is a boolean in YAML 1.1 and a text in YAML 1.2", help);
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let first = digits.bytes().next()?;
    if matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        let help = format!("leave it out or write null; as a text it is \"{text}\"");
        return Some(Plain::Refused { code: "yaml::not_finite", why: "is not a finite number", help });
    }
    if !first.is_ascii_digit() {
        return None;
    }
    if digits.len() > 1 && first == b'0' && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        let help = format!("write \"{text}\" for a text, 0o… for an octal number, or leave out the leading zero");
        return ambiguous("is an octal number in YAML 1.1 and a text in YAML 1.2", help);
    }
    if digits.starts_with("0b") && digits.len() > 2 && digits[2..].bytes().all(|b| matches!(b, b'0' | b'1' | b'_')) {
        return ambiguous(
            "is a binary number in YAML 1.1 and a text in YAML 1.2",
            format!("write \"{text}\" or a decimal number"),
        );
    }
    let number_like =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'_' | b'.'));
    if digits.contains('_') {
        let body = digits.strip_prefix("0x").unwrap_or(digits);
        let hexadecimal = digits.len() != body.len() && body.bytes().all(|b| b.is_ascii_hexdigit() || b == b'_');
        if number_like(digits) || hexadecimal {
            let help = format!("write {}, or \"{text}\" for a text", text.replace('_', ""));
            return ambiguous("is a number in YAML 1.1 and a text in YAML 1.2", help);
        }
    }
    let mut parts = digits.split(':');
    let head_is_number = parts.next().is_some_and(number_like);
    let mut rest = parts.peekable();
    if head_is_number && rest.peek().is_some() && rest.all(|part| number_like(part) && sixtieth(part)) {
        let help = format!("write \"{text}\" for a text, or the number that is meant");
        return ambiguous("is a number to the base of sixty in YAML 1.1 and a text in YAML 1.2", help);
    }
    None
}

/// Whether `part` may follow a colon in a base-60 number.
fn sixtieth(part: &str) -> bool {
    let whole = part.split('.').next().unwrap_or("");
    whole.len() <= 2 && whole.parse::<u8>().is_ok_and(|n| n < 60)
}

/// Parses a number: `None` if `text` is not one, `Some(Err)` if it is an integer out of range.
fn number(text: &str) -> Option<Result<Number, ()>> {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (radix, body) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        _ => (10, digits),
    };
    if !body.is_empty() && body.chars().all(|c| c.is_digit(radix)) {
        let value = i128::from_str_radix(body, radix).ok();
        let value = value.map(|value| if negative { -value } else { value });
        let number = value.and_then(|v| u64::try_from(v).map(Number::from).or(i64::try_from(v).map(Number::from)).ok());
        return Some(number.ok_or(()));
    }
    // Rust also parses `inf`, `nan` and `infinity`; here they are texts.
    let finite = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && radix == 10;
    let text = text.strip_prefix('+').unwrap_or(text);
    let value: f64 = finite.then(|| text.parse().ok())??;
    value.is_finite().then(|| Number::from_f64(value)).flatten().map(Ok)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::read::node::Node;
    use crate::read::source::Span;

    fn value(text: &str) -> Option<Value> {
        match plain(text) {
            Plain::Value(content) => Some(Node::new(Span::DEFAULT, content).to_json()),
            Plain::Refused { .. } => None,
        }
    }

    #[test]
    fn accepted_words_mean_what_serde_yaml_says() {
        for text in [
            "",
            "~",
            "null",
            "true",
            "False",
            "0",
            "-0",
            "+7",
            "12",
            "-3",
            "0x1f",
            "-0x1f",
            "0o17",
            "1e-5",
            "1E5",
            "1.",
            ".5",
            "-.5",
            "+.5",
            "1.0",
            "6.02e23",
            "abc",
            "1a",
            "0x",
            "0xg",
            "0o9",
            "0o",
            "+",
            "inf",
            "nan",
            "-inf",
            "infinity",
            "1e400",
            "18446744073709551615",
            "-9223372036854775808",
            "2024-01-01",
            "1.2.3",
            "12h",
            "a:b",
            "yess",
            "+-1",
            "--1",
            "0x-1",
            "0x+1",
            "1e",
            "e5",
            "truE",
            "nULL",
        ] {
            assert_eq!(value(text), Some(serde_yaml::from_str(text).unwrap()), "{text}");
        }
    }

    #[test]
    fn words_that_readers_disagree_about_are_refused() {
        for text in [
            "yes",
            "No",
            "ON",
            "off",
            "y",
            "N",
            "0777",
            "-00",
            "007",
            "1_000",
            "1_0.5",
            "0x_ff",
            "0b101",
            "1:30",
            "190:20:30",
            "1:30.5",
            ".inf",
            "-.INF",
            ".nan",
            "18446744073709551616",
            "-9223372036854775809",
            "999999999999999999999999999999999999999999",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn words_that_only_look_like_them_are_not() {
        for text in ["1:99", "12:34:", "v1_000", "step_1", "1_000_steps", "0b12", "yes please", "0_8a"] {
            assert_eq!(value(text), Some(json!(text)), "{text}");
        }
    }
}
