//! Completes and normalizes a value that was checked against its schema: fills in defaults, turns
//! whole numbers into integers where the schema says so, and makes paths absolute.

use std::path::Path;

use serde_json::{Number, Value};

use crate::document::check::branch;
use crate::read::node::{Content, Entry, Node};
use crate::read::source::{Session, Span, tidy};

/// `node` completed by `schema`. A path is relative to the file that contains it, a default path to
/// `folder`, that of the stage.
pub(crate) fn prepare(session: &Session, node: &Node, schema: &Value, folder: Option<&Path>) -> Node {
    let schema = branch(schema, node).unwrap_or(schema);
    let content = match &node.content {
        Content::Object(entries) => Content::Object(object(session, entries, schema, folder)),
        Content::Array(items) => {
            let of_items = schema.get("items").unwrap_or(&Value::Null);
            Content::Array(items.iter().map(|item| prepare(session, item, of_items, folder)).collect())
        }
        Content::Number(number) => Content::Number(integer(number, schema).unwrap_or_else(|| number.clone())),
        Content::String(text) if schema.get("format").is_some_and(|format| format == "path") => {
            Content::String(absolute(session, text, node.span, folder))
        }
        other => other.clone(),
    };
    Node { content, ..node.clone() }
}

/// `text` as an absolute path; `span` is its place in the file to which it is relative.
pub(crate) fn absolute(session: &Session, text: &str, span: Span, folder: Option<&Path>) -> String {
    // A remote source is relative to nothing.
    if olmo_remote::is_remote(text) {
        return text.to_owned();
    }
    let base = session.source(span.source).map(|source| source.base.as_path()).or(folder);
    let path = base.map_or_else(|| Path::new(text).to_owned(), |base| base.join(text));
    // A folder may have a path that is not UTF-8; the load rejects it.
    tidy(&path).to_string_lossy().into_owned()
}

/// The given entries and the defaults of the others, in the schema's order.
fn object(session: &Session, entries: &[Entry], schema: &Value, folder: Option<&Path>) -> Vec<Entry> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").unwrap_or(&Value::Null);
    let mut out: Vec<Entry> = entries
        .iter()
        .map(|entry| {
            let of_value = properties.and_then(|p| p.get(&entry.key)).unwrap_or(others);
            Entry { value: prepare(session, &entry.value, of_value, folder), ..entry.clone() }
        })
        .collect();
    for (key, property) in properties.into_iter().flatten() {
        if let (Some(default), false) = (property.get("default"), out.iter().any(|entry| entry.key == *key)) {
            let value = prepare(session, &Node::from_json(default, Span::DEFAULT), property, folder);
            out.push(Entry { key: key.clone(), key_span: Span::DEFAULT, value });
        }
    }
    // The order of the stage's type, so that shown and stored params do not depend on the file's order.
    if let Some(properties) = properties {
        let place = |entry: &Entry| properties.keys().position(|key| *key == entry.key).unwrap_or(usize::MAX);
        out.sort_by_key(place);
    }
    out
}

/// `number` as an integer, if the schema wants one and it is whole (`1e3`).
fn integer(number: &Number, schema: &Value) -> Option<Number> {
    let wanted = match schema.get("type")? {
        Value::String(kind) => kind == "integer",
        Value::Array(kinds) => kinds.iter().any(|k| k == "integer") && !kinds.iter().any(|k| k == "number"),
        _ => false,
    };
    let value = number.as_f64()?;
    // Beyond 2^53 several whole numbers share a float.
    let whole = wanted && number.is_f64() && value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
    whole.then(|| Number::from(value as i64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prepared(value: Value, schema: Value) -> Value {
        let node = Node::from_json(&value, Span::DEFAULT);
        prepare(&Session::default(), &node, &schema, Some(Path::new("/stage"))).to_json()
    }

    #[test]
    fn defaults_are_filled_in_to_the_depth_and_given_values_stay() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "integer", "default": 1},
            "o": {"type": "object", "default": {"x": 5}, "properties": {
                "x": {"type": "integer", "default": 2}, "y": {"type": "integer", "default": 3}}},
            "n": {"anyOf": [{"type": "object", "properties": {"k": {"default": 7}}}, {"type": "null"}]},
            "required": {"type": "string"},
        }});
        assert_eq!(prepared(json!({}), schema.clone()), json!({"a": 1, "o": {"x": 5, "y": 3}}));
        assert_eq!(
            prepared(json!({"n": {}, "o": {"y": 9}}), schema.clone()),
            json!({"a": 1, "o": {"x": 2, "y": 9}, "n": {"k": 7}})
        );
        assert_eq!(prepared(json!({"n": null, "a": 4}), schema), json!({"a": 4, "o": {"x": 5, "y": 3}, "n": null}));
    }

    #[test]
    fn the_branch_of_a_one_key_union_is_filled_in() {
        let schema = json!({"oneOf": [
            {"type": "object", "required": ["cosine"], "properties": {"cosine":
                {"type": "object", "properties": {"alpha": {"type": "number", "default": 0.1}}}}},
            {"type": "object", "required": ["linear"], "properties": {"linear": {"type": "object"}}},
        ]});
        assert_eq!(prepared(json!({"cosine": {}}), schema.clone()), json!({"cosine": {"alpha": 0.1}}));
        assert_eq!(prepared(json!({"linear": {}}), schema), json!({"linear": {}}));
    }

    #[test]
    fn a_whole_float_becomes_an_integer_only_where_one_is_wanted() {
        let schema = json!({"properties": {"i": {"type": "integer"}, "f": {"type": "number"}, "n": {"type": ["integer", "null"]}}});
        assert_eq!(prepared(json!({"i": 1e3, "f": 1e3, "n": 2.0}), schema), json!({"i": 1000, "f": 1000.0, "n": 2}));
    }

    #[test]
    fn default_paths_lie_in_the_stages_folder() {
        let schema = json!({"properties": {"p": {"type": "string", "format": "path", "default": "../x"}}});
        assert_eq!(prepared(json!({}), schema), json!({"p": "/x"}));
    }
}
