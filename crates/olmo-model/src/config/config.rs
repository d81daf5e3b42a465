//! The architecture of a model, under OLMo's own field names.

use olmo_ops::{BlockConfig, Norm, NormKind, RopeConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rope_scaling::RopeScaling;
use super::token_ids;
use crate::error::ModelError;

/// The type of all norms of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayerNormType {
    /// LayerNorm: mean and variance.
    Default,
    /// RMSNorm: no mean.
    Rms,
}

/// How new weights are initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitFnType {
    /// All matrices use `init_std`.
    Normal,
    /// 1/sqrt(d), with output projections smaller in deeper layers (OLMo 1).
    Mitchell,
}

/// A model's architecture and initialisation, as in the `model` section of an OLMo config.
///
/// A field with OLMo's name has OLMo's meaning and, if it has a default, OLMo's default (class
/// `ModelConfig` of `olmo/config.py`, whose defaults are those of GPT-2). Options of OLMo that no
/// OLMo model uses (biases, ALiBi, dropout, …) do not exist: a model always has rotary position
/// embeddings and SwiGLU, and never a bias.
///
/// The descriptions are also those of the params of stage `train` (see [`super::ModelParams`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of the residual stream.
    #[schemars(range(min = 1))]
    pub d_model: usize,
    /// Number of attention heads.
    #[schemars(range(min = 1))]
    pub n_heads: usize,
    /// Number of key and value heads; null: same as `n_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub n_kv_heads: Option<usize>,
    /// Width of a head, an even number (OLMo-core's name); null: `d_model / n_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub head_dim: Option<usize>,
    /// Clamps queries, keys and values to the range from minus to plus this value; null: no
    /// clamping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_qkv: Option<f64>,
    /// Number of transformer blocks.
    #[schemars(range(min = 1))]
    pub n_layers: usize,
    /// Width of the fused up and gate projection: twice the MLP's inner width.
    #[schemars(range(min = 2))]
    pub mlp_hidden_size: usize,
    /// Type of all norms: `rms` (OLMo 2) or `default`, a LayerNorm (OLMo 1).
    #[serde(default = "defaults::layer_norm_type")]
    #[schemars(with = "String", extend("enum" = ["default", "rms"]))]
    pub layer_norm_type: LayerNormType,
    /// Whether the norms in blocks and the final norm have a weight (QK-norms always do).
    #[serde(default = "defaults::yes")]
    pub layer_norm_with_affine: bool,
    /// Epsilon added to the variance in every norm.
    #[serde(default = "defaults::layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Normalises queries and keys over their full width, before the split into heads (QK-norm).
    #[serde(default)]
    pub attention_layer_norm: bool,
    /// Normalises the outputs of attention and MLP (OLMo 2) instead of their inputs (OLMo 1).
    #[serde(default)]
    pub norm_after: bool,
    /// Sliding-window size in tokens, including the token itself (OLMo 3); null: full attention in
    /// every block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub sliding_window: Option<usize>,
    /// With `sliding_window`, every N-th block uses full attention (OLMo 3: 4); null: no block
    /// does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub full_attention_every: Option<usize>,
    /// With `sliding_window`, blocks that use full attention, by number from 0, in addition to those
    /// of `full_attention_every`; null: no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_attention_layers: Option<Vec<usize>>,
    /// Base of the rotary position embeddings.
    #[serde(default = "defaults::rope_theta")]
    pub rope_theta: f64,
    /// Base of the rotary position embeddings in blocks with a sliding window; null: same as
    /// `rope_theta`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_rope_theta: Option<f64>,
    /// YaRN: scales the positions in blocks with full attention, for sequences longer than those of
    /// pretraining (OLMo-core's names and defaults); null: no scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RopeScaling", extend("type" = ["object", "null"]))]
    pub rope_scaling: Option<RopeScaling>,
    /// Maximum sequence length in tokens; null: the row length of the data.
    // 0 if a new model's data are not known yet. OLMo's default, 1024, is never used.
    #[serde(default)]
    pub max_sequence_length: usize,
    /// Number of token ids. 0 if a new model's data are not known yet.
    #[serde(default)]
    pub vocab_size: usize,
    /// Number of embedding rows, at least the vocabulary size; null: exactly the vocabulary size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub embedding_size: Option<usize>,
    /// Shares the weights of the embedding and the output head.
    #[serde(default = "defaults::yes")]
    pub weight_tying: bool,
    /// Ids that end a document or an answer, the one that ends documents first. Written as
    /// `eos_token_id`: a number, or a list if there are several.
    #[serde(rename = "eos_token_id", default, with = "token_ids", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "token_ids::schema")]
    pub eos_token_ids: Vec<u32>,
    /// Id for padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<u32>,
    /// Initialisation of new weights: `normal` (`init_std` everywhere) or `mitchell` (OLMo 1;
    /// smaller with depth).
    #[serde(default = "defaults::init_fn")]
    #[schemars(with = "String", extend("enum" = ["normal", "mitchell"]))]
    pub init_fn: InitFnType,
    /// Standard deviation of new weights (`init_fn: normal`).
    #[serde(default = "defaults::init_std")]
    pub init_std: f64,
    /// Truncates the distribution of new weights at this many standard deviations; null: no
    /// truncation (`normal`) or 3 (`mitchell`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_cutoff_factor: Option<f64>,
}

