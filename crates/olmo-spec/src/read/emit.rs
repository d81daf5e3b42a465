//! Writes YAML that every reader understands in the same way: ours, readers of YAML 1.2, and
//! readers of YAML 1.1 such as PyYAML.

use serde::Serialize;
use serde_json::{Number, Value};

use crate::read::node::Content;
use crate::read::scalar::{self, Plain};

/// `value` as a YAML document.
///
/// A text is written without quotes only if every reader takes it for a text. Numbers have the form
/// that YAML 1.1 requires (`2.0e-5`, not `2e-5`).
///
/// # Errors
/// `value` cannot be represented in JSON.
pub fn to_yaml<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let mut out = String::new();
    block(&serde_json::to_value(value)?, 0, &mut out);
    Ok(out)
}

/// Writes `value` and a newline. The first line's indentation, `depth` levels, is already there.
fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (index, (key, value)) in entries.iter().enumerate() {
                if index > 0 {
                    indent(depth, out);
                }
                out.push_str(&text(key));
                out.push(':');
                match value {
                    Value::Object(inner) if !inner.is_empty() => nested(value, depth + 1, out),
                    Value::Array(inner) if !inner.is_empty() => nested(value, depth, out),
                    _ => {
                        out.push(' ');
                        block(value, depth, out);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    indent(depth, out);
                }
                out.push_str("- ");
                block(item, depth + 1, out);
            }
        }
        Value::String(string) if is_literal(string) => literal(string, depth + 1, out),
        other => {
            out.push_str(&match other {
                Value::Object(_) => "{}".to_owned(),
                Value::Array(_) => "[]".to_owned(),
                Value::String(string) => text(string),
                Value::Number(n) => number(n),
                Value::Bool(_) | Value::Null => other.to_string(),
            });
            out.push('\n');
        }
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    out.push('\n');
    indent(depth, out);
    block(value, depth, out);
}

fn indent(depth: usize, out: &mut String) {
    out.push_str(&"  ".repeat(depth));
}

/// A number with a point and a signed exponent, both of which YAML 1.1 requires in a float.
fn number(number: &Number) -> String {
    let text = number.to_string();
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

/// `text` on one line, in quotes unless it is a plain word.
fn text(text: &str) -> String {
    if is_word(text) { text.to_owned() } else { double_quoted(text) }
}

/// Whether every reader takes `text` for a text without quotes.
fn is_word(text: &str) -> bool {
    // For some reader, a word that begins with a digit, sign or point is a number or date.
    let begins = |c: char| c.is_alphabetic() || matches!(c, '_' | '/');
    let continues = |c: char| c.is_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | '+' | '=' | '@' | ' ' | ':');
    text.starts_with(begins)
        && text.chars().all(|c| continues(c) && is_printable(c))
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && matches!(scalar::plain(text), Plain::Value(Content::String(_)))
        && !["null", "true", "false"].contains(&text.to_ascii_lowercase().as_str())
}

