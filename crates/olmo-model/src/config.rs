//! The architecture of a model, under OLMo's own field names.

use olmo_ops::{BlockConfig, Norm, NormKind, RopeConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
/// Options of OLMo that no OLMo model uses (biases, ALiBi, dropout, …) are not supported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of attention heads; `d_model / n_heads` must be an even integer.
    pub n_heads: usize,
    /// Number of key and value heads; if absent, same as `n_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_kv_heads: Option<usize>,
    /// Clamps queries, keys and values to the range from minus to plus this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_qkv: Option<f64>,
    /// Number of transformer blocks.
    pub n_layers: usize,
    /// Width of the fused up and gate projection: twice the MLP's inner width.
    pub mlp_hidden_size: usize,
    /// Type of all norms.
    #[serde(default = "defaults::layer_norm_type")]
    pub layer_norm_type: LayerNormType,
    /// Whether the norms in blocks and the final norm have a weight (QK-norms always do).
    #[serde(default = "defaults::yes")]
    pub layer_norm_with_affine: bool,
    /// Epsilon added to the variance in every norm.
    #[serde(default = "defaults::layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Normalises queries and keys over their full width, before the split into heads (QK-norm).
    #[serde(default = "defaults::yes")]
    pub attention_layer_norm: bool,
    /// Normalises the outputs of attention and MLP (OLMo 2) instead of their inputs (OLMo 1).
    #[serde(default = "defaults::yes")]
    pub norm_after: bool,
    /// Sliding-window size in tokens, including the token itself (OLMo 3); if absent, every block
    /// uses full attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// With `sliding_window`, every N-th block uses full attention (OLMo 3: 4); if absent, no block
    /// does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_attention_every: Option<usize>,
    /// Base of the rotary position embeddings.
    #[serde(default = "defaults::rope_theta")]
    pub rope_theta: f64,
    /// Maximum sequence length of training, in tokens.
    #[serde(default = "defaults::max_sequence_length")]
    pub max_sequence_length: usize,
    /// Vocabulary size. 0: taken from the tokenizer (see [`ModelConfig::fill_vocabulary`]).
    #[serde(default)]
    pub vocab_size: usize,
    /// Number of embedding rows, at least `vocab_size`; if absent, `vocab_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_size: Option<usize>,
    /// Shares the weights of the embedding and the output head.
    #[serde(default)]
    pub weight_tying: bool,
    /// Ids that end a document or an answer, the one that ends documents first; if absent, taken
    /// from the tokenizer. Written as `eos_token_id`: a number, or a list if there are several.
    #[serde(rename = "eos_token_id", default, with = "token_ids", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "token_ids::schema")]
    pub eos_token_ids: Vec<u32>,
    /// Id for padding; if absent, taken from the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<u32>,
    /// Initialisation of new weights.
    #[serde(default = "defaults::init_fn")]
    pub init_fn: InitFnType,
    /// Standard deviation of new weights (`init_fn: normal`).
    #[serde(default = "defaults::init_std")]
    pub init_std: f64,
    /// Truncates the distribution of new weights at this many standard deviations; if absent, no
    /// truncation (`normal`) or 3 (`mitchell`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_cutoff_factor: Option<f64>,
}

/// Token ids as in Hugging Face configs: a number or a list of numbers.
pub(crate) mod token_ids {
    use std::fmt;

    use schemars::{Schema, SchemaGenerator, json_schema};
    use serde::de::{Deserializer, Error, SeqAccess, Visitor};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(ids: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
        match ids {
            [id] => serializer.serialize_u32(*id),
            several => serializer.collect_seq(several),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
        deserializer.deserialize_any(Ids)
    }

    pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
        let id = serde_json::json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
        json_schema!({"anyOf": [id, {"type": "array", "items": id}, {"type": "null"}]})
    }

    struct Ids;

    impl<'de> Visitor<'de> for Ids {
        type Value = Vec<u32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a token id or a list of token ids")
        }

        fn visit_unit<E: Error>(self) -> Result<Vec<u32>, E> {
            Ok(Vec::new())
        }

        fn visit_u64<E: Error>(self, id: u64) -> Result<Vec<u32>, E> {
            let id = u32::try_from(id).map_err(|_| E::custom(format!("{id} is too large for a token id")))?;
            Ok(vec![id])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u32>, A::Error> {
            let mut ids = Vec::new();
            while let Some(id) = list.next_element()? {
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            Ok(ids)
        }
    }
}

/// Defaults: OLMo 2's values.
mod defaults {
    use super::{InitFnType, LayerNormType};

    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn layer_norm_type() -> LayerNormType {
        LayerNormType::Rms
    }
    pub(super) fn layer_norm_eps() -> f64 {
        1e-6
    }
    pub(super) fn rope_theta() -> f64 {
        500_000.0
    }
    pub(super) fn max_sequence_length() -> usize {
        4096
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
        self.d_model.checked_div(self.n_heads).unwrap_or(0)
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
            rope: RopeConfig::new(self.rope_theta),
            mlp_width: self.mlp_width(),
            clip_qkv: self.clip_qkv.map(|clip| clip as f32),
            norm: self.norm(),
            norm_after: self.norm_after,
            qk_norm: self.attention_layer_norm,
            window: self.window(layer),
        }
    }

    /// The window of block `layer` (from 0), if it has one.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let full = self.full_attention_every.is_some_and(|every| (layer + 1).is_multiple_of(every));
        self.sliding_window.filter(|_| !full)
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

    /// Fills in the values that the config leaves to the tokenizer: `vocab_size` if 0,
    /// `eos_token_id` and `pad_token_id` if absent.
    pub fn fill_vocabulary(&mut self, vocab_size: usize, eos_token_id: u32, pad_token_id: u32) {
        if self.vocab_size == 0 {
            self.vocab_size = vocab_size;
        }
        if self.eos_token_ids.is_empty() {
            self.eos_token_ids.push(eos_token_id);
        }
        self.pad_token_id.get_or_insert(pad_token_id);
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
        require(self.vocab_size > 0, "`vocab_size` is 0 and no tokenizer has filled it in".into());
        for (name, value) in [("vocab_size", self.vocab_size), ("embedding_size", self.embedding_rows())] {
            require(value <= 1 << 24, format!("`{name}` is {value}, more than the {} that is supported", 1 << 24));
        }
        if self.n_heads > 0 {
            require(
                self.d_model.is_multiple_of(self.n_heads),
                format!("`d_model` ({}) must be a multiple of `n_heads` ({})", self.d_model, self.n_heads),
            );
            require(
                !self.d_model.is_multiple_of(self.n_heads) || self.head_width().is_multiple_of(2),
                format!("`d_model / n_heads` ({}) must be even: rotary embedding works on pairs", self.head_width()),
            );
        }
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
        require(
            self.full_attention_every.is_none() || self.sliding_window.is_some(),
            "`full_attention_every` says nothing without `sliding_window`".into(),
        );
        require(
            self.embedding_rows() >= self.vocab_size,
            format!("`embedding_size` ({}) must be at least `vocab_size` ({})", self.embedding_rows(), self.vocab_size),
        );
        require(
            self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite(),
            format!("`layer_norm_eps` is {} and must be greater than 0", self.layer_norm_eps),
        );
        require(
            self.rope_theta > 0.0 && self.rope_theta.is_finite(),
            format!("`rope_theta` is {} and must be greater than 0", self.rope_theta),
        );
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
