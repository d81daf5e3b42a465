//! Reads and writes a folder that `transformers` loads as `OlmoForCausalLM`, `Olmo2ForCausalLM`,
//! `Olmo3ForCausalLM` or `LlamaForCausalLM`.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::architecture::{Architecture, FULL, SLIDING, VOCABULARY, layer_types};
use super::{config, extra, reader, rope};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::file_names::{CONFIG_FILE, INDEX_FILE, PYTORCH_FILE, WEIGHTS_FILE};
use crate::formats::files::ModelFiles;
use crate::formats::json::write_json;
use crate::formats::parts::{Names, Part};
use crate::formats::stored_model::{OpenTensors, StoredModel};
use crate::formats::tensors::{Tensors, write};
use crate::weight_source::{WeightSource, check_fit};
use crate::weight_type::WeightType;

/// Read by `transformers` for generation; its `eos_token_id` may be a list.
const GENERATION_FILE: &str = "generation_config.json";

const NAMES: Names = Names {
    embedding: "model.embed_tokens",
    head: "lm_head",
    final_norm: "model.norm",
    blocks: "model.layers",
    queries: "self_attn.q_proj",
    keys: "self_attn.k_proj",
    values: "self_attn.v_proj",
    attention_output: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    up: "mlp.up_proj",
    gate: "mlp.gate_proj",
    down: "mlp.down_proj",
    attention_norm: "post_attention_layernorm",
    mlp_norm: "post_feedforward_layernorm",
};

/// Norms before attention and MLP have the names of Llama. OLMo 1's have no weights.
const NAMES_OF_LLAMA: Names =
    Names { attention_norm: "input_layernorm", mlp_norm: "post_attention_layernorm", ..NAMES };

/// Every Hugging Face tensor and the part of our tensors that it is.
fn parts(config: &ModelConfig) -> Vec<Part> {
    if config.norm_after { NAMES.parts(config) } else { NAMES_OF_LLAMA.parts(config) }
}

/// Opens a Hugging Face model with the `fields` of its config. Tensors that are no weights may be
/// looked at if `reads` is set; otherwise they are ignored.
///
/// # Errors
/// See [`crate::load`].
pub(crate) fn open_huggingface(
    files: &Arc<ModelFiles>,
    fields: &Map<String, Value>,
    open: OpenTensors<'_>,
    reads: bool,
) -> Result<StoredModel, ModelError> {
    let mut config = understand(files, fields)?;
    add_stop_ids(files, &mut config)?;
    let (parts, tensors) = (parts(&config), open(files)?);
    let judged = config.clone();
    let judge = |name: &str, all: &Tensors| if reads { extra::judge(name, all, &judged) } else { Ok(()) };
    let safetensors = files.has(WEIGHTS_FILE) || files.has(INDEX_FILE);
    let shown = files.named(if safetensors { WEIGHTS_FILE } else { PYTORCH_FILE });
    StoredModel::new(&shown, config, parts, tensors, &judge).map_err(explain_head)
}

/// The config with these `fields`.
///
/// # Errors
/// Every key that is missing, invalid or unknown.
pub(crate) fn understand(files: &ModelFiles, fields: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let path = files.named(CONFIG_FILE);
    let config = config::understand(fields).map_err(|problems| ModelError::NotUnderstood { path, problems })?;
    config.validate()?;
    Ok(config)
}

/// Explains what a missing head may mean.
fn explain_head(mut error: ModelError) -> ModelError {
    if let ModelError::Tensors { problems, .. } = &mut error {
        let missing = format!("`{}` is missing", extra::HEAD);
        for problem in problems.iter_mut().filter(|problem| **problem == missing) {
            problem.push_str(" (if the embedding is the head, config.json needs `tie_word_embeddings: true`)");
        }
    }
    error
}

/// Adds the eos ids of `generation_config.json`, which may list more than `config.json` (OLMo 3,
/// Llama 3).
fn add_stop_ids(files: &ModelFiles, config: &mut ModelConfig) -> Result<(), ModelError> {
    if !files.has(GENERATION_FILE) {
        return Ok(());
    }
    let ids = reader::read_token_ids(&files.object(GENERATION_FILE)?, "eos_token_id")
        .map_err(|reason| files.refuse(GENERATION_FILE, reason))?;
    for id in ids {
        if !config.eos_token_ids.contains(&id) {
            config.eos_token_ids.push(id);
        }
    }
    Ok(())
}