/// OLMo's defaults.
mod defaults {
    use super::{InitFnType, LayerNormType};

    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn layer_norm_type() -> LayerNormType {
        LayerNormType::Default
    }
    pub(super) fn layer_norm_eps() -> f64 {
        1e-5
    }
    pub(super) fn rope_theta() -> f64 {
        10_000.0
    }
    pub(super) fn init_fn() -> InitFnType {
        InitFnType::Normal
    }
    pub(super) fn init_std() -> f64 {
        0.02
    }
}

impl ModelConfig {
    /// Number of key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.n_kv_heads.unwrap_or(self.n_heads)
    }

    /// Width of one head.
    pub fn head_width(&self) -> usize {
        self.head_dim.or(self.d_model.checked_div(self.n_heads)).unwrap_or(0)
    }

    /// Width of all queries of a token.
    pub fn query_width(&self) -> usize {
        self.n_heads.saturating_mul(self.head_width())
    }

    /// Width of all keys (or all values) of a token.
    pub fn kv_width(&self) -> usize {
        self.kv_heads().saturating_mul(self.head_width())
    }

    /// All norms, as configs for the operations.
    pub fn norm(&self) -> Norm {
        let kind = match self.layer_norm_type {
            LayerNormType::Default => NormKind::Layer,
            LayerNormType::Rms => NormKind::Rms,
        };
        Norm { kind, eps: self.layer_norm_eps as f32 }
    }

    /// Block `layer` as a config for the operations.
    pub fn block(&self, layer: usize) -> BlockConfig {
        BlockConfig {
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_kv_heads: self.kv_heads(),
            head_dim: self.head_width(),
            rope: self.rope(layer),
            mlp_width: self.mlp_width(),
            clip_qkv: self.clip_qkv.map(|clip| clip as f32),
            norm: self.norm(),
            norm_after: self.norm_after,
            qk_norm: self.attention_layer_norm,
            window: self.window(layer),
        }
    }

    /// The rotary position embedding of block `layer`: only full attention is scaled, because a
    /// window is never longer than the sequences of pretraining.
    fn rope(&self, layer: usize) -> RopeConfig {
        if self.window(layer).is_some() {
            return RopeConfig::new(self.sliding_rope_theta.unwrap_or(self.rope_theta));
        }
        let plain = RopeConfig::new(self.rope_theta);
        self.rope_scaling.map_or(plain, |scaling| scaling.apply(plain))
    }

    /// The window of block `layer` (from 0), if it has one.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let is_full = self.full_attention_every.is_some_and(|every| (layer + 1).is_multiple_of(every))
            || self.full_attention_layers.as_ref().is_some_and(|layers| layers.contains(&layer));
        self.sliding_window.filter(|_| !is_full)
    }

    /// The MLP's inner width: half of `mlp_hidden_size`.
    pub fn mlp_width(&self) -> usize {
        self.mlp_hidden_size / 2
    }

    /// Number of rows of the embedding and of the head.
    pub fn embedding_rows(&self) -> usize {
        self.embedding_size.unwrap_or(self.vocab_size)
    }

    /// The id that ends a document: the first of `eos_token_ids`.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_ids.first().copied()
    }

    /// Every reason why this config is invalid; empty if it is valid.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, message: String| {
            if !holds {
                problems.push(message);
            }
        };
        let sizes = [
            ("d_model", self.d_model, 1 << 20),
            ("n_heads", self.n_heads, 1 << 20),
            ("n_layers", self.n_layers, 1 << 12),
            ("mlp_hidden_size", self.mlp_hidden_size, 1 << 22),
            ("max_sequence_length", self.max_sequence_length, 1 << 24),
        ];
        // The upper bounds keep every product of sizes far from overflow.
        for (name, value, most) in sizes {
            require(value > 0, format!("`{name}` must be greater than 0"));
            require(value <= most, format!("`{name}` is {value}, more than the {most} that is supported"));
        }
        require(self.vocab_size > 0, "`vocab_size` must be greater than 0".into());
        for (name, value) in [("vocab_size", self.vocab_size), ("embedding_size", self.embedding_rows())] {
            require(value <= 1 << 24, format!("`{name}` is {value}, more than the {} that is supported", 1 << 24));
        }
        match self.head_dim {
            Some(width) => require(
                width > 0 && width.is_multiple_of(2),
                format!("`head_dim` ({width}) must be even and greater than 0: rotary embedding works on pairs"),
            ),
            None if self.n_heads > 0 => {
                require(
                    self.d_model.is_multiple_of(self.n_heads),
                    format!(
                        "`d_model` ({}) must be a multiple of `n_heads` ({}), unless `head_dim` is set",
                        self.d_model, self.n_heads
                    ),
                );
                require(
                    !self.d_model.is_multiple_of(self.n_heads) || self.head_width().is_multiple_of(2),
                    format!(
                        "`d_model / n_heads` ({}) must be even: rotary embedding works on pairs",
                        self.head_width()
                    ),
                );
            }
            None => {}
        }
        require(
            self.query_width() <= 1 << 20,
            format!(
                "`n_heads` times the width of a head is {}, more than the {} that is supported",
                self.query_width(),
                1 << 20
            ),
        );
        let kv = self.kv_heads();
        require(
            kv > 0 && self.n_heads.is_multiple_of(kv.max(1)),
            format!("`n_heads` ({}) must be a multiple of `n_kv_heads` ({kv})", self.n_heads),
        );
        require(
            self.mlp_hidden_size.is_multiple_of(2),
            format!("`mlp_hidden_size` ({}) must be even: it holds up and gate", self.mlp_hidden_size),
        );
        if let Some(clip) = self.clip_qkv {
            require(clip > 0.0 && clip.is_finite(), format!("`clip_qkv` is {clip} and must be greater than 0"));
        }
        require(self.sliding_window != Some(0), "`sliding_window` must be at least 1".into());
        require(self.full_attention_every != Some(0), "`full_attention_every` must be at least 1".into());
        let of_windows = [
            ("full_attention_every", self.full_attention_every.is_some()),
            ("full_attention_layers", self.full_attention_layers.is_some()),
            ("sliding_rope_theta", self.sliding_rope_theta.is_some()),
        ];
        for (name, is_set) in of_windows {
            require(
                !is_set || self.sliding_window.is_some(),
                format!("`{name}` says nothing without `sliding_window`"),
            );
        }
        if let Some(last) = self.full_attention_layers.iter().flatten().max() {
            require(
                *last < self.n_layers,
                format!("`full_attention_layers` names block {last}, but `n_layers` is {}", self.n_layers),
            );
        }
        require(
            self.embedding_rows() >= self.vocab_size,
            format!("`embedding_size` ({}) must be at least `vocab_size` ({})", self.embedding_rows(), self.vocab_size),
        );
        require(
            self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite(),
            format!("`layer_norm_eps` is {} and must be greater than 0", self.layer_norm_eps),
        );
        let thetas = [("rope_theta", Some(self.rope_theta)), ("sliding_rope_theta", self.sliding_rope_theta)];
        for (name, theta) in thetas.into_iter().filter_map(|(name, theta)| Some((name, theta?))) {
            require(theta > 0.0 && theta.is_finite(), format!("`{name}` is {theta} and must be greater than 0"));
        }
        if let Some(scaling) = &self.rope_scaling {
            for problem in scaling.problems() {
                require(false, problem);
            }
            require(
                self.rope_theta > 1.0,
                format!("`rope_theta` is {} and must be greater than 1 with `rope_scaling`", self.rope_theta),
            );
            require(
                (0..self.n_layers.min(1 << 12)).any(|layer| self.window(layer).is_none()),
                "`rope_scaling` says nothing, because no block has full attention".into(),
            );
        }
        require(
            self.init_std > 0.0 && self.init_std.is_finite(),
            format!("`init_std` is {} and must be greater than 0", self.init_std),
        );
        if let Some(cutoff) = self.init_cutoff_factor {
            // Below a tenth, nearly every draw would be rejected.
            require(
                cutoff >= 0.1 && cutoff.is_finite(),
                format!("`init_cutoff_factor` is {cutoff} and must be at least 0.1"),
            );
        }
        let eos = self.eos_token_ids.iter().map(|id| ("eos_token_id", *id));
        for (name, id) in eos.chain(self.pad_token_id.map(|id| ("pad_token_id", id))) {
            require(
                (id as usize) < self.vocab_size,
                format!("`{name}` ({id}) must be below `vocab_size` ({})", self.vocab_size),
            );
        }
        problems
    }

    /// Checks that a model can be built from the config.
    ///
    /// # Errors
    /// [`ModelError::Config`] with every problem.
    pub fn validate(&self) -> Result<(), ModelError> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(ModelError::Config(problems)) }
    }
}
