//! [`ModelParams`]: how an experiment describes a new model.

use std::borrow::Cow;
use std::fmt;

use olmo_base::nearest;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::config::ModelConfig;
use super::preset;

/// Fields that a preset or the experiment must give. OLMo's defaults for them (width 768, 12 heads,
/// 12 blocks, an MLP four times the width, 50304 embedding rows) are those of GPT-2 and fit neither
/// another model nor another tokenizer.
const REQUIRED: [&str; 5] = ["d_model", "n_heads", "n_layers", "mlp_hidden_size", "embedding_size"];

/// Fields of a config that the data decide.
const OF_THE_DATA: [&str; 3] = ["vocab_size", "eos_token_id", "pad_token_id"];

/// The architecture of a new model: a [`ModelConfig`] without what the data decide.
///
/// It is written as a map with the fields of a config and `preset`, the name of a preset. A field
/// that is left out has the preset's value; without a preset, it has OLMo's default. Null is a
/// value of its own, so it overrides a preset.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelParams {
    /// As written.
    written: Map<String, Value>,
    /// Without vocabulary, and without sizes that are missing.
    config: ModelConfig,
    missing: Vec<&'static str>,
}

/// What a new model takes from the vocabulary of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Number of ids.
    pub size: usize,
    /// The id that ends a document.
    pub eos_token_id: u32,
    /// The id for padding.
    pub pad_token_id: u32,
}

/// Fields that neither the params nor their preset give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFields {
    /// All of them.
    pub names: Vec<&'static str>,
    /// The preset, if one is named.
    pub preset: Option<String>,
}

impl fmt::Display for MissingFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`model` needs {}: ", nearest::listed(&self.names, "and"))?;
        match &self.preset {
            Some(preset) => write!(f, "the preset `{preset}` has no sizes"),
            None => write!(f, "OLMo's defaults are those of GPT-2, and are not used"),
        }
    }
}

impl std::error::Error for MissingFields {}

impl MissingFields {
    /// How to give them.
    pub fn hint(&self) -> String {
        if self.names == ["embedding_size"] {
            return "`embedding_size: null` gives as many rows as the vocabulary has ids, and so do the presets".into();
        }
        let has_sizes = |family: &&str| preset::fields(&format!("{family}-190M")).is_some();
        let family = self.preset.as_deref().filter(has_sizes).unwrap_or("olmo2");
        format!("write them, or choose a preset that has them, such as `preset: {family}-190M`")
    }
}

impl ModelParams {
    /// Checks that no field is missing.
    ///
    /// # Errors
    /// All missing fields.
    pub fn check(&self) -> Result<(), MissingFields> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let preset = self.written.get("preset").and_then(Value::as_str).map(str::to_owned);
        Err(MissingFields { names: self.missing.clone(), preset })
    }

    /// Config of a new model with the data's `vocabulary`. Its maximum sequence length is
    /// `sequence_length`, unless the params set one. The config is invalid if a field is missing.
    pub fn config(&self, vocabulary: &Vocabulary, sequence_length: usize) -> ModelConfig {
        let config = self.config.clone();
        ModelConfig {
            vocab_size: vocabulary.size,
            eos_token_ids: vec![vocabulary.eos_token_id],
            pad_token_id: Some(vocabulary.pad_token_id),
            max_sequence_length: self.max_sequence_length().unwrap_or(sequence_length),
            ..config
        }
    }

    /// Number of embedding rows, if it does not follow from the vocabulary.
    pub fn embedding_size(&self) -> Option<usize> {
        self.config.embedding_size
    }

    /// Maximum sequence length, if it does not follow from the data.
    pub fn max_sequence_length(&self) -> Option<usize> {
        Some(self.config.max_sequence_length).filter(|length| *length > 0)
    }

    fn new(written: Map<String, Value>) -> Result<ModelParams, String> {
        if let Some(field) = OF_THE_DATA.iter().find(|field| written.contains_key(**field)) {
            return Err(format!("unknown field `{field}`: a new model takes it from its data"));
        }
        let mut fields = match written.get("preset") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::String(name)) => preset::fields(name).ok_or_else(|| {
                let names = preset::names();
                let help = nearest::help(name, names.iter().map(String::as_str)).unwrap_or_default();
                format!("unknown preset `{}`: {help}", name.escape_debug())
            })?,
            Some(other) => return Err(format!("`preset` must be the name of a preset, not {other}")),
        };
        fields.extend(
            written.iter().filter(|(name, _)| *name != "preset").map(|(name, value)| (name.clone(), value.clone())),
        );
        // Null: the row length of the data.
        if fields.get("max_sequence_length").is_some_and(Value::is_null) {
            fields.shift_remove("max_sequence_length");
        }
        let missing: Vec<&str> = REQUIRED.into_iter().filter(|name| !fields.contains_key(*name)).collect();
        for name in missing.iter().filter(|name| **name != "embedding_size") {
            fields.insert((*name).into(), 0.into());
        }
        let config = serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?;
        Ok(ModelParams { written, config, missing })
    }
}

