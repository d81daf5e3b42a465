//! The arguments and results of operations that are groups of Burn tensors.

use burn::tensor::Tensor;

use crate::config::BlockWeights;
use crate::fused::head::Sums;

/// A block's weights as tensors; the layouts are those of [`BlockWeights`].
#[derive(Clone, Debug)]
pub struct BlockTensors {
    /// `[d + 2*kv, d]`.
    pub att_proj: Tensor<2>,
    /// `[d, d]`.
    pub attn_out: Tensor<2>,
    /// `[2*mlp, d]`.
    pub ff_proj: Tensor<2>,
    /// `[d, mlp]`.
    pub ff_out: Tensor<2>,
    /// `[d]`, if norms have weights.
    pub attn_norm: Option<Tensor<1>>,
    /// `[d]`, if norms have weights.
    pub ff_norm: Option<Tensor<1>>,
    /// `[d]`, with QK-norm.
    pub q_norm: Option<Tensor<1>>,
    /// `[kv]`, with QK-norm.
    pub k_norm: Option<Tensor<1>>,
}

impl BlockTensors {
    /// Maps each weight with the function for its rank.
    pub(crate) fn map<U>(&self, matrix: impl Fn(Tensor<2>) -> U, vector: impl Fn(Tensor<1>) -> U) -> BlockWeights<U> {
        let vector = |weight: &Option<Tensor<1>>| weight.clone().map(&vector);
        BlockWeights {
            att_proj: matrix(self.att_proj.clone()),
            attn_out: matrix(self.attn_out.clone()),
            ff_proj: matrix(self.ff_proj.clone()),
            ff_out: matrix(self.ff_out.clone()),
            attn_norm: vector(&self.attn_norm),
            ff_norm: vector(&self.ff_norm),
            q_norm: vector(&self.q_norm),
            k_norm: vector(&self.k_norm),
        }
    }
}

/// A loss and its components.
#[derive(Clone, Debug)]
pub struct HeadLoss {
    /// `(nll + z) / denominator`, one element; differentiable.
    pub loss: Tensor<1>,
    /// The sums, exact to f64.
    pub sums: Sums,
}
