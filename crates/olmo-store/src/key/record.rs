//! [`KeyRecord`]: the parts of a key.

use std::collections::BTreeMap;

use olmo_base::{ActionKey, ArtifactId, Digest};
use olmo_stage::{Compute, Description};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::canonical::{Encoder, has_form};
use super::params;

/// The format of the record and its encoding.
const FORMAT: u32 = 1;

/// Everything that can change a stage's result. Names, hosts, times, threads, resources and retries
/// cannot: they belong to the record of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The format of this record. Raising it changes every key.
    pub format: u32,
    /// The stage: equal params have other meanings in another stage.
    pub stage: String,
    /// The contract's version: raised by hand when the same inputs may give other outputs.
    pub version: u32,
    /// Params that differ from the schema's default, without those marked `"x-key": false`: so
    /// a new param with a default leaves old keys as they are.
    pub params: BTreeMap<String, Value>,
    /// The content of its inputs by port, never their origin. This gives early cutoff.
    pub inputs: BTreeMap<String, Vec<KeyInput>>,
    /// The backend of a stage that computes: each backend rounds differently.
    pub backend: Option<String>,
    /// The precision of a stage that computes.
    pub precision: Option<String>,
    /// The command of a command stage, since no version guards it.
    pub command: Option<CommandKey>,
}

/// An artifact in an input port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyInput {
    /// The label of a list item: a stage may write labels into its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The artifact.
    pub digest: ArtifactId,
}

/// The command of a command stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandKey {
    /// Arguments as declared, before paths are filled in: paths differ between hosts.
    pub argv: Vec<String>,
    /// Declared files, and the program if it is inside the project, by path relative to the stage's
    /// folder: a changed script makes another stage.
    pub files: BTreeMap<String, Digest>,
    /// Digests of the values of declared environment variables, by name. A value may be a secret, and
    /// the record is readable.
    pub environment: BTreeMap<String, Digest>,
}

/// Why no key can be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the params of stage `{stage}` are not a map")]
    ParamsNotAMap { stage: String },
    #[error("param `{param}` of stage `{stage}` holds a number that is not finite")]
    NotFinite { stage: String, param: String },
}

impl KeyRecord {
    /// The record of a stage with contract and schema `description`. Defaults in `params` may be filled
    /// in or not. Backend and precision count only if the contract says so.
    pub fn new(
        description: &Description,
        params: &Value,
        inputs: BTreeMap<String, Vec<KeyInput>>,
        compute: Compute,
        command: Option<CommandKey>,
    ) -> Result<Self, KeyError> {
        let stage = description.contract.stage.clone();
        let reduced = params::reduce(params, &description.params, &description.params);
        let Value::Object(fields) = reduced else { return Err(KeyError::ParamsNotAMap { stage }) };
        if let Some((param, _)) = fields.iter().find(|(_, value)| !has_form(value)) {
            return Err(KeyError::NotFinite { stage, param: param.clone() });
        }
        let if_it_computes = |word: &str| description.contract.backend.then(|| word.to_owned());
        Ok(Self {
            format: FORMAT,
            stage,
            version: description.contract.version,
            params: fields.into_iter().collect(),
            // An optional port that is not connected equals one that is not declared.
            inputs: inputs.into_iter().filter(|(_, items)| !items.is_empty()).collect(),
            backend: if_it_computes(compute.name()),
            precision: if_it_computes(compute.precision.name()),
            command,
        })
    }

