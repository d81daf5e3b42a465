//! OLMo-core's `config.json`.
//!
//! Every key of `model` is understood, known not to change the logits, or reported by name.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::config::{InitFnType, LayerNormType, ModelConfig, RopeScaling};

/// What a block computes. All blocks must be equal but for their windows and ropes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Block {
    n_heads: usize,
    n_kv_heads: Option<usize>,
    head_dim: Option<usize>,
    clip_qkv: Option<f64>,
    qk_norm: Option<f64>,
    rope: Rope,
    norm: Norm,
    mlp_width: usize,
    norm_after: bool,
    windows: Option<Windows>,
}

/// A rotary position embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rope {
    theta: f64,
    scaling: Option<RopeScaling>,
}

/// A norm: whether it is RMS, its eps, and whether it has a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Norm {
    rms: bool,
    eps: f64,
    affine: bool,
}

/// Which blocks have a window: OLMo-core's `SlidingWindowAttentionConfig`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Windows {
    pattern: Vec<i64>,
    full_first: bool,
    full_last: bool,
}

impl Windows {
    /// The window of block `layer` of `layers`, if it has one.
    fn of(&self, layer: usize, layers: usize) -> Option<i64> {
        if (self.full_first && layer == 0) || (self.full_last && layer + 1 == layers) {
            return None;
        }
        // After a first block that is full anyway, the pattern starts at the second.
        let place = layer - usize::from(self.full_first);
        self.pattern.get(place % self.pattern.len().max(1)).copied().filter(|window| *window != -1)
    }
}

/// Default eps of a norm, as in PyTorch and OLMo-core.
const DEFAULT_EPS: f64 = 1e-5;

/// Requires `bias: false`. Without a value, OLMo-core has biases.
fn no_bias(fields: &mut Fields<'_>) {
    if fields.flag("bias") != Some(false) {
        fields.problem("bias", "must be false: biases are not supported");
    }
}

fn norm(mut fields: Fields<'_>, problems: &mut Vec<String>) -> Norm {
    let rms = matches!(fields.text("name"), Some("rms" | "fused_rms" | "cute_rms"));
    fields.only("name", &["default", "rms", "fused_rms", "cute_rms"].map(Value::from));
    let norm = Norm {
        rms,
        eps: fields.number("eps").unwrap_or(DEFAULT_EPS),
        affine: fields.flag("elementwise_affine").unwrap_or(true),
    };
    // Without a weight there is no bias either, whatever its default.
    if norm.affine {
        no_bias(&mut fields);
    }
    fields.harmless(&["bias", "dtype", "full_precision"]);
    fields.finish(problems);
    norm
}

fn rope(mut fields: Fields<'_>, problems: &mut Vec<String>) -> Rope {
    fields.only("name", &["default", "fused", "complex"].map(Value::from));
    fields.only("no_global_rope", &[json!(false)]);
    fields.only("partial_rotary_factor", &[json!(1)]);
    fields.harmless(&["full_precision"]);
    let mut inner = Vec::new();
    let scaling = fields.object("scaling").map(|scaling_fields| scaling(scaling_fields, &mut inner));
    let rope = Rope { theta: fields.number("theta").unwrap_or(500_000.0), scaling };
    fields.problems.append(&mut inner);
    fields.finish(problems);
    rope
}

/// YaRN: OLMo-core's `YaRNRoPEScalingConfig`.
fn scaling(mut fields: Fields<'_>, problems: &mut Vec<String>) -> RopeScaling {
    let default = RopeScaling::default();
    let class = fields.class();
    if class.is_none_or(|class| !class.ends_with("YaRNRoPEScalingConfig")) {
        fields.problem("_CLASS_", "is not YaRN (YaRNRoPEScalingConfig), the only scaling that is supported");
    }
    let scaling = RopeScaling {
        factor: fields.number("factor").unwrap_or(default.factor),
        beta_fast: fields.number("beta_fast").unwrap_or(default.beta_fast),
        beta_slow: fields.number("beta_slow").unwrap_or(default.beta_slow),
        old_context_len: fields.size("old_context_len").unwrap_or(default.old_context_len),
        attention_factor: None,
    };
    fields.finish(problems);
    scaling
}

