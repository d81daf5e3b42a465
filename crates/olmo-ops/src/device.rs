//! [`Device`]: the operations that a device offers to the bodies.

use std::fmt::Debug;

use burn::backend::tensor::FloatTensor;

use crate::carrier::Carrier;
use crate::config::{BlockConfig, LossTerms, Norm, Sums};
use crate::linear::{Linear, Weight};
use crate::rope::Placed;

/// How long an array lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Within a block: a device may take its memory from a pool.
    Scratch,
    /// Beyond the operation: it becomes a tensor of Burn's graph.
    Output,
}

/// The weights of a QK-norm: of the queries, of the keys.
pub type QkNorms<'a> = Option<[&'a Weight; 2]>;

/// A device that holds the weights of a model, and the sums of their gradients if it trains. Clones
/// share both.
///
/// The bodies (`body`) are written once, over these operations. Arrays are matrices whose rows are
/// the tokens of a batch. Gradients of weights are added to the sums, and only for trained weights.
pub trait Device: Clone + Debug + Send + Sync + 'static {
    /// The Burn backend whose tensors carry activations from one operation to the next.
    type Backend: Carrier;
    /// A matrix of activations.
    type Array: Send + 'static;
    /// Positions of the tokens of a batch.
    type Positions;
    /// State of a norm for its backward pass.
    type NormStats: Send + 'static;
    /// State of [`Device::qkv`] for its backward pass.
    type QkvStats: Send + 'static;
    /// Result of attention, with the state for its backward pass.
    type Attended: Send + 'static;
    /// Gradients of queries, keys and values.
    type HeadGradients;
    /// Sums of the losses of a batch.
    type Losses;

    /// Whether gradients are computed.
    fn trains(&self) -> bool;

    /// The elements of a tensor as rows of `width`.
    fn array(tensor: FloatTensor<Self::Backend>, width: usize) -> Self::Array;

    /// The tensor of an array.
    fn primitive(array: Self::Array, shape: &[usize]) -> FloatTensor<Self::Backend>;

    /// Positions of `batch` rows of `sequence` tokens.
    ///
    /// # Panics
    /// The rotary tables are too short, or the documents violate the rules of [`crate::Places`].
    fn positions(&self, placed: &Placed, shape: [usize; 2]) -> Self::Positions;

    /// `x w^T`.
    fn linear(&self, x: &Self::Array, weight: &Linear) -> Self::Array;

    /// `residual + x w^T`.
    fn linear_add(&self, residual: &Self::Array, x: &Self::Array, weight: &Linear, life: Life) -> Self::Array;

    /// `dy w`: the gradient of the input of [`Device::linear`].
    fn linear_input(&self, dy: &Self::Array, weight: &Linear) -> Self::Array;

    /// `residual + dy w`.
    fn linear_input_add(&self, residual: &Self::Array, dy: &Self::Array, weight: &Linear, life: Life) -> Self::Array;

    /// Adds `dy^T x` to the gradient of a trained weight.
    fn linear_weight(&self, weight: &Linear, dy: &Self::Array, x: &Self::Array);

    /// `(residual +) norm(x) * weight` of rows of `width`.
    fn norm(
        &self,
        norm: Norm,
        x: &Self::Array,
        residual: Option<&Self::Array>,
        weight: Option<&Weight>,
        width: usize,
        life: Life,
    ) -> (Self::Array, Self::NormStats);

    /// `(residual +)` the gradient of `x` for the incoming `dy`; adds the gradient of the weight.
    #[expect(clippy::too_many_arguments, reason = "a kernel's arguments")]
    fn norm_backward(
        &self,
        norm: Norm,
        dy: &Self::Array,
        x: &Self::Array,
        stats: &Self::NormStats,
        residual: Option<&Self::Array>,
        weight: Option<&Weight>,
        width: usize,
        life: Life,
    ) -> Self::Array;

    /// Queries, keys and values as read by attention, from their projection: clamped, normalised
    /// and rotated.
    fn qkv(
        &self,
        config: &BlockConfig,
        positions: &Self::Positions,
        raw: &Self::Array,
        norms: QkNorms<'_>,
    ) -> (Self::Array, Self::QkvStats);

    /// The gradient of the projection; adds those of the norms' weights. `raw` is present if
    /// [`BlockConfig::needs_raw`].
    fn qkv_backward(
        &self,
        config: &BlockConfig,
        positions: &Self::Positions,
        gradients: Self::HeadGradients,
        raw: Option<&Self::Array>,
        stats: &Self::QkvStats,
        norms: QkNorms<'_>,
    ) -> Self::Array;

    /// Causal attention.
    fn attention(&self, config: &BlockConfig, positions: &Self::Positions, heads: &Self::Array) -> Self::Attended;

    /// The result of attention.
    fn attended(attended: &Self::Attended) -> &Self::Array;

    /// The gradients of queries, keys and values for the incoming `dattended`.
    fn attention_backward(
        &self,
        config: &BlockConfig,
        positions: &Self::Positions,
        heads: &Self::Array,
        attended: &Self::Attended,
        dattended: &Self::Array,
    ) -> Self::HeadGradients;

    /// `silu(gate) * up` of rows of up and gate, `width` elements each.
    fn swiglu(&self, up_gate: &Self::Array, width: usize) -> Self::Array;

    /// Turns `up_gate` into its gradient, and the incoming gradient of the activation back into the
    /// activation.
    fn swiglu_backward(&self, up_gate: &mut Self::Array, activation: &mut Self::Array, width: usize);

    /// The rows of `weight` at `ids`.
    fn embed(&self, weight: &Linear, ids: &[u32]) -> Self::Array;

    /// Adds `dx` to the gradients of the rows at `ids`, in token order.
    fn embed_backward(&self, weight: &Linear, ids: &[u32], dx: &Self::Array);

    /// Loss of `hidden` with the head `weight`; rows with the target [`crate::IGNORED`] are
    /// skipped. With `gradients`, also computes the gradient of `hidden`, and adds that of the
    /// weight.
    fn head_loss(
        &self,
        hidden: &Self::Array,
        weight: &Linear,
        targets: &[u32],
        terms: LossTerms,
        gradients: bool,
    ) -> HeadOutput<Self>;

    /// The sums as numbers; waits for the device.
    fn sums(losses: &Self::Losses) -> Sums;

    /// Checks that the gradient of a loss is 1, if that needs no wait for the device.
    ///
    /// # Panics
    /// It is not: a function of the loss was differentiated.
    fn check_loss_gradient(gradient: FloatTensor<Self::Backend>);

    /// Logits `[rows, vocabulary]` on the host.
    fn logits(&self, hidden: &Self::Array, weight: &Linear) -> Vec<f32>;
}

/// The results of the head.
pub struct HeadOutput<D: Device> {
    /// `(nll + z) / denominator`, one element.
    pub loss: D::Array,
    /// The sums.
    pub losses: D::Losses,
    /// The gradient of the hidden states for the loss, if requested.
    pub dhidden: Option<D::Array>,
}
