//! The shapes and options of the operations.

/// The two norms of the OLMo family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// LayerNorm: subtracts the mean, divides by the standard deviation.
    Layer,
    /// RMSNorm: divides by the root of the mean square.
    Rms,
}

/// A norm over the last dimension; its weight, where it has one, comes with each call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which norm.
    pub kind: NormKind,
    /// Added to the variance (or mean square).
    pub eps: f32,
}

/// A transformer block of the OLMo family. Which weights exist (see [`BlockWeights`]) completes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockConfig {
    /// Width of the residual stream, `n_heads` times the head width.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`. Query heads `[i*r, (i+1)*r)` share key head `i`.
    pub n_kv_heads: usize,
    /// Inner width of the MLP.
    pub mlp_width: usize,
    /// Clamps queries, keys and values to plus or minus this value, before any norm.
    pub clip_qkv: Option<f32>,
    /// Every norm of the block.
    pub norm: Norm,
    /// Norms stand after attention and MLP, before the residual is added (OLMo 2); else before them.
    pub norm_after: bool,
    /// Queries and keys are normed over their full width, before they are split into heads.
    pub qk_norm: bool,
}

impl BlockConfig {
    /// Width of one head; even.
    pub fn head_width(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// Width of all keys (or all values) of a token.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_width()
    }

    /// Width of the fused projection: queries, keys, values.
    pub fn qkv_width(&self) -> usize {
        self.d_model + 2 * self.kv_width()
    }
}

/// A block's weights in OLMo's layout, or one thing for each of them.
#[derive(Clone, Debug)]
pub struct BlockWeights<T> {
    /// `[d + 2*kv, d]`: rows of queries, then keys, then values.
    pub att_proj: T,
    /// `[d, d]`.
    pub attn_out: T,
    /// `[2*mlp, d]`: the first half is up, the second gate; the MLP is `silu(gate) * up`.
    pub ff_proj: T,
    /// `[d, mlp]`.
    pub ff_out: T,
    /// `[d]`, if norms have weights.
    pub attn_norm: Option<T>,
    /// `[d]`, if norms have weights.
    pub ff_norm: Option<T>,
    /// `[d]`, with `qk_norm`.
    pub q_norm: Option<T>,
    /// `[kv]`, with `qk_norm`.
    pub k_norm: Option<T>,
}

impl<T> BlockWeights<T> {
    /// Something made of each weight.
    pub fn map<'a, U>(&'a self, mut make: impl FnMut(&'a T) -> U) -> BlockWeights<U> {
        BlockWeights {
            att_proj: make(&self.att_proj),
            attn_out: make(&self.attn_out),
            ff_proj: make(&self.ff_proj),
            ff_out: make(&self.ff_out),
            attn_norm: self.attn_norm.as_ref().map(&mut make),
            ff_norm: self.ff_norm.as_ref().map(&mut make),
            q_norm: self.q_norm.as_ref().map(&mut make),
            k_norm: self.k_norm.as_ref().map(&mut make),
        }
    }

    /// The weights that exist, in the order of the fields.
    pub fn into_vec(self) -> Vec<T> {
        let required = [self.att_proj, self.attn_out, self.ff_proj, self.ff_out];
        let optional = [self.attn_norm, self.ff_norm, self.q_norm, self.k_norm];
        required.into_iter().chain(optional.into_iter().flatten()).collect()
    }
}

/// A target that counts for nothing.
pub const IGNORED: u32 = u32::MAX;

/// How the losses of tokens become one number: `(sum of nll + z_loss * sum of lse^2) / denominator` over the targets that count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossTerms {
    /// What the sum is divided by.
    pub denominator: f64,
    /// Weight of the squared log partition function; 0: none.
    pub z_loss: f64,
}