fn windows(mut fields: Fields<'_>, problems: &mut Vec<String>) -> Windows {
    let pattern = fields.value("pattern").and_then(Value::as_array).cloned().unwrap_or_default();
    let numbers: Option<Vec<i64>> = pattern.iter().map(Value::as_i64).collect();
    let numbers = numbers.filter(|numbers| !numbers.is_empty() && numbers.iter().all(|n| *n == -1 || *n > 0));
    if numbers.is_none() {
        fields.problem("pattern", "is not a list of windows, each -1 or above 0");
    }
    let windows = Windows {
        pattern: numbers.unwrap_or_default(),
        full_first: fields.flag("force_full_attention_on_first_layer").unwrap_or(true),
        full_last: fields.flag("force_full_attention_on_last_layer").unwrap_or(true),
    };
    fields.finish(problems);
    windows
}

fn attention(mut fields: Fields<'_>, block: &mut Block, problems: &mut Vec<String>) {
    fields.only("name", &["default", "fused"].map(Value::from));
    fields.only("type", &[json!("attention")]);
    block.n_heads = fields.required("n_heads", Fields::size);
    block.n_kv_heads = fields.size("n_kv_heads");
    block.head_dim = fields.size("head_dim");
    block.clip_qkv = fields.number("clip_qkv");
    no_bias(&mut fields);
    for key in ["use_head_qk_norm", "scalable_softmax", "qk_norm_per_head_gains", "attention_sinks"] {
        fields.only(key, &[json!(false)]);
    }
    fields.harmless(&["dropout", "use_flash", "backend", "dtype", "use_recompute_qkv_prep"]);
    let mut inner = Vec::new();
    match fields.object("rope") {
        Some(rope_fields) => block.rope = rope(rope_fields, &mut inner),
        None => fields.problem("rope", "is missing"),
    }
    if let Some(norm_fields) = fields.object("qk_norm") {
        let qk_norm = norm(norm_fields, &mut inner);
        if !qk_norm.rms || !qk_norm.affine {
            fields.problem("qk_norm", "must be an RMSNorm with a weight");
        }
        block.qk_norm = Some(qk_norm.eps);
    }
    block.windows = fields.object("sliding_window").map(|windows_fields| windows(windows_fields, &mut inner));
    fields.problems.append(&mut inner);
    fields.finish(problems);
}

fn block(mut fields: Fields<'_>, problems: &mut Vec<String>) -> Block {
    let mut block = Block::default();
    let mut inner = Vec::new();
    block.norm_after = fields.text("name") == Some("reordered_norm");
    fields.only("name", &["default", "reordered_norm"].map(Value::from));
    // `attention` before OLMo-core 3.
    match fields.object("sequence_mixer").or_else(|| fields.object("attention")) {
        Some(attention_fields) => attention(attention_fields, &mut block, &mut inner),
        None => fields.problem("sequence_mixer", "is missing"),
    }
    match fields.object("layer_norm") {
        Some(norm_fields) => block.norm = norm(norm_fields, &mut inner),
        None => fields.problem("layer_norm", "is missing"),
    }
    match fields.object("feed_forward") {
        Some(mut mlp) => {
            block.mlp_width = mlp.required("hidden_size", Fields::size);
            mlp.only("name", &[json!("default")]);
            mlp.only("activation", &[json!("silu")]);
            no_bias(&mut mlp);
            mlp.harmless(&["dtype"]);
            mlp.finish(&mut inner);
        }
        None => fields.problem("feed_forward", "is missing"),
    }
    fields.only("attention_residual_alpha", &[json!(1)]);
    fields.only("feed_forward_residual_alpha", &[json!(1)]);
    fields.harmless(&["dropout"]);
    fields.problems.append(&mut inner);
    fields.finish(problems);
    block
}

/// The windows of all blocks in the terms of [`ModelConfig`]; `None` if they differ in size.
fn window_of(windows: &Windows, layers: usize) -> Option<FullAttention> {
    let all: Vec<Option<i64>> = (0..layers).map(|layer| windows.of(layer, layers)).collect();
    let Some(window) = all.iter().flatten().next() else { return Some(FullAttention::default()) };
    if all.iter().flatten().any(|other| other != window) {
        return None;
    }
    let window = usize::try_from(*window).ok();
    let full: Vec<usize> = (0..layers).filter(|&layer| all[layer].is_none()).collect();
    let every = full.first().map(|first| first + 1);
    let expected = |every: usize| (0..layers).filter(|layer| (layer + 1).is_multiple_of(every)).collect::<Vec<_>>();
    Some(match every {
        Some(every) if expected(every) != full => FullAttention { window, every: None, layers: Some(full) },
        every => FullAttention { window, every, layers: None },
    })
}