impl Serialize for ModelParams {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ModelParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ModelParams, D::Error> {
        ModelParams::new(Map::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The schema of [`ModelConfig`] with `preset` and without what the data decide. No field has a
/// `default`, because the engine would fill it in over the preset's value. `x-default` tells the
/// value that a field has without a preset.
impl JsonSchema for ModelParams {
    fn schema_name() -> Cow<'static, str> {
        "ModelParams".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = ModelConfig::json_schema(generator);
        let map = schema.ensure_object();
        map.shift_remove("required");
        let mut names: Vec<Value> = preset::names().into_iter().map(Value::String).collect();
        names.push(Value::Null);
        let description = "Name of a preset, whose values other fields override: a family (architecture and \
                           initialisation), or one of OLMo-core's sizes of a family; null: none.";
        let mut properties = Map::new();
        properties.insert(
            "preset".to_owned(),
            json!({"type": ["string", "null"], "description": description, "enum": names}),
        );
        let own = map.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, mut property) in own {
            if OF_THE_DATA.contains(&name.as_str()) {
                continue;
            }
            if let Some(property) = property.as_object_mut() {
                let mut default = property.shift_remove("default").unwrap_or(Value::Null);
                if name == "max_sequence_length" {
                    property.insert("type".into(), json!(["integer", "null"]));
                    property.insert("minimum".into(), 1.into());
                    default = Value::Null;
                }
                if !REQUIRED.contains(&name.as_str()) {
                    property.insert("x-default".into(), default);
                }
            }
            properties.insert(name, property);
        }
        map.insert("properties".into(), properties.into());
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{InitFnType, LayerNormType};

    fn read(value: Value) -> Result<ModelParams, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn config(value: Value) -> ModelConfig {
        let params = read(value).unwrap();
        assert_eq!(params.check(), Ok(()));
        params.config(&Vocabulary { size: 300, eos_token_id: 2, pad_token_id: 1 }, 128)
    }

    fn sizes() -> Value {
        json!({"d_model": 8, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 16, "embedding_size": null})
    }

    fn with(mut value: Value, name: &str, field: Value) -> Value {
        value[name] = field;
        value
    }

    #[test]
    fn without_a_preset_a_field_has_olmos_default() {
        let config = config(sizes());
        assert_eq!((config.layer_norm_type, config.layer_norm_eps), (LayerNormType::Default, 1e-5));
        assert!(config.layer_norm_with_affine && !config.attention_layer_norm && !config.norm_after);
        assert!(config.weight_tying && config.rope_theta == 10_000.0);
        assert_eq!((config.init_fn, config.init_std, config.init_cutoff_factor), (InitFnType::Normal, 0.02, None));
        // The rest comes from the data.
        assert_eq!((config.vocab_size, config.embedding_rows(), config.max_sequence_length), (300, 300, 128));
        assert_eq!((config.eos_token_id(), config.pad_token_id), (Some(2), Some(1)));
        assert_eq!(config.problems(), [""; 0]);
    }

    #[test]
    fn a_written_field_overrides_the_preset_even_with_null() {
        let preset = json!({"preset": "olmo3-190M"});
        assert_eq!(config(preset.clone()).sliding_window, Some(4096));
        assert_eq!(config(with(preset.clone(), "rope_theta", json!(10_000))).rope_theta, 10_000.0);
        assert_eq!(config(with(preset.clone(), "init_cutoff_factor", Value::Null)).init_cutoff_factor, None);
        assert_eq!(config(with(preset.clone(), "max_sequence_length", json!(64))).max_sequence_length, 64);
        assert_eq!(config(with(preset, "max_sequence_length", Value::Null)).max_sequence_length, 128);
        assert_eq!(config(with(sizes(), "preset", Value::Null)), config(sizes()));
    }

    #[test]
    fn all_missing_fields_are_named_with_a_preset_that_has_them() {
        let missing = |value: Value| read(value).unwrap().check().unwrap_err();
        let none = missing(json!({"n_heads": 4, "rope_theta": 500_000}));
        assert_eq!(none.names, ["d_model", "n_layers", "mlp_hidden_size", "embedding_size"]);
        assert!(none.to_string().starts_with("`model` needs `d_model`, `n_layers`, "), "{none}");
        assert!(none.hint().contains("preset: olmo2-190M"), "{}", none.hint());
        let family = missing(json!({"preset": "olmo3"}));
        assert_eq!(family.names, ["d_model", "n_heads", "n_layers", "mlp_hidden_size"]);
        assert!(family.to_string().contains("`olmo3` has no sizes"), "{family}");
        assert!(family.hint().contains("preset: olmo3-190M"), "{}", family.hint());
        assert!(missing(json!({"preset": "olmo1"})).hint().contains("preset: olmo2-190M"), "OLMo-core has no olmo1");
        let mut rows = sizes();
        rows.as_object_mut().unwrap().remove("embedding_size");
        assert!(missing(rows).hint().contains("embedding_size: null"));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (value, words) in [
            (json!({"preset": "olmo2-190"}), &["unknown preset `olmo2-190`", "did you mean `olmo2-190M`"][..]),
            (json!({"preset": 7}), &["`preset` must be the name of a preset, not 7"]),
            (with(sizes(), "vocab_size", json!(100)), &["unknown field `vocab_size`", "data"]),
            (with(sizes(), "d_modle", json!(1)), &["unknown field `d_modle`", "`d_model`"]),
            (with(sizes(), "n_layers", json!("two")), &["invalid type: string \"two\""]),
        ] {
            let error = read(value.clone()).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{value}: {word} is not in: {error}");
            }
        }
    }

