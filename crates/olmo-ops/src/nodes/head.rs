//! Head and loss as one node.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor};

use super::compute::{Compute, with_backend};
use super::host::Host;
use crate::config::LossTerms;
use crate::fused::head::{self, Sums};
use crate::reference;
use crate::tensors::HeadLoss;

/// Cross-entropy and z-loss of `hidden [batch, sequence, d]` with the head
/// `weight [vocabulary, d]`. `targets` has one entry per position; [`crate::IGNORED`] skips a
/// position.
///
/// # Panics
/// The number of targets is not `batch * sequence`, or a target has no row in `weight`.
pub fn head_loss(hidden: Tensor<3>, weight: Tensor<2>, targets: &[u32], terms: LossTerms) -> HeadLoss {
    let shape = hidden.dims();
    assert_eq!(targets.len(), shape[0] * shape[1], "there is a target for every place");
    match Compute::serving(&hidden) {
        None => reference::head_loss(hidden, weight, targets, terms),
        Some(compute) => with_backend!(compute, B => apply::<B>(hidden, weight, targets, terms)),
    }
}

fn apply<B: Host>(hidden: Tensor<3>, weight: Tensor<2>, targets: &[u32], terms: LossTerms) -> HeadLoss {
    let (shape, weight_shape, dtype) = (hidden.dims(), weight.dims(), hidden.dtype());
    let value = |sums: &Sums| B::of(vec![((sums.nll + sums.z) / terms.denominator) as f32], &[1], dtype);
    if !hidden.is_autodiff() {
        let (hidden, weight) = (B::plain(hidden), B::plain(weight));
        let sums = head::loss(B::KERNELS, B::elements(&hidden), B::elements(&weight), shape[2], targets, terms, None);
        return HeadLoss { loss: B::tensor(value(&sums)), sums };
    }
    let ((hidden, hidden_node), (weight, weight_node)) = (B::tracked(hidden), B::tracked(weight));
    let run = |gradients: Option<head::Gradients<'_>>| {
        head::loss(B::KERNELS, B::elements(&hidden), B::elements(&weight), shape[2], targets, terms, gradients)
    };
    let node = Backward::<B, 2>::prepare::<NoCheckpointing>(HeadNode, [hidden_node, weight_node]);
    let (loss, sums) = match node.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (mut dhidden, mut dweight) = (zeros::<B>(&hidden), zeros::<B>(&weight));
            let sums = run(Some(head::Gradients { hidden: &mut dhidden, weight: &mut dweight }));
            let gradients = Arc::new([dhidden, dweight]);
            let state = HeadState { gradients, hidden_shape: shape, weight_shape, dtype };
            (preparation.finish(state, value(&sums)), sums)
        }
        OpsKind::UnTracked(preparation) => {
            let sums = run(None);
            (preparation.finish(value(&sums)), sums)
        }
    };
    HeadLoss { loss: B::tracked_tensor(loss), sums }
}

fn zeros<B: Host>(tensor: &FloatTensor<B>) -> Vec<f32> {
    vec![0f32; B::elements(tensor).len()]
}

/// The gradients are computed in the forward pass, for an incoming gradient of 1.
#[derive(Clone, Debug)]
struct HeadState {
    /// Gradients of the hidden states and of the weight.
    gradients: Arc<[Vec<f32>; 2]>,
    hidden_shape: [usize; 3],
    weight_shape: [usize; 2],
    dtype: DType,
}

#[derive(Debug)]
struct HeadNode;

impl<B: Host> Backward<B, 2> for HeadNode {
    type State = HeadState;

    fn backward(self, ops: Ops<HeadState, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let incoming = B::contiguous(grads.consume::<B>(&ops.node));
        let scale = B::elements(&incoming)[0];
        let HeadState { gradients, hidden_shape, weight_shape, dtype } = ops.state;
        let [hidden, weight] = Arc::unwrap_or_clone(gradients);
        let gradients = [(hidden, hidden_shape.to_vec()), (weight, weight_shape.to_vec())];
        for (parent, (mut gradient, shape)) in ops.parents.into_iter().zip(gradients) {
            let Some(parent) = parent else { continue };
            if scale != 1.0 {
                for value in &mut gradient {
                    *value *= scale;
                }
            }
            grads.register::<B>(parent.id, B::of(gradient, &shape, dtype));
        }
    }
}

/// Logits `[batch, sequence, vocabulary]`. Not for training: with autodiff this is a plain Burn
/// product.
pub fn head_logits(hidden: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    match Compute::serving(&hidden).filter(|_| !hidden.is_autodiff()) {
        None => reference::linear(hidden, weight),
        Some(compute) => with_backend!(compute, B => logits::<B>(hidden, weight)),
    }
}

fn logits<B: Host>(hidden: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let ([batch, sequence, width], [vocabulary, _], dtype) = (hidden.dims(), weight.dims(), hidden.dtype());
    let (hidden, weight) = (B::plain(hidden), B::plain(weight));
    let logits = head::logits(B::KERNELS, B::elements(&hidden), B::elements(&weight), width);
    B::tensor(B::of(logits, &[batch, sequence, vocabulary], dtype))
}
