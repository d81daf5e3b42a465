//! Reads a Hugging Face `config.json`.
//!
//! Every key is either understood, known not to change the logits, or reported by name. Ignoring a
//! key by mistake would give different answers without an error, so there are no exceptions.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::architecture::{Architecture, FULL, MODEL_TYPE, OLMO1_EPS, SLIDING, VOCABULARY};
use super::reader::{Reader, shown};
use super::rope;
use crate::config::{InitFnType, LayerNormType, ModelConfig};

/// Default of `transformers` for `sliding_window`.
const OLMO3_WINDOW: usize = 4096;

/// The name of OLMo 3 before its release, in configs of some of its checkpoints, and its class.
const OLMO3_BEFORE: (&str, &str) = ("olmo2-retrofit", "Olmo2RetrofitForCausalLM");

/// Converts a Hugging Face config to ours.
///
/// # Errors
/// Every key that is missing, has a value of the wrong kind, or would change the logits in an
/// unsupported way.
pub(super) fn understand(fields: &Map<String, Value>) -> Result<ModelConfig, Vec<String>> {
    let architecture = match fields.get(MODEL_TYPE).and_then(Value::as_str) {
        Some("olmo") => Architecture::Olmo1,
        Some("olmo2") => Architecture::Olmo2,
        Some("olmo3") => Architecture::Olmo3,
        Some("llama") => Architecture::Llama,
        Some(name) if name == OLMO3_BEFORE.0 => Architecture::Olmo3,
        other => {
            let found = other.map_or("not a text".into(), |name| format!("{name:?}"));
            let help = match other {
                Some("hf_olmo") => "; take the repository whose name ends with `-hf`",
                _ => "",
            };
            let message =
                format!("`{MODEL_TYPE}` is {found}; supported are \"olmo\", \"olmo2\", \"olmo3\" and \"llama\"{help}");
            return Err(vec![message]);
        }
    };
    let mut reader = Reader { fields, read: BTreeSet::from([MODEL_TYPE]), problems: Vec::new() };
    if let Some(classes) = reader.value("architectures") {
        let classes_list = classes.as_array().map_or(&[][..], Vec::as_slice);
        let is_known = |class: &Value| {
            class == architecture.class() || (architecture == Architecture::Olmo3 && class == OLMO3_BEFORE.1)
        };
        if !classes.is_array() || !classes_list.iter().all(is_known) {
            reader.problems.push(format!(
                "`architectures` is {}; {} is supported only as {}",
                shown(classes),
                architecture.model_type(),
                architecture.class()
            ));
        }
    }
    for key in ["quantization_config", "compression_config"] {
        if let Some(quantization) = reader.value(key) {
            let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("an unnamed method");
            reader.problems.push(format!(
                "`{key}` says that the weights are quantized ({method}), which is not supported; take the model from \
                 before quantization"
            ));
        }
    }
    if let Some(act) = reader.value("hidden_act").filter(|act| *act != "silu" && *act != "swish") {
        reader.problems.push(format!("`hidden_act` is {}; only \"silu\" is supported", shown(act)));
    }
    if reader.flag("attention_bias") {
        reader.problems.push("`attention_bias` is true; biases in attention are not supported".into());
    }
    let d_model = reader.required("hidden_size");
    let n_heads = reader.required("num_attention_heads");
    let head_dim = reader.whole("head_dim").filter(|width| width.checked_mul(n_heads) != Some(d_model));
    let n_layers = reader.required("num_hidden_layers");
    let rows = reader.required("vocab_size");
    let vocab_size = reader.whole(VOCABULARY).unwrap_or(rows);
    let (rms, norms_after) = (architecture.has_rms_norm(), architecture.has_norms_after());
    let windows = read_windows(&mut reader, architecture, n_layers);
    let clip_qkv = reader.number("clip_qkv");
    if rms && let Some(clip) = clip_qkv {
        reader.problems.push(format!(
            "`clip_qkv` is {clip}, but `transformers` has no clamp in {}; remove it if the model was trained without",
            architecture.model_type()
        ));
    }
    let layer_norm_eps = if rms {
        reader.not_null("rms_norm_eps");
        reader.number("rms_norm_eps").unwrap_or(if architecture == Architecture::Llama { 1e-6 } else { 1e-5 })
    } else {
        OLMO1_EPS
    };
    let max_sequence_length = reader.whole("max_position_embeddings").unwrap_or(2048);
    let rope = rope::read(&mut reader, architecture, max_sequence_length);
    let config = ModelConfig {
        d_model,
        n_heads,
        n_kv_heads: reader.whole("num_key_value_heads"),
        head_dim,
        clip_qkv,
        n_layers,
        mlp_hidden_size: reader.required("intermediate_size").saturating_mul(2),
        layer_norm_type: if rms { LayerNormType::Rms } else { LayerNormType::Default },
        layer_norm_with_affine: rms,
        layer_norm_eps,
        attention_layer_norm: norms_after,
        norm_after: norms_after,
        sliding_window: windows.size,
        full_attention_every: windows.full_every,
        full_attention_layers: windows.full_layers,
        rope_theta: rope.theta,
        sliding_rope_theta: rope.sliding_theta,
        rope_scaling: rope.scaling,
        max_sequence_length,
        vocab_size,
        embedding_size: (vocab_size != rows).then_some(rows),
        weight_tying: reader.flag("tie_word_embeddings"),
        eos_token_ids: reader.ids("eos_token_id"),
        pad_token_id: reader.ids("pad_token_id").first().copied(),
        init_fn: InitFnType::Normal,
        init_std: reader.number("initializer_range").unwrap_or(0.02),
        init_cutoff_factor: None,
    };
    reader.finish(architecture);
    if reader.problems.is_empty() { Ok(config) } else { Err(reader.problems) }
}

