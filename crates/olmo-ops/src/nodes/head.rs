//! Head and loss as one node.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::{Tracked, contiguous, elements, plain, primitive, serves, tracked};
use crate::config::LossTerms;
use crate::fused::head::{self, Sums};
use crate::reference;

/// A loss and what it is made of.
#[derive(Clone, Debug)]
pub struct HeadLoss {
    /// `(nll + z) / denominator`, one element; differentiable.
    pub loss: Tensor<1>,
    /// The sums, exact to f64.
    pub sums: Sums,
}

/// Cross-entropy and z-loss of `hidden [batch, sequence, d]` under the head `weight [vocabulary, d]`.
/// `targets` has one entry for each place; [`crate::IGNORED`] takes the place out.
///
/// # Panics
/// The number of targets is not `batch * sequence`, or one has no row of `weight`.
pub fn head_loss(hidden: Tensor<3>, weight: Tensor<2>, targets: &[u32], terms: LossTerms) -> HeadLoss {
    let shape = hidden.dims();
    assert_eq!(targets.len(), shape[0] * shape[1], "there is a target for every place");
    if !serves(&hidden) {
        return reference::head_loss(hidden, weight, targets, terms);
    }
    let value = |sums: &Sums| primitive(vec![((sums.nll + sums.z) / terms.denominator) as f32], &[1]);
    if !hidden.is_autodiff() {
        let (hidden, weight) = (plain(hidden), plain(weight));
        let sums = head::loss(elements(&hidden), elements(&weight), shape[2], targets, terms, None);
        return HeadLoss { loss: Tensor::from_primitive::<Flex>(value(&sums)), sums };
    }
    let weight_shape = weight.dims();
    let ((hidden, hidden_node), (weight, weight_node)) = (tracked(hidden), tracked(weight));
    let run = |gradients: Option<head::Gradients<'_>>| {
        head::loss(elements(&hidden), elements(&weight), shape[2], targets, terms, gradients)
    };
    match HeadNode.prepare::<NoCheckpointing>([hidden_node, weight_node]).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (mut dhidden, mut dweight) = (zeros(&hidden), zeros(&weight));
            let sums = run(Some(head::Gradients { hidden: &mut dhidden, weight: &mut dweight }));
            let gradients = Arc::new([dhidden, dweight]);
            let state = HeadState { gradients, hidden_shape: shape, weight_shape };
            HeadLoss { loss: Tensor::from_primitive::<Tracked>(preparation.finish(state, value(&sums))), sums }
        }
        OpsKind::UnTracked(preparation) => {
            let sums = run(None);
            HeadLoss { loss: Tensor::from_primitive::<Tracked>(preparation.finish(value(&sums))), sums }
        }
    }
}

fn zeros(tensor: &FlexTensor) -> Vec<f32> {
    vec![0f32; elements(tensor).len()]
}

/// The gradients are made in the forward pass, for an incoming gradient of 1.
#[derive(Clone, Debug)]
struct HeadState {
    /// Of the hidden states and of the weight.
    gradients: Arc<[Vec<f32>; 2]>,
    hidden_shape: [usize; 3],
    weight_shape: [usize; 2],
}

#[derive(Debug)]
struct HeadNode;

impl Backward<Flex, 2> for HeadNode {
    type State = HeadState;

    fn backward(self, ops: Ops<HeadState, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let incoming = contiguous(grads.consume::<Flex>(&ops.node));
        let scale = elements(&incoming)[0];
        let HeadState { gradients, hidden_shape, weight_shape } = ops.state;
        let [hidden, weight] = Arc::unwrap_or_clone(gradients);
        let gradients = [(hidden, hidden_shape.to_vec()), (weight, weight_shape.to_vec())];
        for (parent, (mut gradient, shape)) in ops.parents.into_iter().zip(gradients) {
            let Some(parent) = parent else { continue };
            if scale != 1.0 {
                gradient.iter_mut().for_each(|value| *value *= scale);
            }
            grads.register::<Flex>(parent.id, primitive(gradient, &shape));
        }
    }
}

/// Logits `[batch, sequence, vocabulary]`. Not for training: with autodiff it is a plain Burn product.
pub fn head_logits(hidden: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    if !serves(&hidden) || hidden.is_autodiff() {
        return reference::linear(hidden, weight);
    }
    let ([batch, sequence, width], [vocabulary, _]) = (hidden.dims(), weight.dims());
    let (hidden, weight) = (plain(hidden), plain(weight));
    let logits = head::logits(elements(&hidden), elements(&weight), width);
    Tensor::from_primitive::<Flex>(primitive(logits, &[batch, sequence, vocabulary]))
}
