//! Turns choices in a params schema into plain `enum` lists.
//!
//! `schemars` writes an enum with documented variants as `oneOf` with a `const` in each branch. A
//! wrong value then fails in every branch, and no single message lists the choices. As an `enum` it
//! fails once.

use serde_json::Value;

/// Replaces each `oneOf` of string constants in `schema` with an `enum`.
pub(crate) fn as_enums(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(words) = map.get("oneOf").and_then(words) {
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

/// The constants of all branches, if each branch is a string constant.
fn words(branches: &Value) -> Option<Value> {
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
