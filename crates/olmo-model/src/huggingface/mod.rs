//! The Hugging Face format: a folder that `transformers` loads as `OlmoForCausalLM`,
//! `Olmo2ForCausalLM` or `Olmo3ForCausalLM`.

mod config;
mod extra;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::{LayerNormType, ModelConfig};
use crate::error::ModelError;
use crate::files::{CONFIG_FILE, Part, check_fit, read, read_config, read_object, write_json};
use crate::layout;
use crate::parameters::Parameters;
use crate::tensors::{self, Outgoing};
use crate::weight_type::WeightType;

/// The field of a config that names its architecture.
pub(crate) const MODEL_TYPE: &str = "model_type";

/// Read by `transformers` for generation; its `eos_token_id` may be a list.
const GENERATION_FILE: &str = "generation_config.json";

/// Our own field: the vocabulary size, if the embedding has more rows (Hugging Face records only
/// the rows).
const VOCABULARY: &str = "olmo_vocab_size";

/// `transformers` hard-codes the eps of OLMo 1's norm.
const OLMO1_EPS: f64 = 1e-5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Architecture {
    Olmo1,
    Olmo2,
    /// Like OLMo 2, with sliding windows.
    Olmo3,
}

impl Architecture {
    /// The architecture that computes `config`.
    fn of(config: &ModelConfig) -> Result<Architecture, ModelError> {
        let (mut olmo1, mut olmo2) = (Vec::new(), Vec::new());
        let mut require = |first: bool, second: bool, field: &str, value: String| {
            if !first {
                olmo1.push(format!("{field} is {value}"));
            }
            if !second {
                olmo2.push(format!("{field} is {value}"));
            }
        };
        let rms = config.layer_norm_type == LayerNormType::Rms;
        require(!rms, rms, "layer_norm_type", if rms { "rms" } else { "default" }.into());
        let affine = config.layer_norm_with_affine;
        require(!affine, affine, "layer_norm_with_affine", affine.to_string());
        require(
            !config.attention_layer_norm,
            config.attention_layer_norm,
            "attention_layer_norm",
            config.attention_layer_norm.to_string(),
        );
        require(!config.norm_after, config.norm_after, "norm_after", config.norm_after.to_string());
        require(
            config.layer_norm_eps == OLMO1_EPS,
            true,
            "layer_norm_eps",
            format!("{} and not {OLMO1_EPS}", config.layer_norm_eps),
        );
        let window = config.sliding_window;
        require(window.is_none(), true, "sliding_window", window.unwrap_or_default().to_string());
        require(true, config.clip_qkv.is_none(), "clip_qkv", format!("{:?}", config.clip_qkv.unwrap_or_default()));
        match (olmo1.is_empty(), olmo2.is_empty()) {
            (true, _) => Ok(Architecture::Olmo1),
            (_, true) => Ok(if window.is_some() { Architecture::Olmo3 } else { Architecture::Olmo2 }),
            _ => Err(ModelError::NotExportable(vec![
                format!("not as olmo: {}", olmo1.join(", ")),
                format!("not as olmo2: {}", olmo2.join(", ")),
            ])),
        }
    }

    fn model_type(self) -> &'static str {
        match self {
            Architecture::Olmo1 => "olmo",
            Architecture::Olmo2 => "olmo2",
            Architecture::Olmo3 => "olmo3",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Architecture::Olmo1 => "OlmoForCausalLM",
            Architecture::Olmo2 => "Olmo2ForCausalLM",
            Architecture::Olmo3 => "Olmo3ForCausalLM",
        }
    }
}

/// Every Hugging Face tensor and the part of our tensors that it is: fused projections are split,
/// nothing is permuted.
pub(crate) fn parts(config: &ModelConfig) -> Vec<Part> {
    let specs = layout::layout(config);
    let (d, kv, mlp) = (config.d_model, config.kv_heads() * config.head_width(), config.mlp_width());
    let mut parts = Vec::new();
    let mut add = |name: String, own: String, rows: Option<std::ops::Range<usize>>| {
        // A norm that this config lacks has no tensor.
        let Ok(index) = specs.binary_search_by(|spec| spec.name.cmp(&own)) else { return };
        let (range, shape) = (specs[index].range.clone(), &specs[index].shape);
        let (range, shape) = match rows {
            None => (range, shape.clone()),
            Some(rows) => {
                let width = shape[1];
                (range.start + rows.start * width..range.start + rows.end * width, vec![rows.len(), width])
            }
        };
        parts.push(Part { name, shape, range });
    };
    add(extra::EMBEDDING.into(), layout::wte(), None);
    add(extra::HEAD.into(), layout::head(), None);
    add("model.norm.weight".into(), layout::final_norm(), None);
    for layer in 0..config.n_layers {
        let table = [
            ("self_attn.q_proj", "att_proj", Some(0..d)),
            ("self_attn.k_proj", "att_proj", Some(d..d + kv)),
            ("self_attn.v_proj", "att_proj", Some(d + kv..d + 2 * kv)),
            ("self_attn.o_proj", "attn_out", None),
            ("self_attn.q_norm", "q_norm", None),
            ("self_attn.k_norm", "k_norm", None),
            ("mlp.up_proj", "ff_proj", Some(0..mlp)),
            ("mlp.gate_proj", "ff_proj", Some(mlp..2 * mlp)),
            ("mlp.down_proj", "ff_out", None),
            ("post_attention_layernorm", "attn_norm", None),
            ("post_feedforward_layernorm", "ff_norm", None),
        ];
        for (name, own, rows) in table {
            add(format!("model.layers.{layer}.{name}.weight"), layout::block(layer, own), rows);
        }
    }
    parts
}