    #[test]
    fn params_are_written_as_they_were_read() {
        let value = json!({"preset": "olmo2-1B", "weight_tying": true, "clip_qkv": null});
        assert_eq!(serde_json::to_value(read(value.clone()).unwrap()).unwrap(), value);
    }

    /// A `default` would be filled in over the preset's value.
    #[test]
    fn the_schema_has_every_field_and_no_default() {
        let schema = schemars::schema_for!(ModelParams).to_value();
        let properties = schema["properties"].as_object().unwrap();
        assert!(properties.values().all(|property| property.get("default").is_none()));
        assert!(schema.get("required").is_none());
        for name in OF_THE_DATA {
            assert!(!properties.contains_key(name), "{name}");
        }
        let without: Vec<&str> =
            properties.iter().filter(|(_, p)| p.get("x-default").is_none()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(without, ["preset", "d_model", "n_heads", "n_layers", "mlp_hidden_size", "embedding_size"]);
        // What the schema says about a left-out field is what reading it gives.
        let plain = serde_json::to_value(config(sizes())).unwrap();
        for (name, property) in properties {
            if let Some(default) = property.get("x-default").filter(|_| name != "max_sequence_length") {
                assert_eq!(plain.get(name).unwrap_or(&Value::Null), default, "{name}");
            }
        }
        for word in properties["layer_norm_type"]["enum"].as_array().unwrap() {
            assert!(serde_json::from_value::<LayerNormType>(word.clone()).is_ok());
        }
        for word in properties["init_fn"]["enum"].as_array().unwrap() {
            assert!(serde_json::from_value::<InitFnType>(word.clone()).is_ok());
        }
        assert!(properties["preset"]["enum"].as_array().unwrap().contains(&json!("olmo2-190M")));
    }
}
