//! [`diff`]: the fields in which two keys differ, for `plan --explain`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::canonical::equal;
use super::record::{CommandKey, KeyInput, KeyRecord};

/// A field in which two records differ.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldChange {
    /// `version`, `params.optimizer.lr`, `inputs.data`, `inputs.from[step40]`, `command.argv`,
    /// `command.files."score.py"` (a name with a dot is quoted), `command.environment.TOKEN`.
    pub path: String,
    /// `None` if the field was absent; an absent param has its default.
    pub old: Option<Value>,
    /// `None` if the field is absent.
    pub new: Option<Value>,
}

/// The fields in which `old` and `new` differ, sorted by path. Empty exactly if their keys are
/// equal.
pub fn diff(old: &KeyRecord, new: &KeyRecord) -> Vec<FieldChange> {
    let (mut old, mut new) = (fields(old), fields(new));
    let mut paths: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    paths.sort();
    paths.dedup();
    let changes = paths.into_iter().filter_map(|path| {
        let (old, new) = (old.remove(&path), new.remove(&path));
        let same = matches!((&old, &new), (Some(old), Some(new)) if equal(old, new));
        (!same).then_some(FieldChange { path, old, new })
    });
    changes.collect()
}

/// The leaves of a record by path.
fn fields(record: &KeyRecord) -> BTreeMap<String, Value> {
    let KeyRecord { format, stage, version, params, inputs, backend, precision, command } = record;
    let mut leaves = BTreeMap::new();
    leaves.insert("format".to_owned(), Value::from(*format));
    leaves.insert("stage".to_owned(), Value::from(stage.clone()));
    leaves.insert("version".to_owned(), Value::from(*version));
    for (name, value) in params {
        spread(&mut leaves, format!("params.{}", part(name)), value);
    }
    for (port, items) in inputs {
        list(&mut leaves, &format!("inputs.{}", part(port)), items);
    }
    for (name, text) in [("backend", backend), ("precision", precision)] {
        if let Some(text) = text {
            leaves.insert(name.to_owned(), Value::from(text.clone()));
        }
    }
    if let Some(CommandKey { argv, files, environment }) = command {
        leaves.insert("command.argv".to_owned(), Value::from(argv.clone()));
        for (what, digests) in [("files", files), ("environment", environment)] {
            for (name, digest) in digests {
                leaves.insert(format!("command.{what}.{}", part(name)), Value::from(digest.hex()));
            }
        }
    }
    leaves
}

/// Each field of an object is a leaf; any other value is one leaf.
fn spread(leaves: &mut BTreeMap<String, Value>, path: String, value: &Value) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                spread(leaves, format!("{path}.{}", part(name)), field);
            }
        }
        other => {
            leaves.insert(path, other.clone());
        }
    }
}

/// Items by label if all labels are unique, so that an added item does not shift the others.
fn list(leaves: &mut BTreeMap<String, Value>, path: &str, items: &[KeyInput]) {
    if let [KeyInput { label: None, digest }] = items {
        leaves.insert(path.to_owned(), Value::from(digest.hex()));
        return;
    }
    let mut order = Vec::new();
    for (n, item) in items.iter().enumerate() {
        let place = match &item.label {
            Some(label) => format!("{path}[{}]", part(label)),
            None => format!("{path}[{n}]"),
        };
        order.push(Value::from(item.label.clone()));
        // A label is repeated, or looks like a number: use the index.
        let place = if leaves.contains_key(&place) { format!("{place}#{n}") } else { place };
        leaves.insert(place, Value::from(item.digest.hex()));
    }
    leaves.insert(format!("{path}.labels"), Value::from(order));
}

/// A name as part of a path: quoted if it could be read as more than a name.
fn part(name: &str) -> String {
    let plain = !name.is_empty() && !name.chars().any(|c| c.is_control() || "[]\"#".contains(c));
    if plain && !name.contains('.') { name.to_owned() } else { format!("{name:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_base::{ArtifactId, Digest};
    use serde_json::json;

    fn artifact(text: &str) -> ArtifactId {
        ArtifactId::new(Digest::of(text.as_bytes()))
    }

    fn base() -> KeyRecord {
        let item = |label: &str| KeyInput { label: Some(label.into()), digest: artifact(label) };
        let params = json!({"lr": 1e-3, "optimizer": {"betas": [0.9, 0.95], "eps": 1e-8}});
        KeyRecord {
            format: 1,
            stage: "train".into(),
            version: 1,
            params: serde_json::from_value(params).unwrap(),
            inputs: BTreeMap::from([
                ("data".to_owned(), vec![KeyInput { label: None, digest: artifact("data") }]),
                ("from".to_owned(), vec![item("step1"), item("step2")]),
            ]),
            backend: Some("flex".into()),
            precision: None,
            command: Some(CommandKey {
                argv: vec!["python3".into(), "score.py".into()],
                files: BTreeMap::from([("score.py".to_owned(), Digest::of(b"code"))]),
                environment: BTreeMap::from([("TOKEN".to_owned(), Digest::of(b"secret"))]),
            }),
        }
    }

    fn paths(change: impl FnOnce(&mut KeyRecord)) -> Vec<String> {
        let mut new = base();
        change(&mut new);
        let changes = diff(&base(), &new);
        assert_eq!(changes.is_empty(), new.digest() == base().digest());
        changes.into_iter().map(|c| c.path).collect()
    }

    #[test]
    fn each_changed_field_is_named_and_no_other() {
        assert_eq!(paths(|_| {}), [""; 0]);
        assert_eq!(paths(|r| r.version = 2), ["version"]);
        assert_eq!(paths(|r| r.params.get_mut("optimizer").unwrap()["eps"] = json!(1e-7)), ["params.optimizer.eps"]);
        assert_eq!(paths(|r| drop(r.params.insert("lr".into(), json!(0.001)))), [""; 0], "the same number");
        assert_eq!(paths(|r| r.inputs.get_mut("data").unwrap()[0].digest = artifact("x")), ["inputs.data"]);
        assert_eq!(paths(|r| r.inputs.get_mut("from").unwrap()[1].digest = artifact("x")), ["inputs.from[step2]"]);
        assert_eq!(
            paths(|r| drop(r.inputs.get_mut("from").unwrap().pop())),
            ["inputs.from.labels", "inputs.from[step2]"]
        );
        assert_eq!(paths(|r| r.inputs.get_mut("from").unwrap().swap(0, 1)), ["inputs.from.labels"]);
        assert_eq!(paths(|r| r.precision = Some("bf16".into())), ["precision"]);
        let command = |r: &mut KeyRecord| r.command.take().unwrap();
        assert_eq!(
            paths(|r| drop(command(r))),
            ["command.argv", "command.environment.TOKEN", "command.files.\"score.py\""]
        );
    }

    #[test]
    fn old_and_new_values_are_there_and_a_secret_is_not() {
        let mut new = base();
        new.params.insert("seed".into(), json!(7));
        new.params.remove("lr");
        new.command.as_mut().unwrap().environment.insert("TOKEN".into(), Digest::of(b"other secret"));
        let changes = diff(&base(), &new);
        let find = |path: &str| changes.iter().find(|c| c.path == path).unwrap();
        assert_eq!((&find("params.seed").old, &find("params.seed").new), (&None, &Some(json!(7))));
        assert_eq!((&find("params.lr").old, &find("params.lr").new), (&Some(json!(1e-3)), &None));
        assert_eq!(find("command.environment.TOKEN").new, Some(json!(Digest::of(b"other secret").hex())));
    }
}