/// A window, and the blocks without it.
#[derive(Clone, Debug, Default, PartialEq)]
struct FullAttention {
    window: Option<usize>,
    every: Option<usize>,
    layers: Option<Vec<usize>>,
}

/// The rope of blocks with full attention, and the base of those with a window.
fn ropes_of(ropes: &[Rope], windowed: &[bool], problems: &mut Vec<String>) -> (Rope, f64) {
    let of = |wanted: bool| ropes.iter().zip(windowed).filter(move |(_, is)| **is == wanted).map(|(rope, _)| *rope);
    let first = |wanted: bool| of(wanted).next();
    for wanted in [true, false] {
        if of(wanted).any(|rope| Some(rope) != first(wanted)) {
            problems.push("`model.block_overrides`: the ropes of blocks with the same kind of attention differ".into());
        }
    }
    if of(true).any(|rope| rope.scaling.is_some()) {
        problems.push("`model`: blocks with a sliding window have a scaled rope; only full attention is scaled".into());
    }
    let full = first(false).or(first(true)).unwrap_or_default();
    (full, first(true).unwrap_or(full).theta)
}

/// The model that the fields of a `config.json` describe.
///
/// # Errors
/// Every key that is missing, wrong or not supported.
pub(super) fn understand(root: &Map<String, Value>) -> Result<ModelConfig, Vec<String>> {
    let mut problems = Vec::new();
    let mut root = Fields::new(root);
    let Some(mut model) = root.object("model") else {
        root.problem("model", "is missing: this is no config of OLMo-core");
        return Err(root.problems);
    };
    let layers = model.required("n_layers", Fields::size);
    let d_model = model.required("d_model", Fields::size);
    let rows = model.required("vocab_size", Fields::size);
    model.only("name", &[json!("default")]);
    model.only("embed_scale", &[json!(1)]);
    model.harmless(&["dtype", "init_method", "init_seed", "embedding_init_std", "freeze_params"]);
    let init_std = model.number("init_std").unwrap_or(0.02);
    let weight_tying = model.flag("tie_word_embeddings").unwrap_or(false);
    let mut inner = Vec::new();
    let block_of = |fields: Option<Fields<'_>>, inner: &mut Vec<String>| fields.map(|fields| block(fields, inner));
    let base = block_of(model.object("block"), &mut inner).unwrap_or_default();
    let mut ropes = vec![base.rope; layers.min(1 << 12)];
    if let Some(mut overrides) = model.object("block_overrides") {
        for key in overrides.keys() {
            let Some(other) = block_of(overrides.object(key), &mut inner) else { continue };
            if (Block { rope: base.rope, ..other.clone() }) != base {
                overrides.problem(key, "differs from `model.block` in more than the rope");
            }
            match key.parse::<usize>().ok().and_then(|layer| ropes.get_mut(layer)) {
                Some(rope) => *rope = other.rope,
                None => overrides.problem(key, "is not the number of a block"),
            }
        }
        overrides.finish(&mut inner);
    }
    let mut head_norm = Norm::default();
    match model.object("lm_head") {
        Some(mut head) => {
            head.only("name", &[json!("default")]);
            no_bias(&mut head);
            head.harmless(&["dtype", "loss_implementation"]);
            match head.object("layer_norm") {
                Some(norm_fields) => head_norm = norm(norm_fields, &mut inner),
                None => head.problem("layer_norm", "is missing"),
            }
            head.finish(&mut inner);
        }
        None => model.problem("lm_head", "is missing"),
    }
    model.problems.append(&mut inner);
    model.finish(&mut problems);
    let full = match &base.windows {
        None => FullAttention::default(),
        Some(windows) => window_of(windows, ropes.len()).unwrap_or_else(|| {
            problems.push("`model.block.sequence_mixer.sliding_window`: blocks have windows of several sizes".into());
            FullAttention::default()
        }),
    };
    let has_window = |layer| base.windows.as_ref().is_some_and(|windows| windows.of(layer, layers).is_some());
    let windowed: Vec<bool> = (0..ropes.len()).map(has_window).collect();
    let (rope, sliding_theta) = ropes_of(&ropes, &windowed, &mut problems);
    let other_norms = head_norm != base.norm || base.qk_norm.is_some_and(|eps| eps != base.norm.eps);
    if problems.is_empty() && other_norms {
        problems.push("the norms of `model` differ in kind or eps".into());
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut dataset = root.object("dataset");
    let mut tokenizer = dataset.as_mut().and_then(|dataset| dataset.object("tokenizer"));
    let vocabulary = tokenizer.as_mut().and_then(|tokenizer| tokenizer.size("vocab_size")).unwrap_or(rows);
    let mut train = root.object("train_module");
    let longest = train.as_mut().and_then(|train| train.size("max_sequence_length"));
    let longest = longest.or_else(|| dataset.as_mut()?.size("sequence_length"));
    Ok(ModelConfig {
        d_model,
        n_heads: base.n_heads,
        n_kv_heads: base.n_kv_heads.filter(|heads| *heads != base.n_heads),
        head_dim: base.head_dim.filter(|width| width.checked_mul(base.n_heads) != Some(d_model)),
        clip_qkv: base.clip_qkv,
        n_layers: layers,
        mlp_hidden_size: base.mlp_width.saturating_mul(2),
        layer_norm_type: if base.norm.rms { LayerNormType::Rms } else { LayerNormType::Default },
        layer_norm_with_affine: base.norm.affine,
        layer_norm_eps: base.norm.eps,
        attention_layer_norm: base.qk_norm.is_some(),
        norm_after: base.norm_after,
        sliding_window: full.window,
        full_attention_every: full.every,
        full_attention_layers: full.layers,
        rope_theta: rope.theta,
        sliding_rope_theta: Some(sliding_theta).filter(|theta| *theta != rope.theta),
        rope_scaling: rope.scaling,
        max_sequence_length: longest.unwrap_or(4096),
        vocab_size: vocabulary,
        embedding_size: Some(rows).filter(|rows| *rows != vocabulary),
        weight_tying,
        eos_token_ids: tokenizer.as_mut().and_then(|tokenizer| tokenizer.id("eos_token_id")).into_iter().collect(),
        pad_token_id: tokenizer.as_mut().and_then(|tokenizer| tokenizer.id("pad_token_id")),
        init_fn: InitFnType::Normal,
        init_std,
        init_cutoff_factor: None,
    })
}

/// The `config.json` of a model, as OLMo-core's `ConfigSaverCallback` writes it, without the
/// sections about training.
pub(super) fn describe(config: &ModelConfig) -> Value {
    let norm = |affine: bool| {
        let rms = config.layer_norm_type == LayerNormType::Rms;
        let mut norm = json!({
            "name": if rms { "rms" } else { "default" },
            "eps": config.layer_norm_eps,
            "bias": false,
            "dtype": "float32",
            "_CLASS_": "olmo_core.nn.layer_norm.LayerNormConfig",
        });
        if !affine {
            norm["elementwise_affine"] = json!(false);
        }
        norm
    };
    let rope = rope_of(config, config.sliding_window.is_some());
    let mut attention = json!({
        "name": "default",
        "type": "attention",
        "n_heads": config.n_heads,
        "n_kv_heads": config.kv_heads(),
        "bias": false,
        "rope": rope,
        "dtype": "float32",
        "_CLASS_": "olmo_core.nn.attention.AttentionConfig",
    });
    if let Some(width) = config.head_dim {
        attention["head_dim"] = json!(width);
    }
    if config.attention_layer_norm {
        attention["qk_norm"] = norm(true);
    }
    if let Some(clip) = config.clip_qkv {
        attention["clip_qkv"] = json!(clip);
    }
    if config.sliding_window.is_some() {
        let window = |layer: usize| config.window(layer).map_or(json!(-1), |window| json!(window));
        // As short as it can be: OLMo-core repeats it.
        let length = config.full_attention_every.filter(|_| config.full_attention_layers.is_none());
        attention["sliding_window"] = json!({
            "pattern": (0..length.unwrap_or(config.n_layers).min(config.n_layers)).map(window).collect::<Vec<_>>(),
            "force_full_attention_on_first_layer": false,
            "force_full_attention_on_last_layer": false,
            "_CLASS_": "olmo_core.nn.attention.SlidingWindowAttentionConfig",
        });
    }
    let affine = config.layer_norm_with_affine;
    let block = json!({
        "sequence_mixer": attention,
        "layer_norm": norm(affine),
        "feed_forward": {
            "hidden_size": config.mlp_width(),
            "name": "default",
            "bias": false,
            "activation": "silu",
            "_CLASS_": "olmo_core.nn.feed_forward.FeedForwardConfig",
        },
        "name": if config.norm_after { "reordered_norm" } else { "default" },
        "_CLASS_": "olmo_core.nn.transformer.config.TransformerBlockConfig",
    });
    let mut root = json!({
        "model": {
            "d_model": config.d_model,
            "vocab_size": config.embedding_rows(),
            "n_layers": config.n_layers,
            "block": block,
            "lm_head": {
                "name": "default",
                "layer_norm": norm(affine),
                "bias": false,
                "dtype": "float32",
                "loss_implementation": "default",
                "_CLASS_": "olmo_core.nn.lm_head.LMHeadConfig",
            },
            "name": "default",
            "dtype": "float32",
            "init_method": "normal",
            "init_seed": 0,
            "init_std": config.init_std,
            "tie_word_embeddings": config.weight_tying,
            "_CLASS_": "olmo_core.nn.transformer.config.TransformerConfig",
        },
        "dataset": {
            "tokenizer": {
                "vocab_size": config.vocab_size,
                "eos_token_id": config.eos_token_id(),
                "pad_token_id": config.pad_token_id,
                "_CLASS_": "olmo_core.data.tokenizer.TokenizerConfig",
            },
            "sequence_length": config.max_sequence_length,
        },
    });
    let full: Vec<usize> = (0..config.n_layers).filter(|layer| config.window(*layer).is_none()).collect();
    let same = rope_of(config, true) == rope_of(config, false);
    if config.sliding_window.is_some() && !same && !full.is_empty() {
        let mut other = block;
        other["sequence_mixer"]["rope"] = rope_of(config, false);
        let overrides: Map<String, Value> = full.iter().map(|layer| (layer.to_string(), other.clone())).collect();
        root["model"]["block_overrides"] = overrides.into();
    }
    root
}

/// The rope of blocks with a window, or of those with full attention.
fn rope_of(config: &ModelConfig, windowed: bool) -> Value {
    let theta = if windowed { config.sliding_rope_theta.unwrap_or(config.rope_theta) } else { config.rope_theta };
    let mut rope = json!({
        "name": "default",
        "theta": theta,
        "full_precision": true,
        "_CLASS_": "olmo_core.nn.rope.RoPEConfig",
    });
    // OLMo-core's theta is an int.
    if theta.fract() == 0.0 && theta < 1e15 {
        rope["theta"] = json!(theta as u64);
    }
    if let Some(scaling) = config.rope_scaling.filter(|_| !windowed) {
        rope["scaling"] = json!({
            "factor": scaling.factor,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "old_context_len": scaling.old_context_len,
            "_CLASS_": "olmo_core.nn.rope.YaRNRoPEScalingConfig",
        });
    }
    rope
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_olmo_core() {
        let pattern =
            |pattern: &[i64], full_first, full_last| Windows { pattern: pattern.to_vec(), full_first, full_last };
        let full = |window, every, layers: Option<&[usize]>| {
            Some(FullAttention { window, every, layers: layers.map(<[usize]>::to_vec) })
        };
        let olmo3 = pattern(&[8, 8, 8, -1], false, true);
        assert_eq!(window_of(&olmo3, 8), full(Some(8), Some(4), None));
        // Six blocks: the last one is full as well, which is no fourth block.
        assert_eq!(window_of(&olmo3, 6), full(Some(8), None, Some(&[3, 5])));
        assert_eq!(window_of(&pattern(&[8], false, false), 4), full(Some(8), None, None));
        assert_eq!(window_of(&pattern(&[-1], true, true), 4), full(None, None, None));
        assert_eq!(window_of(&pattern(&[8, 9], false, false), 4), None);
        let shifted = pattern(&[8, 9], true, false);
        assert_eq!((0..4).map(|layer| shifted.of(layer, 4)).collect::<Vec<_>>(), [None, Some(8), Some(9), Some(8)]);
    }
}
