//! `${…}` inside a text: references to params, to the outputs of stages, and to the item of a
//! `for_each` stage. `$${` is an escape for `${`.

use std::fmt;
use std::ops::Range;

use olmo_base::nearest;
use olmo_base::text::quoted;
use serde::{Deserialize, Serialize};

use crate::read::source::{Problem, Span};

/// An output port of a stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRef {
    pub stage: String,
    pub port: String,
}

impl fmt::Display for PortRef {
    /// The text inside `${…}`: `stages.STAGE.PORT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stages.{}.{}", self.stage, self.port)
    }
}

/// The target of a `${…}`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reference {
    /// `${params.a.b}`: a path into the params, at least one name.
    Param(Vec<String>),
    /// `${stages.STAGE.PORT}`.
    Port(PortRef),
    /// `${item}`.
    Item,
    /// `${env.NAME}`: an environment variable, allowed only in paths.
    Environment(String),
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// Text, with escapes resolved.
    Text(String),
    /// A reference and its range of bytes in the text.
    Reference(Reference, Range<usize>),
}

/// A `${…}` that cannot be parsed.
#[derive(Debug, PartialEq)]
pub(crate) struct BadReference {
    /// Its range of bytes in the text.
    pub range: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

/// Whether `text` may contain a reference or an escape.
pub(crate) fn has_reference(text: &str) -> bool {
    text.contains("${")
}

/// Splits `text` into its parts.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece>, BadReference> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${") {
        let start = at + found;
        if text[..start].ends_with('$') && start > at {
            plain.push_str(&text[at..start - 1]);
            plain.push_str("${");
            at = start + 2;
            continue;
        }
        plain.push_str(&text[at..start]);
        let bad = |range, message: String, help: &str| BadReference { range, message, help: Some(help.to_owned()) };
        let Some(length) = text[start..].find('}') else {
            return Err(bad(
                start..text.len(),
                "this `${` has no `}`".into(),
                "write `$${` for the characters themselves",
            ));
        };
        let range = start..start + length + 1;
        let inside = &text[start + 2..start + length];
        let reference =
            parse(inside).map_err(|(message, help)| BadReference { range: range.clone(), message, help })?;
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        at = range.end;
        pieces.push(Piece::Reference(reference, range));
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

/// Parses the text between `${` and `}`.
fn parse(inside: &str) -> Result<Reference, (String, Option<String>)> {
    let parts: Vec<&str> = inside.split('.').collect();
    if let Some(odd) = parts.iter().find(|part| !is_name(part)) {
        let what =
            if odd.is_empty() { "an empty name".to_owned() } else { format!("{}, which is no name", quoted(odd)) };
        let help = "a reference is `${params.NAME}`, `${stages.STAGE.PORT}` or `${item}`; `$${` stands for `${` itself";
        return Err((
            format!("the reference {} holds {what}", quoted(&format!("${{{inside}}}"))),
            Some(help.to_owned()),
        ));
    }
    match parts.as_slice() {
        ["params", names @ ..] if !names.is_empty() => {
            Ok(Reference::Param(names.iter().map(|&n| n.to_owned()).collect()))
        }
        ["params"] => Err(("`${params}` names no param".into(), Some("write `${params.NAME}`".into()))),
        ["stages", stage, port] => Ok(Reference::Port(PortRef { stage: (*stage).into(), port: (*port).into() })),
        ["stages", ..] => {
            let message = format!("{} does not name a stage and one of its outputs", quoted(&format!("${{{inside}}}")));
            Err((message, Some("write `${stages.STAGE.PORT}`".into())))
        }
        ["env", name] => Ok(Reference::Environment((*name).into())),
        ["env", ..] => Err(("this does not name an environment variable".into(), Some("write `${env.NAME}`".into()))),
        ["item"] => Ok(Reference::Item),
        ["item", ..] => Err(("an item has no parts".into(), Some("write `${item}`".into()))),
        [head, ..] => {
            let near = nearest::nearest(head, &["params", "stages", "item", "env"]);
            let help = match near.first() {
                Some(near) => format!("did you mean {}?", quoted(&inside.replacen(head, near, 1))),
                None => format!("a param is written `${{params.{inside}}}`"),
            };
            Err((format!("a reference cannot begin with {}", quoted(head)), Some(help)))
        }
        [] => Err(("an empty reference".into(), None)),
    }
}

/// The value of the environment variable `name`. The error says what is wrong with it.
pub(crate) fn environment(name: &str) -> Result<String, String> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        Ok(_) => Err(format!("the environment variable `{name}` is empty")),
        Err(std::env::VarError::NotPresent) => Err(format!("the environment variable `{name}` is not set")),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("the environment variable `{name}` is not UTF-8")),
    }
}

