//! Checkpoints of OLMo-core and OLMo, written and read.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::BTreeMap;
use std::path::Path;

use olmo_model::{ModelConfig, Parameters, WeightType, load, save_olmo, save_olmo_core};
use olmo_pickle::OlmoName;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn config(changes: Value) -> ModelConfig {
    let mut fields = json!({
        "d_model": 16,
        "n_heads": 4,
        "n_layers": 4,
        "mlp_hidden_size": 24,
        "layer_norm_type": "rms",
        "layer_norm_eps": 1e-6,
        "attention_layer_norm": true,
        "norm_after": true,
        "rope_theta": 500_000.0,
        "weight_tying": false,
        "vocab_size": 60,
        "embedding_size": 64,
        "max_sequence_length": 32,
        "eos_token_id": 3,
        "pad_token_id": 1,
    });
    fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(fields).unwrap()
}

/// OLMo 1 and 2, with grouped keys, tied and clipped.
fn configs() -> Vec<ModelConfig> {
    let olmo1 = json!({
        "layer_norm_type": "default", "layer_norm_with_affine": false, "attention_layer_norm": false,
        "norm_after": false, "layer_norm_eps": 1e-5, "rope_theta": 10000.0, "clip_qkv": 8.0,
    });
    [json!({}), json!({"n_kv_heads": 2}), json!({"weight_tying": true}), json!({"embedding_size": null}), olmo1]
        .map(config)
        .to_vec()
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_step_of_olmo_core_keeps_config_and_weights() {
    let windows = json!({"sliding_window": 8, "full_attention_every": 2});
    let more = [
        windows,
        json!({"sliding_window": 8}),
        json!({"sliding_window": 8, "full_attention_layers": [0, 3]}),
        json!({"head_dim": 6, "rope_scaling": {"factor": 4.0, "old_context_len": 16}}),
        json!({"sliding_window": 8, "full_attention_every": 4, "sliding_rope_theta": 10000.0, "rope_scaling": {"factor": 2.0}}),
    ];
    for config in configs().into_iter().chain(more.map(config)) {
        let folder = tempfile::tempdir().unwrap();
        let parameters = Parameters::init(&config, 7).unwrap();
        save_olmo_core(folder.path(), &config, &parameters, WeightType::Float32).unwrap();
        let (read, weights) = load(folder.path()).unwrap();
        assert_eq!(read, config);
        assert_eq!(weights.flat(), parameters.flat());
        save_olmo_core(folder.path(), &config, &parameters, WeightType::Bfloat16).unwrap();
        assert_eq!(load(folder.path()).unwrap().1.flat(), parameters.rounded(WeightType::Bfloat16).flat());
    }
}

#[test]
fn an_unsharded_checkpoint_of_olmo_keeps_config_and_weights() {
    for config in configs() {
        let folder = tempfile::tempdir().unwrap();
        let parameters = Parameters::init(&config, 7).unwrap();
        save_olmo(folder.path(), &config, &parameters, WeightType::Float32).unwrap();
        let (read, weights) = load(folder.path()).unwrap();
        assert_eq!(read, config);
        assert_eq!(weights.flat(), parameters.flat());

        // The same weights in safetensors, which go first, under the names that OLMo gives them.
        let other = Parameters::init(&config, 8).unwrap();
        let bytes: BTreeMap<&str, Vec<u8>> = other
            .tensors()
            .iter()
            .map(|spec| {
                let values = &other.flat()[spec.range.clone()];
                (spec.name.as_str(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect();
        let views = other.tensors().iter().map(|spec| {
            let view = TensorView::new(Dtype::F32, spec.shape.clone(), &bytes[spec.name.as_str()]).unwrap();
            (OlmoName::encode(&spec.name), view)
        });
        safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        assert_eq!(load(folder.path()).unwrap().1.flat(), other.flat());
    }
    let folder = tempfile::tempdir().unwrap();
    let windows = config(json!({"sliding_window": 8}));
    let parameters = Parameters::init(&windows, 7).unwrap();
    let error = save_olmo(folder.path(), &windows, &parameters, WeightType::Float32).unwrap_err();
    assert!(error.to_string().contains("no sliding windows"), "{error}");
}

#[test]
fn every_setting_of_olmo_core_is_understood_or_reported() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(json!({}));
    save_olmo_core(folder.path(), &config, &Parameters::init(&config, 7).unwrap(), WeightType::Float32).unwrap();
    let path = folder.path().join("config.json");
    let original = std::fs::read(&path).unwrap();
    let refusal = |pointer: &str, key: &str, value: Value| {
        std::fs::write(&path, &original).unwrap();
        edit(&path, |root| root.pointer_mut(pointer).unwrap()[key] = value);
        load(folder.path()).expect_err("must be refused").to_string()
    };
    let mixer = "/model/block/sequence_mixer";
    for (pointer, key, value, reason) in [
        ("/model", "embedding_norm", json!({}), "`model.embedding_norm` is not supported"),
        ("/model", "block_pattern", json!(["a"]), "`model.block_pattern` is not supported"),
        ("/model", "d_model", json!(null), "`model.d_model` is missing"),
        ("/model/block", "feed_forward_moe", json!({}), "`model.block.feed_forward_moe` is not supported"),
        ("/model/block", "name", json!("normalized"), "`model.block.name` is \"normalized\""),
        (mixer, "bias", json!(true), "`model.block.sequence_mixer.bias` must be false"),
        (mixer, "gate", json!({}), "`model.block.sequence_mixer.gate` is not supported"),
        (mixer, "attention_sinks", json!(true), "`model.block.sequence_mixer.attention_sinks` is true"),
        (mixer, "head_dim", json!(8), "w_q.weight` has shape [16, 16], not [32, 16]"),
        ("/model/block/sequence_mixer/rope", "scaling", json!({"factor": 4}), "is not YaRN"),
        ("/model/block/sequence_mixer/rope", "partial_rotary_factor", json!(0.5), "partial_rotary_factor` is 0.5"),
        ("/model/block/layer_norm", "eps", json!(1e-3), "differ in kind or eps"),
        ("/model/lm_head", "bias", json!(null), "`model.lm_head.bias` must be false"),
        (mixer, "sliding_window", json!({"pattern": [8, 9, -1]}), "windows of several sizes"),
    ] {
        let message = refusal(pointer, key, value);
        assert!(message.contains(reason), "{pointer} {key}: {message}");
    }
    // A block of its own must equal the others.
    let own = |change: fn(&mut Value)| {
        std::fs::write(&path, &original).unwrap();
        edit(&path, |root| {
            let mut block = root["model"]["block"].clone();
            change(&mut block);
            root["model"]["block_overrides"] = json!({"3": block});
        });
        load(folder.path())
    };
    assert!(own(|_| {}).is_ok());
    let error = own(|block| block["feed_forward"]["hidden_size"] = json!(99)).unwrap_err();
    assert!(error.to_string().contains("`model.block_overrides.3` differs"), "{error}");
}

#[test]
fn every_setting_of_olmo_is_understood_or_reported() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(json!({}));
    save_olmo(folder.path(), &config, &Parameters::init(&config, 7).unwrap(), WeightType::Float32).unwrap();
    let path = folder.path().join("config.yaml");
    let original = std::fs::read_to_string(&path).unwrap();
    for (from, to, reason) in [
        ("  rope: true\n", "", "`model.rope` is false; this program knows only true"),
        ("  include_bias: false\n", "", "`model.include_bias` is true"),
        ("  rope: true\n", "  rope: true\n  alibi: true\n", "`model.alibi` is true"),
        ("  rope: true\n", "  rope: true\n  router: 3\n", "`model.router` is not supported"),
        ("  block_type: sequential\n", "  block_type: llama\n", "`model.block_type` is \"llama\""),
        ("model:\n", "other:\n", "`model` is missing"),
    ] {
        assert!(original.contains(from), "{from}");
        std::fs::write(&path, original.replace(from, to)).unwrap();
        let message = load(folder.path()).expect_err("must be refused").to_string();
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn tensors_that_do_not_fit_the_config_are_all_reported() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(json!({}));
    save_olmo_core(folder.path(), &config, &Parameters::init(&config, 7).unwrap(), WeightType::Float32).unwrap();
    edit(&folder.path().join("config.json"), |root| {
        root["model"]["n_layers"] = json!(5);
        root["model"]["vocab_size"] = json!(128);
    });
    let message = load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("`model.blocks.4.attention.w_q.weight` is missing"), "{message}");
    assert!(message.contains("`model.embeddings.weight` has shape [64, 16], not [128, 16]"), "{message}");
}