/// Which blocks have a window.
#[derive(Default)]
struct Windows {
    size: Option<usize>,
    /// The interval of blocks with full attention.
    full_every: Option<usize>,
    /// Those blocks, if no interval describes them.
    full_layers: Option<Vec<usize>>,
}

fn read_windows(reader: &mut Reader<'_>, architecture: Architecture, layers: usize) -> Windows {
    let kinds = reader.value("layer_types");
    if architecture != Architecture::Olmo3 {
        let all_full = |kinds: &Value| kinds.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == FULL));
        if let Some(kinds) = kinds.filter(|kinds| !all_full(kinds)) {
            let what = shown(kinds);
            reader
                .problems
                .push(format!("`layer_types` is {what}; {} has full attention only", architecture.model_type()));
        }
        if let Some(window) = reader.value("sliding_window") {
            let what = shown(window);
            reader.problems.push(format!("`sliding_window` is {what}; only olmo3 has a window"));
        }
        return Windows::default();
    }
    reader.not_null("sliding_window");
    let size = Some(reader.whole("sliding_window").unwrap_or(OLMO3_WINDOW));
    // Without a list, every fourth block uses full attention.
    let Some(kinds) = kinds else { return Windows { size, full_every: Some(4), full_layers: None } };
    let names: Vec<&Value> = kinds.as_array().into_iter().flatten().collect();
    // The config may claim any number of layers; the length of the list is real.
    if names.len() != layers || !names.iter().all(|kind| **kind == FULL || **kind == SLIDING) {
        let what = shown(kinds);
        reader.problems.push(format!("`layer_types` is {what}, not a list of {layers} times {FULL:?} or {SLIDING:?}"));
    }
    let full: Vec<usize> = (0..names.len()).filter(|layer| *names[*layer] == FULL).collect();
    let every = full.first().map(|first| first + 1);
    let is_regular =
        |every: usize| full.len() == names.len() / every && full.iter().all(|layer| (layer + 1).is_multiple_of(every));
    match every {
        Some(every) if !is_regular(every) => Windows { size, full_every: None, full_layers: Some(full) },
        every => Windows { size, full_every: every, full_layers: None },
    }
}