    /// The key, in the encoding that [`super`] specifies.
    pub fn digest(&self) -> ActionKey {
        let mut encoder = Encoder::new("olmo-pipe.key");
        encoder.integer(self.format.into());
        encoder.text(&self.stage);
        encoder.integer(self.version.into());
        encoder.map(self.params.len());
        for (name, value) in &self.params {
            encoder.text(name);
            encoder.value(value);
        }
        encoder.map(self.inputs.len());
        for (port, items) in &self.inputs {
            encoder.text(port);
            encoder.list(items.len());
            for item in items {
                encoder.list(2);
                encoder.optional_text(item.label.as_deref());
                encoder.artifact(item.digest);
            }
        }
        encoder.optional_text(self.backend.as_deref());
        encoder.optional_text(self.precision.as_deref());
        match &self.command {
            None => encoder.null(),
            Some(command) => {
                encoder.list(3);
                encoder.list(command.argv.len());
                command.argv.iter().for_each(|argument| encoder.text(argument));
                for digests in [&command.files, &command.environment] {
                    encoder.map(digests.len());
                    for (name, digest) in digests {
                        encoder.text(name);
                        encoder.digest(digest);
                    }
                }
            }
        }
        ActionKey::new(encoder.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_stage::Contract;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::json;

    fn description(backend: bool) -> Description {
        let contract = json!({"stage": "train", "version": 3, "summary": "Trains.", "outputs": {}, "backend": backend});
        let contract: Contract = serde_json::from_value(contract).unwrap();
        let params = json!({"type": "object", "properties": {
            "lr": {"type": "number", "default": 1e-3},
            "seed": {"type": "integer", "default": 0},
            "micro_batch": {"type": "integer", "default": 1, "x-key": false}
        }});
        Description { contract, params }
    }

    fn key(backend: bool, params: Value) -> KeyRecord {
        let input = KeyInput { label: None, digest: ArtifactId::new(Digest::of(b"data")) };
        let inputs = BTreeMap::from([("data".to_owned(), vec![input]), ("init".to_owned(), vec![])]);
        KeyRecord::new(&description(backend), &params, inputs, Compute::FLEX, None).unwrap()
    }

    #[test]
    fn only_what_changes_the_result_changes_the_key() {
        let base = key(true, json!({})).digest();
        for same in [json!({"lr": 0.001, "seed": 0}), json!({"micro_batch": 8}), json!({"seed": 0.0})] {
            assert_eq!(key(true, same.clone()).digest(), base, "{same}");
        }
        for other in [json!({"lr": 0.002}), json!({"seed": 1}), json!({"new_param": 1})] {
            assert_ne!(key(true, other.clone()).digest(), base, "{other}");
        }
        let plain = key(false, json!({}));
        assert_eq!((plain.backend.clone(), plain.precision.clone()), (None, None), "this stage does not compute");
        assert_ne!(plain.digest(), base);
        assert_eq!(plain.inputs.keys().collect::<Vec<_>>(), ["data"], "an empty port is no port");
    }

    #[test]
    fn params_that_are_not_a_map_are_refused() {
        let made = KeyRecord::new(&description(true), &json!([1]), BTreeMap::new(), Compute::FLEX, None);
        assert!(matches!(made, Err(KeyError::ParamsNotAMap { stage }) if stage == "train"));
    }

    #[test]
    fn golden_keys_stay_as_they_are() {
        // A difference here invalidates every user's cache: raise FORMAT on purpose, or find the accidental
        // change.
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/keys"));
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let golden: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let record: KeyRecord = serde_json::from_value(golden["record"].clone()).unwrap();
            assert_eq!(record.digest().hex(), golden["digest"].as_str().unwrap(), "{}", path.display());
            seen += 1;
        }
        assert!(seen >= 6, "the golden keys are in {}", folder.display());
    }

    /// Small pieces, so that different records are often near each other.
    fn text() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["", "a", "b", "ab", "ba", "aa", "n", "\0", "é"]).prop_map(str::to_owned)
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2i64..3).prop_map(Value::from),
            (-4i32..5).prop_map(|n| json!(f64::from(n) / 2.0)),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..3).prop_map(Value::from),
                vec((text(), inner), 0..3).prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn digest() -> impl Strategy<Value = Digest> {
        (0u8..3).prop_map(|n| Digest::of(&[n]))
    }

    fn record() -> impl Strategy<Value = KeyRecord> {
        let input = (proptest::option::of(text()), digest());
        let input = input.prop_map(|(label, digest)| KeyInput { label, digest: ArtifactId::new(digest) });
        let digests = || btree_map(text(), digest(), 0..3);
        let command = (vec(text(), 0..3), digests(), digests());
        let command = command.prop_map(|(argv, files, environment)| CommandKey { argv, files, environment });
        let optional = || proptest::option::of(text());
        let params = btree_map(text(), value(), 0..3);
        let inputs = btree_map(text(), vec(input, 0..3), 0..3);
        (1u32..3, text(), 0u32..3, params, inputs, optional(), optional(), proptest::option::of(command)).prop_map(
            |(format, stage, version, params, inputs, backend, precision, command)| KeyRecord {
                format,
                stage,
                version,
                params,
                inputs,
                backend,
                precision,
                command,
            },
        )
    }

    /// The record as text, with numbers in one form and maps sorted: another road to equality.
    fn spelled(record: &KeyRecord) -> String {
        fn spell(value: &Value) -> String {
            match value {
                Value::Number(n) => format!("{:?}", n.as_f64().unwrap() + 0.0),
                Value::Array(items) => format!("[{}]", items.iter().map(spell).collect::<Vec<_>>().join(",")),
                Value::Object(fields) => {
                    let sorted: BTreeMap<_, _> = fields.iter().collect();
                    let pairs = sorted.iter().map(|(k, v)| format!("{k:?}:{}", spell(v)));
                    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
                }
                other => other.to_string(),
            }
        }
        spell(&serde_json::to_value(record).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn different_records_have_different_keys(records in vec(record(), 2..24)) {
            let mut by_key: BTreeMap<ActionKey, String> = BTreeMap::new();
            for record in &records {
                let text = spelled(record);
                let known = by_key.entry(record.digest()).or_insert_with(|| text.clone());
                prop_assert_eq!(&*known, &text);
            }
            let texts: std::collections::BTreeSet<&String> = by_key.values().collect();
            prop_assert_eq!(texts.len(), by_key.len(), "equal records have equal keys");
        }

        #[test]
        fn two_records_without_a_difference_have_one_key(records in vec(record(), 2..12)) {
            for (n, one) in records.iter().enumerate() {
                for other in &records[n..] {
                    prop_assert_eq!(crate::key::diff(one, other).is_empty(), one.digest() == other.digest());
                }
            }
        }

        #[test]
        fn the_order_of_maps_does_not_count(fields in btree_map(text(), value(), 0..5), seed in any::<u64>()) {
            let mut shuffled: Vec<_> = fields.clone().into_iter().collect();
            let n = shuffled.len();
            for i in (1..n).rev() {
                shuffled.swap(i, (seed.rotate_left(i as u32 * 7) as usize) % (i + 1));
            }
            let of = |pairs: Vec<(String, Value)>| {
                let mut one = key(true, json!({}));
                one.params.insert("map".into(), Value::Object(pairs.into_iter().collect()));
                one.digest()
            };
            prop_assert_eq!(of(fields.into_iter().collect()), of(shuffled));
        }

        #[test]
        fn the_spelling_of_a_number_does_not_count(whole in any::<i32>(), zeros in 0usize..4) {
            let spellings = [format!("{whole}"), format!("{whole}.0{}", "0".repeat(zeros)), format!("{whole}e0"), format!("{whole}0e-1")];
            let keys = spellings.map(|s| key(true, json!({"lr": serde_json::from_str::<Value>(&s).unwrap()})).digest());
            prop_assert!(keys.iter().all(|k| *k == keys[0]));
        }

        #[test]
        fn a_record_read_back_from_json_has_the_same_key(record in record()) {
            let text = serde_json::to_string(&record).unwrap();
            let back: KeyRecord = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.digest(), record.digest());
        }
    }
}