/// Whether YAML allows `c` outside escapes and reads it as an ordinary character.
fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether `text` is best written as a block of lines, and safely so.
fn is_literal(text: &str) -> bool {
    let lines = || text.split('\n');
    text.trim_end_matches('\n').contains('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && text.chars().all(|c| c == '\n' || is_printable(c))
        // Editors often remove white space on an otherwise empty line.
        && lines().all(|line| line.is_empty() || !line.trim().is_empty())
}

/// Writes the lines of `text`, each `depth` levels deep.
fn literal(text: &str, depth: usize, out: &mut String) {
    let (body, mark) = match text.strip_suffix('\n') {
        Some(body) => (body, "|\n"),
        None => (text, "|-\n"),
    };
    out.push_str(mark);
    for line in body.split('\n') {
        if !line.is_empty() {
            indent(depth, out);
        }
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use saphyr_parser::{Event, Parser, ScalarStyle};
    use serde_json::json;

    use super::*;
    use crate::read::source::Session;
    use crate::read::yaml;

    /// `text` as our own reader reads it.
    fn read(text: &str) -> Result<Value, String> {
        let mut session = Session::default();
        let number = session.add("x.yaml".into(), text.into(), PathBuf::from("/"));
        let node = yaml::read(&mut session, number);
        session.finish().map_err(|e| e.render(false))?;
        Ok(node.ok_or("no node and no error")?.to_json())
    }

    /// Texts that some reader takes for a boolean, a null, a number, a date or a mark.
    const TRAPS: &[&str] = &[
        "",
        "~",
        "null",
        "Null",
        "NULL",
        "yes",
        "No",
        "ON",
        "off",
        "y",
        "N",
        "true",
        "False",
        "TRUE",
        "0",
        "-0",
        "010",
        "0o17",
        "0x1f",
        "0b101",
        "1_000",
        "1.10",
        "1.",
        ".5",
        "+.5",
        "12e3",
        "1e400",
        "2e-5",
        ".inf",
        "-.INF",
        ".nan",
        "inf",
        "nan",
        "12:30",
        "1:30.5",
        "2024-01-01",
        "2001-12-14t21:59:43.10-05:00",
        "=",
        "<<",
        "-",
        "- a",
        "?",
        "? a",
        ":",
        ":a",
        "a:",
        "a: b",
        "a #b",
        "#a",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "'a'",
        "\"a\"",
        "[a]",
        "{a: b}",
        "${params.x}",
        " a",
        "a ",
        "\ta",
        "a\tb",
        "a\n",
        "\n",
        "a\nb",
        "a\nb\n",
        "a\n\nb",
        "a\n b\n",
        " a\nb",
        "a\n  \nb",
        "a\nb\n\n",
        "a\r\nb",
        "---",
        "--- a",
        "...",
        "a\u{85}b",
        "a\u{2028}b",
        "\u{feff}a",
        "a\u{feff}",
        "\u{7f}",
        "\0",
        "\u{ffff}",
        "\u{1f980} née",
        "/a/b c.txt",
        "hf:datasets/a/b@main/x",
        "sha256:1f",
        "a,b",
        "a]",
        "a}",
        "e5",
        "_1",
        "0_8a",
        "a\\nb",
        "a: ",
        "a\n#b",
    ];

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            proptest::sample::select(TRAPS).prop_map(str::to_owned),
            "[ -~]{0,12}",
            "\\PC{0,6}",
            "[0-9eE_.:+x -]{1,8}",
            "[a#:\\- \n]{1,9}",
            any::<String>(),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
            proptest::sample::select(&[2e-5, 1e16, 1e-7, 0.1, -0.0, 1.0, 1e300][..]).prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            let entries = prop::collection::vec((text.clone(), inner.clone()), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                entries.prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    /// What YAML 1.1 takes a word without quotes for. Everything that begins as a number, date or mark does is `other`,
    /// unless it is a number beyond doubt: stricter than any reader.
    fn yaml_1_1(word: &str) -> &'static str {
        match word.to_ascii_lowercase().as_str() {
            "" | "~" | "null" => return "null",
            "yes" | "no" | "on" | "off" | "y" | "n" | "true" | "false" => return "boolean",
            _ => {}
        }
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let unsigned = word.strip_prefix('-').unwrap_or(word);
        if unsigned == "0" || digits(unsigned) && !unsigned.starts_with('0') {
            return "integer";
        }
        if let Some((whole, rest)) = unsigned.split_once('.') {
            let (fraction, exponent) = rest.split_once('e').unwrap_or((rest, "+0"));
            let signed = exponent.strip_prefix(['-', '+']);
            if digits(whole) && digits(fraction) && signed.is_some_and(digits) {
                return "float";
            }
        }
        let begins = |c: char| c.is_alphabetic() || matches!(c, '_' | '/');
        if word.starts_with(begins) { "text" } else { "other" }
    }

    fn kind(value: &Value) -> &'static str {
        match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => "float",
            Value::Number(_) => "integer",
            _ => "text",
        }
    }

    /// The kinds of all keys and scalars of `value`, in the order in which they are written.
    fn kinds(value: &Value, found: &mut Vec<&'static str>) {
        match value {
            Value::Object(entries) => entries.iter().for_each(|(_, value)| {
                found.push("text");
                kinds(value, found);
            }),
            Value::Array(items) => items.iter().for_each(|item| kinds(item, found)),
            scalar => found.push(kind(scalar)),
        }
    }

    /// The kinds of all scalars of a document by the rules of YAML 1.1.
    fn kinds_by_yaml_1_1(text: &str) -> Vec<&'static str> {
        let mut found = Vec::new();
        for event in Parser::new_from_str(text) {
            if let (Event::Scalar(word, style, ..), _) = event.unwrap() {
                found.push(if style == ScalarStyle::Plain { yaml_1_1(&word) } else { "text" });
            }
        }
        found
    }

    fn holds(value: &Value) -> Result<(), String> {
        let text = to_yaml(value).unwrap();
        let ours = read(&text).map_err(|e| format!("{e}\n{text}"))?;
        let theirs: Value = serde_yaml::from_str(&text).map_err(|e| format!("{e}\n{text}"))?;
        let mut wanted = Vec::new();
        kinds(value, &mut wanted);
        // `to_string` tells 1 from 1.0, and -0.0 from 0.0.
        let shown = value.to_string();
        let same = |other: &Value| other == value && format!("{other}") == shown;
        if !same(&ours) || !same(&theirs) || kinds_by_yaml_1_1(&text) != wanted {
            return Err(format!("{value:?} is written as\n{text}and read as {ours:?} and {theirs:?}"));
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_value_reads_back_with_its_type_by_every_reader(value in value()) {
            if let Err(why) = holds(&value) {
                prop_assert!(false, "{}", why);
            }
        }
    }

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        for trap in TRAPS {
            for value in [json!(trap), json!([trap]), json!({"a": trap, "b": 1}), json!({(*trap): {"c": [trap]}})] {
                holds(&value).unwrap();
            }
        }
    }

    #[test]
    fn a_document_is_written_as_a_person_would() {
        let value = json!({
            "name": "a run", "v": "1.10", "s": "no", "lr": 2e-7, "count": 3, "n": "n", "none": null, "path": "/a/b.txt", "empty": [[], {}],
            "script": "set -e\n\n  echo \"a\"\n", "list": [{"port": {"stage": "a", "port": "b"}}, "x", [1, 2]],
        });
        let text = "name: a run\nv: \"1.10\"\ns: \"no\"\nlr: 2.0e-7\ncount: 3\n\"n\": \"n\"\nnone: null\npath: /a/b.txt\nempty:\n- []\n- {}\n\
                    script: |\n  set -e\n\n    echo \"a\"\nlist:\n- port:\n    stage: a\n    port: b\n- x\n- - 1\n  - 2\n";
        assert_eq!(to_yaml(&value).unwrap(), text);
    }
}
