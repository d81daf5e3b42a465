//! The params that enter a key: those that differ from their default and may change the result.

use serde_json::{Map, Value};

use super::canonical::equal;

/// `value` without the fields that equal their schema's default and those marked
/// `"x-key": false`, at every depth. A list keeps its length. What the schema does not
/// describe stays as it is.
///
/// A field with `x-default` is always kept, even if it is null: its value without one depends on
/// other fields, so only leaving it out is the default.
///
/// A field is left out if it equals its default once both are reduced in this way, so spelling
/// a default out, in part or in full, does not change the key.
pub(super) fn reduce(value: &Value, schema: &Value, root: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let Some((properties, required)) = object_schema(schema, fields, root, 0) else { return value.clone() };
            let mut kept = Map::new();
            for (name, field) in fields {
                let Some(property) = properties.get(name) else {
                    kept.insert(name.clone(), field.clone());
                    continue;
                };
                if property.get("x-key") == Some(&Value::Bool(false)) {
                    continue;
                }
                let reduced = reduce(field, property, root);
                let is_required = required.iter().any(|r| r == name);
                let is_default = match property.get("default") {
                    Some(default) => equal(&reduced, &reduce(default, property, root)),
                    // An optional field without a default: null equals absent.
                    None => reduced.is_null() && property.get("x-default").is_none(),
                };
                if is_required || !is_default {
                    kept.insert(name.clone(), reduced);
                }
            }
            Value::Object(kept)
        }
        Value::Array(items) => {
            let nothing = Value::Null;
            let of_item = item_schema(schema, root, 0).unwrap_or(&nothing);
            Value::Array(items.iter().map(|item| reduce(item, of_item, root)).collect())
        }
        other => other.clone(),
    }
}

/// Maximum length of a chain of references without an object; a longer one is a circle.
const DEEPEST: u32 = 32;

/// The properties and the required names of the (sub)schema that describes an object with these
/// fields: the schema itself, what it refers to, or the alternative that knows every field.
fn object_schema<'s>(
    schema: &'s Value,
    fields: &Map<String, Value>,
    root: &'s Value,
    depth: u32,
) -> Option<(&'s Map<String, Value>, &'s [Value])> {
    if depth > DEEPEST {
        return None;
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        return Some((properties, required));
    }
    if let Some(target) = referred(schema, root) {
        return object_schema(target, fields, root, depth + 1);
    }
    alternatives(schema)
        .filter_map(|one| object_schema(one, fields, root, depth + 1))
        .find(|(properties, _)| fields.keys().all(|name| properties.contains_key(name)))
}

fn item_schema<'s>(schema: &'s Value, root: &'s Value, depth: u32) -> Option<&'s Value> {
    if depth > DEEPEST {
        return None;
    }
    if let Some(items) = schema.get("items").filter(|i| i.is_object()) {
        return Some(items);
    }
    if let Some(target) = referred(schema, root) {
        return item_schema(target, root, depth + 1);
    }
    alternatives(schema).find_map(|one| item_schema(one, root, depth + 1))
}

fn referred<'s>(schema: &Value, root: &'s Value) -> Option<&'s Value> {
    root.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
}

fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|word| schema.get(word)?.as_array()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "required": ["sequence_length"],
            "properties": {
                "sequence_length": {"type": "integer", "default": 128},
                "lr": {"type": "number", "default": 1e-3},
                "threads": {"type": "integer", "default": 1, "x-key": false},
                "limit": {"type": ["integer", "null"]},
                "optimizer": {
                    "type": "object",
                    "default": {"betas": [0.9, 0.95], "eps": 1e-8, "log_every": 10},
                    "properties": {
                        "betas": {"type": "array", "default": [0.9, 0.95]},
                        "eps": {"type": "number", "default": 1e-8},
                        "log_every": {"type": "integer", "default": 10, "x-key": false}
                    }
                },
                "schedule": {"default": null, "anyOf": [{"$ref": "#/$defs/Cosine"}, {"type": "null"}]},
                "source": {"oneOf": [
                    {"type": "object", "required": ["hub"], "properties": {"hub": {"type": "string"}}},
                    {"type": "object", "required": ["files"], "properties": {"files": {"type": "array"}}}
                ]},
                "model": {"type": "object", "properties": {
                    "preset": {"type": ["string", "null"]}, "window": {"type": ["integer", "null"], "x-default": null}
                }},
                "tasks": {"type": "array", "default": [], "items": {
                    "type": "object", "required": ["name"],
                    "properties": {"name": {"type": "string"}, "shots": {"type": "integer", "default": 0}}
                }}
            },
            "$defs": {"Cosine": {"type": "object", "properties": {"warmup": {"type": "integer", "default": 100}}}}
        })
    }

    fn reduced(value: Value) -> Value {
        let schema = schema();
        reduce(&value, &schema, &schema)
    }

    #[test]
    fn a_default_spelled_out_is_the_same_as_left_out() {
        for value in [
            json!({}),
            json!({"lr": 0.001}),
            json!({"lr": 1e-3, "limit": null, "tasks": [], "schedule": null}),
            json!({"optimizer": {"betas": [0.9, 0.95]}}),
            json!({"optimizer": {}}),
            json!({"optimizer": {"eps": 1e-8, "log_every": 5}}),
            json!({"threads": 64}),
        ] {
            assert_eq!(reduced(value.clone()), json!({}), "{value}");
        }
    }

    #[test]
    fn what_differs_stays_at_every_depth() {
        for (value, expected) in [
            (json!({"lr": 2, "threads": 4}), json!({"lr": 2})),
            (json!({"limit": 0}), json!({"limit": 0})),
            (json!({"optimizer": {"betas": [0.9, 0.99], "eps": 1e-8}}), json!({"optimizer": {"betas": [0.9, 0.99]}})),
            // A window that the preset may have: null removes it.
            (json!({"model": {"preset": "a", "window": null}}), json!({"model": {"preset": "a", "window": null}})),
            (json!({"model": {"preset": null}}), json!({"model": {}})),
            // Chosen, with all its defaults: not equal to null.
            (json!({"schedule": {"warmup": 100}}), json!({"schedule": {}})),
            (json!({"schedule": {"warmup": 7}}), json!({"schedule": {"warmup": 7}})),
            (json!({"source": {"files": ["a"]}}), json!({"source": {"files": ["a"]}})),
            (
                json!({"tasks": [{"name": "x", "shots": 0}, {"name": "y", "shots": 5}]}),
                json!({"tasks": [{"name": "x"}, {"name": "y", "shots": 5}]}),
            ),
            (json!({"unknown": {"lr": 1e-3}}), json!({"unknown": {"lr": 1e-3}})),
        ] {
            assert_eq!(reduced(value.clone()), expected, "{value}");
        }
    }

    #[test]
    fn a_required_field_stays_even_if_it_equals_a_default() {
        assert_eq!(reduced(json!({"sequence_length": 128})), json!({"sequence_length": 128}));
    }

    #[test]
    fn a_struct_default_that_differs_from_its_fields_defaults_is_kept_apart() {
        let schema = json!({"properties": {"o": {
            "default": {"eps": 5}, "properties": {"eps": {"type": "integer", "default": 1}}
        }}});
        let of = |value: Value| reduce(&value, &schema, &schema);
        assert_eq!(of(json!({"o": {"eps": 5}})), json!({}));
        assert_eq!(of(json!({"o": {}})), json!({"o": {}}));
        assert_eq!(of(json!({"o": {"eps": 1}})), json!({"o": {}}));
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"$ref": "#"});
        assert_eq!(reduce(&json!({"a": [1]}), &schema, &schema), json!({"a": [1]}));
    }
}
