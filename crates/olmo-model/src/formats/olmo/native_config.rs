//! The section `model` of OLMo's `config.yaml`.
//!
//! Every field of OLMo's ModelConfig is understood, known not to change the logits, or reported by
//! name. Absent fields have OLMo's defaults (`olmo/config.py`), many of which no OLMo model has.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::config::{InitFnType, LayerNormType, ModelConfig};

/// The model that the fields of a `config.yaml` describe.
///
/// # Errors
/// Every field that is missing, wrong or not supported.
pub(super) fn understand(root: &Map<String, Value>) -> Result<ModelConfig, Vec<String>> {
    let mut problems = Vec::new();
    let mut root = Fields::new(root);
    let Some(mut model) = root.object("model") else {
        root.problem("model", "is missing: this is no config of OLMo");
        return Err(root.problems);
    };
    // OLMo's default, where it is not what this program computes, has to be overridden.
    let mut overridden = |key: &str, default: Value, needed: Value| {
        let value = model.value(key).cloned().unwrap_or(default);
        if value != needed {
            model.problem(key, &format!("is {value}; this program knows only {needed}"));
        }
    };
    overridden("rope", json!(false), json!(true));
    overridden("include_bias", json!(true), json!(false));
    overridden("activation_type", json!("swiglu"), json!("swiglu"));
    overridden("block_type", json!("sequential"), json!("sequential"));
    overridden("block_group_size", json!(1), json!(1));
    for key in ["alibi", "embedding_layer_norm", "scale_logits", "bias_for_layer_norm", "multi_query_attention"] {
        model.only(key, &[json!(false)]);
    }
    model.harmless(&[
        "alibi_bias_max",
        "attention_dropout",
        "emb_init_std",
        "embedding_dropout",
        "flash_attention",
        "init_device",
        "precision",
        "residual_dropout",
        "rope_full_precision",
        "scale_emb_init",
    ]);
    let d_model = model.size("d_model").unwrap_or(768);
    let ratio = model.size("mlp_ratio").unwrap_or(4);
    let mlp_hidden_size = model.size("mlp_hidden_size").unwrap_or(d_model.saturating_mul(ratio));
    let kind = model.text("layer_norm_type").unwrap_or("default");
    model.only("layer_norm_type", &["default", "low_precision", "rms"].map(Value::from));
    let qk_norm = model.flag("attention_layer_norm").unwrap_or(false);
    if qk_norm && model.flag("attention_layer_norm_with_affine") == Some(false) {
        model.problem("attention_layer_norm_with_affine", "must be true: QK-norms have a weight");
    }
    model.harmless(&["attention_layer_norm_with_affine"]);
    let init_fn = match model.text("init_fn") {
        Some("mitchell") => InitFnType::Mitchell,
        // Others differ only for new weights.
        _ => InitFnType::Normal,
    };
    let vocab_size = model.size("vocab_size").unwrap_or(50257);
    // Null means as many rows as the vocabulary; absent means OLMo's default.
    let rows = if model.has("embedding_size") { model.size("embedding_size") } else { Some(50304) };
    let config = ModelConfig {
        d_model,
        n_heads: model.size("n_heads").unwrap_or(12),
        n_kv_heads: model.size("n_kv_heads"),
        head_dim: None,
        clip_qkv: model.number("clip_qkv"),
        n_layers: model.size("n_layers").unwrap_or(12),
        mlp_hidden_size,
        layer_norm_type: if kind == "rms" { LayerNormType::Rms } else { LayerNormType::Default },
        layer_norm_with_affine: model.flag("layer_norm_with_affine").unwrap_or(true),
        layer_norm_eps: model.number("layer_norm_eps").unwrap_or(1e-5),
        attention_layer_norm: qk_norm,
        norm_after: model.flag("norm_after").unwrap_or(false),
        sliding_window: None,
        full_attention_every: None,
        full_attention_layers: None,
        sliding_rope_theta: None,
        rope_scaling: None,
        rope_theta: model.number("rope_theta").unwrap_or(10_000.0),
        max_sequence_length: model.size("max_sequence_length").unwrap_or(1024),
        vocab_size,
        embedding_size: rows.filter(|rows| *rows != vocab_size),
        weight_tying: model.flag("weight_tying").unwrap_or(true),
        eos_token_ids: vec![model.id("eos_token_id").unwrap_or(50256)],
        pad_token_id: Some(model.id("pad_token_id").unwrap_or(50256)),
        init_fn,
        init_std: model.number("init_std").unwrap_or(0.02),
        init_cutoff_factor: model.number("init_cutoff_factor"),
    };
    model.finish(&mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// The `config.yaml` of a model, as JSON, which YAML contains. It has every field whose default in
/// OLMo is another.
pub(super) fn describe(config: &ModelConfig) -> Value {
    // OLMo's theta is an int.
    let whole = config.rope_theta.fract() == 0.0 && config.rope_theta < 1e15;
    let theta = if whole { json!(config.rope_theta as u64) } else { json!(config.rope_theta) };
    json!({
        "model": {
            "d_model": config.d_model,
            "n_heads": config.n_heads,
            "n_kv_heads": config.n_kv_heads,
            "clip_qkv": config.clip_qkv,
            "n_layers": config.n_layers,
            "mlp_hidden_size": config.mlp_hidden_size,
            "activation_type": "swiglu",
            "block_type": "sequential",
            "rope": true,
            "rope_theta": theta,
            "flash_attention": false,
            "attention_dropout": 0.0,
            "residual_dropout": 0.0,
            "embedding_dropout": 0.0,
            "attention_layer_norm": config.attention_layer_norm,
            "attention_layer_norm_with_affine": true,
            "layer_norm_type": if config.layer_norm_type == LayerNormType::Rms { "rms" } else { "default" },
            "layer_norm_with_affine": config.layer_norm_with_affine,
            "layer_norm_eps": config.layer_norm_eps,
            "bias_for_layer_norm": false,
            "include_bias": false,
            "norm_after": config.norm_after,
            "max_sequence_length": config.max_sequence_length,
            "vocab_size": config.vocab_size,
            "embedding_size": config.embedding_rows(),
            "weight_tying": config.weight_tying,
            "eos_token_id": config.eos_token_id(),
            "pad_token_id": config.pad_token_id,
            "init_device": "cpu",
            "init_fn": if config.init_fn == InitFnType::Mitchell { "mitchell" } else { "normal" },
            "init_std": config.init_std,
            "init_cutoff_factor": config.init_cutoff_factor,
        },
    })
}