/// The error for `reference`, an environment variable or a param that contains one, in a value that
/// affects a result: the cache key would not show the change.
pub(crate) fn variable_in_value(span: Span, reference: &str, name: &str) -> Problem {
    let message =
        format!("`${{{reference}}}` cannot be a part of `{name}`: environment variables stand in paths of data");
    let help = "the content of data is in a stage's key, a variable is not; to give a value from outside use --set";
    Problem::new("spec::variable_in_value", span, message).help(help.to_owned())
}

/// Expands a path of a run's record: `${env.NAME}` becomes the variable's value, `$${` becomes `${`.
///
/// # Errors
/// A message that names the variable that is not set.
pub fn environment_path(text: &str) -> Result<String, String> {
    let mut path = String::new();
    for piece in pieces(text).unwrap_or_else(|_| vec![Piece::Text(text.to_owned())]) {
        match piece {
            Piece::Text(part) => path.push_str(&part),
            Piece::Reference(Reference::Environment(name), _) => path.push_str(&environment(&name)?),
            Piece::Reference(_, range) => path.push_str(&text[range]),
        }
    }
    Ok(path)
}

/// Whether `text` is a valid name in a path: letters, digits, `_` and `-`.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(names: &[&str]) -> Reference {
        Reference::Param(names.iter().map(|&n| n.to_owned()).collect())
    }

    #[test]
    fn a_text_comes_apart_at_its_references() {
        assert_eq!(pieces("${params.a.b}").unwrap(), [Piece::Reference(param(&["a", "b"]), 0..13)]);
        let port = Reference::Port(PortRef { stage: "s-1".into(), port: "p".into() });
        assert_eq!(
            pieces("x${params.a}y${stages.s-1.p}${item}").unwrap(),
            [
                Piece::Text("x".into()),
                Piece::Reference(param(&["a"]), 1..12),
                Piece::Text("y".into()),
                Piece::Reference(port, 13..28),
                Piece::Reference(Reference::Item, 28..35),
            ]
        );
    }

    #[test]
    fn two_dollars_escape() {
        assert_eq!(pieces("$${a} $$ ${item}").unwrap()[0], Piece::Text("${a} $$ ".into()));
        assert_eq!(pieces("a$${params.x}").unwrap(), [Piece::Text("a${params.x}".into())]);
        assert_eq!(pieces("").unwrap(), [Piece::Text(String::new())]);
        assert_eq!(pieces("$").unwrap(), [Piece::Text("$".into())]);
    }

    #[test]
    fn a_bad_reference_says_where_and_what_to_write() {
        for (text, range, word) in [
            ("a ${params.x", 2..12, "no `}`"),
            ("${param.x}", 0..10, "begin with `param`"),
            ("${params}", 0..9, "no param"),
            ("${stages.a}", 0..11, "does not name"),
            ("${item.x}", 0..9, "no parts"),
            ("${}", 0..3, "empty"),
            ("${params.a b}", 0..13, "no name"),
        ] {
            let bad = pieces(text).unwrap_err();
            assert_eq!(bad.range, range, "{text}");
            assert!(bad.message.contains(word) && bad.help.is_some(), "{bad:?}");
        }
        assert_eq!(pieces("${param.x}").unwrap_err().help.unwrap(), "did you mean `params.x`?");
        assert_eq!(
            pieces("${learning_rate}").unwrap_err().help.unwrap(),
            "a param is written `${params.learning_rate}`"
        );
    }
}