/// Reads a Hugging Face model folder.
///
/// # Errors
/// See [`crate::load`].
pub fn load_huggingface(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    let mut config = understand(&folder.join(CONFIG_FILE), &read_config(folder)?)?;
    add_stop_ids(folder, &mut config)?;
    let parameters =
        read(folder, &config, &parts(&config), &|name, all| extra::judge(name, all, &config)).map_err(explain_head)?;
    Ok((config, parameters))
}

/// The config described by the fields of the file `path`.
///
/// # Errors
/// Every key that is missing, invalid or unknown.
pub(crate) fn understand(path: &Path, fields: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let config =
        config::understand(fields).map_err(|problems| ModelError::NotUnderstood { path: path.to_owned(), problems })?;
    config.validate()?;
    Ok(config)
}

/// Explains what a missing head may mean.
pub(crate) fn explain_head(mut error: ModelError) -> ModelError {
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
fn add_stop_ids(folder: &Path, config: &mut ModelConfig) -> Result<(), ModelError> {
    let path = folder.join(GENERATION_FILE);
    if !path.exists() {
        return Ok(());
    }
    let ids = config::read_token_ids(&read_object(&path)?, "eos_token_id")
        .map_err(|reason| ModelError::folder(&path, reason))?;
    for id in ids {
        if !config.eos_token_ids.contains(&id) {
            config.eos_token_ids.push(id);
        }
    }
    Ok(())
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The kind of each block, in the terms of `transformers`.
fn layer_types(layers: usize, full_every: Option<usize>) -> Vec<&'static str> {
    let full = |layer: usize| full_every.is_some_and(|every| (layer + 1).is_multiple_of(every));
    (0..layers).map(|layer| if full(layer) { FULL } else { SLIDING }).collect()
}

/// Writes `config.json`, `generation_config.json` and `model.safetensors` for `transformers` to
/// `folder`, which is created if absent, with weights of type `dtype`. Equal models give equal
/// bytes.
///
/// # Errors
/// [`ModelError::NotExportable`] if no architecture can express the config; otherwise see
/// [`crate::save_native`].
pub fn save_huggingface(
    folder: &Path,
    config: &ModelConfig,
    parameters: &Parameters,
    dtype: WeightType,
) -> Result<(), ModelError> {
    check_fit(config, parameters)?;
    let architecture = Architecture::of(config)?;
    write_json(folder, CONFIG_FILE, describe(config, architecture, dtype))?;
    let eos = match &config.eos_token_ids[..] {
        [] => Value::Null,
        [id] => json!(id),
        several => json!(several),
    };
    let generation = json!({"_from_model_config": true, "eos_token_id": eos, "pad_token_id": config.pad_token_id});
    write_json(folder, GENERATION_FILE, generation)?;
    let outgoing: Vec<Outgoing<'_>> = parts(config)
        .into_iter()
        .map(|part| Outgoing { name: part.name, shape: part.shape, values: &parameters.flat()[part.range] })
        .collect();
    tensors::write(folder, &outgoing, dtype)
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
    }
    if architecture == Architecture::Olmo3 {
        fields["sliding_window"] = json!(config.sliding_window);
        fields["layer_types"] = json!(layer_types(config.n_layers, config.full_attention_every));
        // `transformers` 5 reads the rotary base per kind of block here, and assumes 500000 for a
        // missing entry.
        let rope = json!({"rope_type": "default", "rope_theta": config.rope_theta});
        fields["rope_parameters"] = json!({FULL: rope, SLIDING: rope});
    }
    if config.embedding_rows() != config.vocab_size {
        fields[VOCABULARY] = json!(config.vocab_size);
    }
    fields
}