/// Writes `config.json`, `generation_config.json` and the weights for `transformers` to `folder`,
/// which is created if absent, with weights of type `dtype`: in `model.safetensors`, or in shards of
/// at most `most` bytes. Equal models give equal bytes. Weights are read tensor by tensor.
///
/// # Errors
/// [`ModelError::NotExportable`] if no architecture can express the config; otherwise see
/// [`crate::save_native`].
pub fn save_huggingface(
    folder: &Path,
    config: &ModelConfig,
    source: &dyn WeightSource,
    dtype: WeightType,
    most: Option<u64>,
) -> Result<(), ModelError> {
    check_fit(source, config)?;
    let architecture = Architecture::of(config)?;
    write_json(folder, CONFIG_FILE, describe(config, architecture, dtype))?;
    let eos = match &config.eos_token_ids[..] {
        [] => Value::Null,
        [id] => json!(id),
        several => json!(several),
    };
    let generation = json!({"_from_model_config": true, "eos_token_id": eos, "pad_token_id": config.pad_token_id});
    write_json(folder, GENERATION_FILE, generation)?;
    let mut parts = parts(config);
    // Shards are filled in the order of a state dict of `transformers`: final norm and head come last.
    let place = |name: &str| match name {
        extra::HEAD => 2,
        extra::FINAL_NORM => 1,
        _ => 0,
    };
    parts.sort_by_key(|part| place(&part.name));
    write(folder, &parts, source, dtype, most)
}

fn describe(config: &ModelConfig, architecture: Architecture, dtype: WeightType) -> Value {
    let mut fields = json!({
        "architectures": [architecture.class()],
        "model_type": architecture.model_type(),
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": null,
        // Every reader accepts a number here; the list is in `generation_config.json`, as in the
        // releases of OLMo 3.
        "eos_token_id": config.eos_token_id(),
        "pad_token_id": config.pad_token_id,
        "hidden_act": "silu",
        "hidden_size": config.d_model,
        "initializer_range": config.init_std,
        "intermediate_size": config.mlp_width(),
        "max_position_embeddings": config.max_sequence_length,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.kv_heads(),
        "rope_scaling": null,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.weight_tying,
        "torch_dtype": dtype.as_str(),
        "use_cache": true,
        "vocab_size": config.embedding_rows(),
    });
    match architecture {
        Architecture::Olmo1 => fields["clip_qkv"] = json!(config.clip_qkv),
        Architecture::Olmo2 | Architecture::Olmo3 => fields["rms_norm_eps"] = json!(config.layer_norm_eps),
        Architecture::Llama => {
            fields["rms_norm_eps"] = json!(config.layer_norm_eps);
            fields["mlp_bias"] = json!(false);
        }
    }
    if let Some(width) = config.head_dim {
        fields["head_dim"] = json!(width);
    }
    let plain = json!({"rope_type": "default", "rope_theta": config.rope_theta});
    let scaling = config.rope_scaling.as_ref().map(rope::describe);
    if let Some(scaling) = &scaling {
        // For version 4; version 5 reads `rope_parameters`.
        fields["rope_scaling"] = scaling.clone();
        fields["rope_parameters"] = rope::with_theta(scaling, config.rope_theta);
    }
    if architecture == Architecture::Olmo3 {
        fields["sliding_window"] = json!(config.sliding_window);
        fields["layer_types"] = json!(layer_types(config));
        // `transformers` 5 reads the rotary base per kind of block here, and assumes 500000 for a
        // missing entry.
        let full = scaling.map_or(plain.clone(), |scaling| rope::with_theta(&scaling, config.rope_theta));
        let sliding = rope::with_theta(&plain, config.sliding_rope_theta.unwrap_or(config.rope_theta));
        fields["rope_parameters"] = json!({FULL: full, SLIDING: sliding});
        if config.sliding_rope_theta.is_some_and(|theta| theta != config.rope_theta) {
            // Version 4 has one base for all blocks: with null it fails instead of computing
            // something else.
            fields["rope_theta"] = Value::Null;
        }
    }
    if config.embedding_rows() != config.vocab_size {
        fields[VOCABULARY] = json!(config.vocab_size);
    }
    fields
}
