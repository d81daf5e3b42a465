//! Environment variables in the data paths of a run's record. The record holds the names of the
//! variables and never their values: [`hide`] replaces the values when a record is written, and
//! [`fill_in`] puts them back when it is read.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::spec::environment_path;

/// Replaces the values of `variables` by `${env.NAME}` in the paths of the record `value`.
pub(crate) fn hide(value: &mut Value, variables: &BTreeMap<String, String>) {
    // Longest first, since one value may be a prefix of another.
    let mut variables: Vec<(&String, &String)> = variables.iter().collect();
    variables.sort_by_key(|(name, value)| (std::cmp::Reverse(value.len()), *name));
    let change = |text: &str| hide_values(text, &variables);
    for_each_path(value, &mut |text| {
        *text = change(text);
        Ok(())
    })
    .unwrap_or_default();
}

/// Reverses [`hide`], using the current values of the variables.
///
/// # Errors
/// The message says which variable is not set.
pub(super) fn fill_in(value: &mut Value) -> Result<(), String> {
    for_each_path(value, &mut |text| {
        if text.contains("${") {
            *text = environment_path(text)?;
        }
        Ok(())
    })
}

fn hide_values(text: &str, variables: &[(&String, &String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    'text: while let Some(next) = rest.chars().next() {
        for (name, value) in variables {
            if let Some(after) = rest.strip_prefix(value.as_str()) {
                out.push_str(&format!("${{env.{name}}}"));
                rest = after;
                continue 'text;
            }
        }
        if rest.starts_with("${") {
            out.push('$');
        }
        out.push(next);
        rest = &rest[next.len_utf8()..];
    }
    out
}

type Change<'c> = dyn FnMut(&mut String) -> Result<(), String> + 'c;

/// Changes every path in a record: the values of `path` keys, and the params of the experiment that
/// are absolute paths.
fn for_each_path(record: &mut Value, change: &mut Change<'_>) -> Result<(), String> {
    let params = record.pointer_mut("/resolved/params").and_then(Value::as_object_mut);
    for value in params.into_iter().flat_map(Map::values_mut) {
        match value {
            Value::String(text) => change_param(text, change)?,
            Value::Array(items) => {
                for item in items {
                    if let Value::String(text) = item {
                        change_param(text, change)?;
                    }
                }
            }
            _ => {}
        }
    }
    let stages = record.pointer_mut("/resolved/stages").and_then(Value::as_object_mut);
    for inputs in stages.into_iter().flat_map(Map::values_mut).filter_map(|stage| stage.get_mut("inputs")) {
        for bindings in inputs.as_object_mut().into_iter().flat_map(Map::values_mut) {
            change_listed_paths(bindings, change)?;
        }
    }
    match record.pointer_mut("/sources/data") {
        Some(data) => change_listed_paths(data, change),
        None => Ok(()),
    }
}

fn change_param(text: &mut String, change: &mut Change<'_>) -> Result<(), String> {
    if text.starts_with('/') || text.starts_with("${env.") { change(text) } else { Ok(()) }
}

/// Changes the `path` of each item of a list.
fn change_listed_paths(list: &mut Value, change: &mut Change<'_>) -> Result<(), String> {
    for item in list.as_array_mut().into_iter().flatten() {
        if let Some(Value::String(path)) = item.get_mut("path") {
            change(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_variables_become_their_names_and_come_back() {
        // Cargo sets both for every test.
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let name = std::env::var("CARGO_PKG_NAME").unwrap();
        let variables = BTreeMap::from([
            ("CARGO_MANIFEST_DIR".to_owned(), dir.clone()),
            ("CARGO_PKG_NAME".to_owned(), name.clone()),
        ]);
        let record = json!({
            "resolved": {
                "params": {"data": format!("{dir}/x"), "say": name, "files": [format!("/a/{name}/b")]},
                "stages": {"s": {"inputs": {"p": [{"path": format!("{dir}/${{odd}}/{name}")}, {"item": true}]}, "params": {"path": name}}},
            },
            "sources": {"data": [{"path": format!("{dir}/y"), "type": "file"}]},
        });
        let mut hidden = record.clone();
        hide(&mut hidden, &variables);
        assert_eq!(
            hidden,
            json!({
                "resolved": {
                    "params": {"data": "${env.CARGO_MANIFEST_DIR}/x", "say": name, "files": ["/a/${env.CARGO_PKG_NAME}/b"]},
                    "stages": {"s": {
                        "inputs": {"p": [{"path": "${env.CARGO_MANIFEST_DIR}/$${odd}/${env.CARGO_PKG_NAME}"}, {"item": true}]},
                        "params": {"path": name},
                    }},
                },
                "sources": {"data": [{"path": "${env.CARGO_MANIFEST_DIR}/y", "type": "file"}]},
            })
        );
        fill_in(&mut hidden).unwrap();
        assert_eq!(hidden, record);
    }

    #[test]
    fn a_variable_that_is_gone_is_named() {
        let mut record = json!({"sources": {"data": [{"path": "${env.OLMO_PIPE_SURELY_NOT_SET}/y"}]}});
        let error = fill_in(&mut record).unwrap_err();
        assert!(error.contains("OLMO_PIPE_SURELY_NOT_SET"), "{error}");
    }
}
