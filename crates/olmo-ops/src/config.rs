//! Shapes and options of the operations.

use crate::linear::{Linear, Weight};
use crate::rope::RopeConfig;

/// The two norms of the OLMo family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// LayerNorm: subtracts the mean, divides by the standard deviation.
    Layer,
    /// RMSNorm: divides by the root of the mean square.
    Rms,
}

/// A norm over the last dimension; its weight, if any, is passed with each call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Type of norm.
    pub kind: NormKind,
    /// Epsilon added to the variance (or mean square).
    pub eps: f32,
}

/// A transformer block of the OLMo family. The set of weights (see [`BlockWeights`]) completes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key and value heads; divides `n_heads`. Query heads `[i*r, (i+1)*r)` share key
    /// head `i`.
    pub n_kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Inner width of the MLP.
    pub mlp_width: usize,
    /// Clamps queries, keys and values to the range from minus to plus this value, before any norm.
    pub clip_qkv: Option<f32>,
    /// All norms of the block.
    pub norm: Norm,
    /// Whether norms follow attention and MLP, before the residual is added (OLMo 2); otherwise
    /// they precede them.
    pub norm_after: bool,
    /// Whether queries and keys are normalised over their full width, before the split into heads.
    pub qk_norm: bool,
    /// A token attends to itself and the `window - 1` tokens before it; `None`: to all earlier
    /// tokens (OLMo 3 mixes both kinds of block).
    pub window: Option<usize>,
}

impl BlockConfig {
    /// The first token of the row that the token at `place` attends to, if its document begins at
    /// `document`.
    #[inline(always)]
    pub fn sees_from(&self, place: usize, document: usize) -> usize {
        match self.window {
            Some(window) => document.max((place + 1).saturating_sub(window.max(1))),
            None => document,
        }
    }

    /// Width of all queries of a token.
    pub fn query_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all keys (or all values) of a token.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Whether the backward pass needs the projection before clamp and QK-norm.
    pub fn needs_raw(&self) -> bool {
        self.qk_norm || self.clip_qkv.is_some()
    }

    /// Width of the fused projection: queries, keys, values.
    pub fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }
}

/// What a block keeps between its forward and backward pass. Recomputed values are bit-identical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Everything: about `(10 d + 2 mlp) * 4` bytes per token with QK-norm.
    #[default]
    All,
    /// Results of matrix products and attention; normed inputs and rotated heads are recomputed.
    Products,
    /// Only the block's input: `4 d` bytes per token, at the cost of one more forward pass.
    Nothing,
}

impl Keep {
    /// Whether the rotated heads are kept, in a block that keeps anything. Otherwise the raw
    /// projection is kept, and they are recomputed from it.
    pub(crate) fn heads(self, config: &BlockConfig) -> bool {
        self != Keep::Products || !config.needs_raw()
    }

    /// Whether the norms' states keep their values. Before a sub-layer these can be recomputed from
    /// its input, after it they cannot.
    pub(crate) fn norm_values(self, config: &BlockConfig) -> bool {
        self != Keep::Products || config.norm_after
    }
}

/// A block's weights in OLMo's layout, or one item for each of them. `q`, `kv`: width of all queries
/// and of all keys of a token.
#[derive(Clone, Debug)]
pub struct BlockWeights<M, V = M> {
    /// `[q + 2*kv, d]`: rows of queries, then keys, then values.
    pub att_proj: M,
    /// `[d, q]`.
    pub attn_out: M,
    /// `[2*mlp, d]`: the first half is up, the second gate; the MLP is `silu(gate) * up`.
    pub ff_proj: M,
    /// `[d, mlp]`.
    pub ff_out: M,
    /// `[d]`, if norms have weights.
    pub attn_norm: Option<V>,
    /// `[d]`, if norms have weights.
    pub ff_norm: Option<V>,
    /// `[q]`, with `qk_norm`.
    pub q_norm: Option<V>,
    /// `[kv]`, with `qk_norm`.
    pub k_norm: Option<V>,
}

impl BlockWeights<Linear, Weight> {
    /// Whether any weight is trained.
    pub fn is_trained(&self) -> bool {
        let matrices = [&self.att_proj, &self.attn_out, &self.ff_proj, &self.ff_out];
        let vectors = [&self.attn_norm, &self.ff_norm, &self.q_norm, &self.k_norm];
        let weights = matrices.into_iter().map(|linear| &linear.weight).chain(vectors.into_iter().flatten());
        weights.into_iter().any(|weight| weight.gradient.is_some())
    }
}

/// A target that is ignored.
pub const IGNORED: u32 = u32::MAX;

/// How the losses of tokens are combined: `(sum of nll + z_loss * sum of lse^2) / denominator` over
/// the targets that are not ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossTerms {
    /// Divisor of the sum.
    pub denominator: f64,
    /// Weight of the squared log partition function; 0: none.
    pub z_loss: f64,
}

/// Sums over the targets that are not ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Negative log-likelihood.
    pub nll: f64,
    /// `z_loss` times the squared log partition function.
    pub z: f64,
    /// Number of targets that are not ignored.
    pub labels: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_as_many_tokens_as_it_says_and_never_reaches_into_another_document() {
        let norm = Norm { kind: NormKind::Rms, eps: 1e-6 };
        let block = |window| BlockConfig {
            d_model: 8,
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 4,
            rope: RopeConfig::new(10_000.0),
            mlp_width: 8,
            clip_qkv: None,
            norm,
            norm_after: true,
            qk_norm: true,
            window,
        };
        assert_eq!([0, 2, 3, 9].map(|place| block(Some(3)).sees_from(place, 0)), [0, 0, 1, 7]);
        assert_eq!(block(Some(3)).sees_from(9, 8), 8);
        assert_eq!(block(None).sees_from(9, 4), 4);
    }
}
