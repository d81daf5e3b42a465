//! Turns choices in a params schema into enums.
//!
//! `schemars` writes an enum with documented variants as `oneOf`, with a `const` in each branch. A
//! wrong word then fails once per branch, and no single message can list the valid words. With
//! `enum`, it fails once.

use serde_json::Value;

/// Replaces each `oneOf` of constants inside `schema` by an `enum`.
pub fn as_enums(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(words) = map.get("oneOf").and_then(string_constants) {
                map.remove("oneOf");
                map.insert("type".into(), "string".into());
                map.insert("enum".into(), words);
            }
            map.values_mut().for_each(as_enums);
        }
        Value::Array(items) => items.iter_mut().for_each(as_enums),
        _ => {}
    }
}

/// The constants of all branches, if every branch is a string constant.
fn string_constants(branches: &Value) -> Option<Value> {
    let word = |branch: &Value| branch.get("const").filter(|word| word.is_string()).cloned();
    let words: Option<Vec<Value>> = branches.as_array()?.iter().map(word).collect();
    words.map(Value::Array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn constants_become_an_enum_and_other_alternatives_stay() {
        let mut schema = json!({"properties": {
            "a": {"description": "A", "oneOf": [{"const": "x", "description": "X"}, {"const": "y"}], "default": "x"},
            "b": {"oneOf": [{"const": "x"}, {"type": "integer"}]}
        }});
        as_enums(&mut schema);
        assert_eq!(
            schema,
            json!({"properties": {
                "a": {"description": "A", "default": "x", "type": "string", "enum": ["x", "y"]},
                "b": {"oneOf": [{"const": "x"}, {"type": "integer"}]}
            }})
        );
    }
}
