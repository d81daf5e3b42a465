//! The metadata of a GGUF file as a config, and back.
//!
//! As in [`super::super::huggingface`], every key of an architecture is either understood, known not to
//! change the logits, or reported by name.

use std::collections::BTreeSet;

use super::architecture::Architecture;
use super::header::Metadata;
use super::value::GgufValue;
use crate::config::{InitFnType, LayerNormType, ModelConfig, RopeScaling};

const ARCHITECTURE: &str = "general.architecture";
/// The kind of a token that no text has.
const UNUSED: i32 = 5;

/// Reads the keys of an architecture, and remembers which.
struct Keys<'m> {
    metadata: &'m Metadata,
    prefix: String,
    read: BTreeSet<&'static str>,
    problems: Vec<String>,
}

impl<'m> Keys<'m> {
    fn value(&mut self, key: &'static str) -> Option<&'m GgufValue> {
        self.read.insert(key);
        self.metadata.get(&format!("{}.{key}", self.prefix))
    }

    fn wrong(&mut self, key: &str, value: &GgufValue, must: &str) {
        self.problems.push(format!("`{}.{key}` is {}, {must}", self.prefix, value.shown()));
    }

    fn whole(&mut self, key: &'static str) -> Option<usize> {
        let value = self.value(key)?;
        // A number for each block, which must all be the same.
        let number = match value {
            GgufValue::Others(values) => {
                let numbers: Vec<Option<u64>> = values.iter().map(GgufValue::as_u64).collect();
                numbers.first().copied().flatten().filter(|first| numbers.iter().all(|number| *number == Some(*first)))
            }
            GgufValue::Int32s(values) => {
                let first = values.first().filter(|first| values.iter().all(|value| value == *first));
                first.and_then(|first| u64::try_from(*first).ok())
            }
            other => other.as_u64(),
        };
        let number = number.and_then(|number| usize::try_from(number).ok());
        if number.is_none() {
            self.wrong(key, value, "not one whole number");
        }
        number
    }

    fn required(&mut self, key: &'static str) -> usize {
        if self.value(key).is_none() {
            self.problems.push(format!("`{}.{key}` is missing", self.prefix));
        }
        self.whole(key).unwrap_or(0)
    }

    fn number(&mut self, key: &'static str) -> Option<f64> {
        let value = self.value(key)?;
        let number = value.as_f64();
        if number.is_none() {
            self.wrong(key, value, "not a number");
        }
        number
    }

    /// A key with the only value that is supported.
    fn expect(&mut self, key: &'static str, holds: impl Fn(&GgufValue) -> bool, must: &str) {
        if let Some(value) = self.value(key).filter(|value| !holds(value)) {
            self.wrong(key, value, must);
        }
    }
}

/// What a file's tensors say about its config.
pub(super) struct Shapes {
    /// Rows of the embedding.
    pub rows: usize,
    /// Whether there is a head of its own.
    pub has_head: bool,
}

/// The architecture and the config that `metadata` describes.
///
/// # Errors
/// Every key that is missing, has a wrong value, or would change the logits in an unsupported way.
pub(super) fn understand(metadata: &Metadata, shapes: &Shapes) -> Result<(Architecture, ModelConfig), Vec<String>> {
    let named = metadata.get(ARCHITECTURE).and_then(GgufValue::as_str);
    let architecture = Architecture::ALL.into_iter().find(|architecture| Some(architecture.name()) == named);
    let Some(architecture) = architecture else {
        let found = named.map_or("missing".to_owned(), |name| format!("\"{}\"", name.escape_debug()));
        return Err(vec![format!("`{ARCHITECTURE}` is {found}; supported are \"olmo\", \"olmo2\" and \"llama\"")]);
    };
    let prefix = architecture.name().to_owned();
    let mut keys = Keys { metadata, prefix, read: BTreeSet::new(), problems: Vec::new() };
    if let Some(count) = metadata.get("split.count").filter(|count| count.as_u64() != Some(1)) {
        let what = format!("`split.count` is {}: the model is in several files; join them first", count.shown());
        keys.problems.push(what + " with llama-gguf-split --merge");
    }
    let d_model = keys.required("embedding_length");
    let n_heads = keys.required("attention.head_count");
    let n_layers = keys.required("block_count");
    let usual = d_model.checked_div(n_heads).unwrap_or(0);
    let head_width = keys.whole("attention.key_length").unwrap_or(usual);
    let same = |value: &GgufValue| value.as_u64() == Some(head_width as u64);
    keys.expect("attention.value_length", same, "not the length of a key");
    keys.expect("rope.dimension_count", same, "not the width of a head: a part of a head is not rotated");
    keys.expect("expert_count", |value| value.as_u64() == Some(0), "and experts are not supported");
    keys.expect("expert_used_count", |value| value.as_u64() == Some(0), "and experts are not supported");
    keys.value("vocab_size");
    let is_olmo1 = architecture == Architecture::Olmo;
    let eps = if is_olmo1 { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let layer_norm_eps = keys.number(eps).unwrap_or_else(|| {
        keys.problems.push(format!("`{}.{eps}` is missing", keys.prefix));
        1e-5
    });
    let clip_qkv = if is_olmo1 { keys.number("attention.clamp_kqv") } else { None };
    let rope_theta = keys.number("rope.freq_base").unwrap_or(10_000.0);
    let windows = if architecture == Architecture::Olmo2 { read_windows(&mut keys, n_layers) } else { None };
    let sliding_theta = if windows.is_some() { keys.number("rope.freq_base_swa") } else { None };
    let max_sequence_length = keys.required("context_length");
    let rope_scaling = read_scaling(&mut keys, max_sequence_length);
    let mlp_width = keys.required("feed_forward_length");
    let n_kv_heads = keys.whole("attention.head_count_kv").filter(|count| *count != n_heads);
    let used = used_tokens(metadata).unwrap_or(shapes.rows).min(shapes.rows);
    let id = |key: &str| metadata.get(key).and_then(GgufValue::as_u64).and_then(|id| u32::try_from(id).ok());
    let mut eos_token_ids = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        eos_token_ids.extend(id(key).filter(|id| !eos_token_ids.contains(id)));
    }
    let read = &keys.read;
    let mut unknown = Vec::new();
    for (key, value) in metadata.iter() {
        if let Some(own) = key.strip_prefix(&format!("{}.", keys.prefix)).filter(|own| !read.contains(own)) {
            unknown.push(format!("`{}.{}` is {}, which is not known", keys.prefix, own.escape_debug(), value.shown()));
        }
    }
    keys.problems.extend(unknown);
    let (window, full_layers) = windows.unzip();
    let norms_after = architecture == Architecture::Olmo2;
    let config = ModelConfig {
        d_model,
        n_heads,
        n_kv_heads,
        head_dim: (head_width != usual).then_some(head_width),
        clip_qkv,
        n_layers,
        mlp_hidden_size: mlp_width.saturating_mul(2),
        layer_norm_type: if is_olmo1 { LayerNormType::Default } else { LayerNormType::Rms },
        layer_norm_with_affine: !is_olmo1,
        layer_norm_eps,
        attention_layer_norm: norms_after,
        norm_after: norms_after,
        sliding_window: window,
        full_attention_every: None,
        full_attention_layers: full_layers,
        rope_theta,
        sliding_rope_theta: sliding_theta.filter(|theta| *theta != rope_theta),
        rope_scaling,
        max_sequence_length,
        vocab_size: used,
        embedding_size: (used != shapes.rows).then_some(shapes.rows),
        weight_tying: !shapes.has_head,
        eos_token_ids,
        pad_token_id: id("tokenizer.ggml.padding_token_id"),
        init_fn: InitFnType::Normal,
        init_std: 0.02,
        init_cutoff_factor: None,
    };
    if keys.problems.is_empty() { Ok((architecture, config)) } else { Err(keys.problems) }
}

/// Number of tokens before those at the end that no text has.
fn used_tokens(metadata: &Metadata) -> Option<usize> {
    let GgufValue::Int32s(types) = metadata.get("tokenizer.ggml.token_type")? else { return None };
    let unused = types.iter().rev().take_while(|kind| **kind == UNUSED).count();
    Some(types.len() - unused).filter(|used| *used > 0)
}

/// The size of the window, and the blocks without one.
fn read_windows(keys: &mut Keys<'_>, layers: usize) -> Option<(usize, Vec<usize>)> {
    let size = keys.whole("attention.sliding_window").filter(|size| *size > 0);
    let pattern = keys.value("attention.sliding_window_pattern");
    let size = size?;
    match pattern {
        Some(GgufValue::Bools(slides)) if slides.len() == layers => {
            Some((size, (0..layers).filter(|layer| !slides[*layer]).collect()))
        }
        // Without a pattern, llama.cpp gives every fourth block of this architecture full attention.
        None => Some((size, (0..layers.min(1 << 12)).filter(|layer| layer % 4 == 3).collect())),
        Some(other) => {
            keys.wrong("attention.sliding_window_pattern", other, &format!("not a list of {layers} bools"));
            None
        }
    }
}

fn read_scaling(keys: &mut Keys<'_>, max_length: usize) -> Option<RopeScaling> {
    let kind = keys.value("rope.scaling.type");
    let factor = keys.number("rope.scaling.factor");
    let length = keys.whole("rope.scaling.original_context_length");
    let [fast, slow] = [keys.number("rope.scaling.yarn_beta_fast"), keys.number("rope.scaling.yarn_beta_slow")];
    let attention = keys.number("rope.scaling.yarn_attn_factor").or(keys.number("rope.scaling.attn_factor"));
    keys.value("rope.scaling.finetuned");
    keys.expect("rope.scaling.yarn_ext_factor", |value| value.as_f64() == Some(1.0), "not 1");
    let is_scaled = factor.is_some_and(|factor| factor != 1.0 && factor != 0.0);
    match kind.map(|kind| kind.as_str().unwrap_or("")) {
        Some("yarn") => Some(RopeScaling {
            factor: factor.unwrap_or(1.0),
            beta_fast: fast.unwrap_or(32.0),
            beta_slow: slow.unwrap_or(1.0),
            old_context_len: length.unwrap_or(max_length),
            attention_factor: attention,
        }),
        None | Some("none") => None,
        Some("linear") if !is_scaled => None,
        _ => {
            if let Some(kind) = kind {
                keys.wrong("rope.scaling.type", kind, "and only \"none\" and \"yarn\" are supported");
            }
            None
        }
    }
}

/// The keys that describe `config`, in the order of llama.cpp's converter. `file_type` is its number
/// for the type of most tensors.
pub(super) fn describe(architecture: Architecture, config: &ModelConfig, parameters: u64, file_type: u32) -> Metadata {
    let mut metadata = Metadata::default();
    let prefix = architecture.name();
    let label = size_label(parameters);
    let text = |text: &str| GgufValue::String(text.to_owned());
    metadata.push(ARCHITECTURE, text(prefix));
    metadata.push("general.type", text("model"));
    metadata.push("general.name", GgufValue::String(format!("{prefix} {label}")));
    metadata.push("general.size_label", GgufValue::String(label));
    let mut own = |key: &str, value: GgufValue| metadata.push(format!("{prefix}.{key}"), value);
    let whole = |number: usize| GgufValue::Uint32(u32::try_from(number).unwrap_or(u32::MAX));
    let number = |number: f64| GgufValue::Float32(number as f32);
    own("block_count", whole(config.n_layers));
    own("context_length", whole(config.max_sequence_length));
    own("embedding_length", whole(config.d_model));
    own("feed_forward_length", whole(config.mlp_width()));
    own("attention.head_count", whole(config.n_heads));
    own("attention.head_count_kv", whole(config.kv_heads()));
    if let Some(scaling) = &config.rope_scaling {
        own("rope.scaling.type", text("yarn"));
        own("rope.scaling.factor", number(scaling.factor));
        own("rope.scaling.original_context_length", whole(scaling.old_context_len));
        if let Some(factor) = scaling.attention_factor {
            own("rope.scaling.yarn_attn_factor", number(factor));
        }
        own("rope.scaling.yarn_beta_fast", number(scaling.beta_fast));
        own("rope.scaling.yarn_beta_slow", number(scaling.beta_slow));
    }
    own("rope.freq_base", number(config.rope_theta));
    if config.sliding_window.is_some() {
        own("rope.freq_base_swa", number(config.sliding_rope_theta.unwrap_or(config.rope_theta)));
    }
    if architecture == Architecture::Olmo2 {
        own("attention.layer_norm_rms_epsilon", number(config.layer_norm_eps));
    }
    if let Some(width) = config.head_dim {
        own("attention.key_length", whole(width));
        own("attention.value_length", whole(width));
    }
    metadata.push("general.file_type", GgufValue::Uint32(file_type));
    let mut own = |key: &str, value: GgufValue| metadata.push(format!("{prefix}.{key}"), value);
    if architecture == Architecture::Olmo {
        own("attention.layer_norm_epsilon", number(config.layer_norm_eps));
        if let Some(clip) = config.clip_qkv {
            own("attention.clamp_kqv", number(clip));
        }
    }
    if let Some(window) = config.sliding_window {
        own("attention.sliding_window", whole(window));
        let slides = (0..config.n_layers).map(|layer| config.window(layer).is_some()).collect();
        own("attention.sliding_window_pattern", GgufValue::Bools(slides));
    }
    metadata.push("general.quantization_version", GgufValue::Uint32(2));
    metadata
}

/// The number of parameters as in `7B` or `190M`: two digits at least.
fn size_label(parameters: u64) -> String {
    let count = parameters as f64;
    let (scaled, unit) = match parameters {
        count_of if count_of > 1_000_000_000_000 => (count * 1e-12, "T"),
        count_of if count_of > 1_000_000_000 => (count * 1e-9, "B"),
        count_of if count_of > 1_000_000 => (count * 1e-6, "M"),
        _ => (count * 1e-3, "K"),
    };
    let whole = format!("{scaled:.0}");
    let digits = whole.trim_start_matches('0').len();
    let decimals = 2usize.saturating_sub(digits);
    format!("{scaled:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits() {
        let labels = [38_784, 7_300_000_000, 1_234_567_890, 190_000_000, 999].map(size_label);
        assert_eq!(labels, ["39K", "7.3B", "1.2B", "190M", "1.0K"]);
    }
}
