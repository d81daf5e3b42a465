//! A norm as one node.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::{Tracked, contiguous, elements, plain, primitive, serves, tracked};
use crate::config::Norm;
use crate::fused::norm::{Stats, backward, forward};
use crate::reference;

/// `norm(x) * weight` over the last dimension of `x [batch, sequence, d]`; without `weight`, the norm alone.
pub fn norm(norm: Norm, x: Tensor<3>, weight: Option<Tensor<1>>) -> Tensor<3> {
    if !serves(&x) {
        return reference::norm(norm, x, weight);
    }
    let shape = x.dims();
    if !x.is_autodiff() {
        let (x, weight) = (plain(x), weight.map(plain));
        let mut y = vec![0f32; elements(&x).len()];
        forward(norm, elements(&x), weight.as_ref().map(elements), None, shape[2], &mut y);
        return Tensor::from_primitive::<Flex>(primitive(y, &shape));
    }
    let (x, node) = tracked(x);
    match weight.map(tracked) {
        None => finish([node], norm, shape, x, None),
        Some((weight, weight_node)) => finish([node, weight_node], norm, shape, x, Some(weight)),
    }
}

#[derive(Clone, Debug)]
struct NormState {
    norm: Norm,
    shape: [usize; 3],
    x: FlexTensor,
    weight: Option<FlexTensor>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct NormNode;

fn finish<const N: usize>(
    nodes: [NodeGuard; N],
    norm: Norm,
    shape: [usize; 3],
    x: FlexTensor,
    weight: Option<FlexTensor>,
) -> Tensor<3> {
    let mut y = vec![0f32; elements(&x).len()];
    let stats = forward(norm, elements(&x), weight.as_ref().map(elements), None, shape[2], &mut y);
    let y = primitive(y, &shape);
    let output = match NormNode.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            preparation.finish(NormState { norm, shape, x, weight, stats: Arc::new(stats) }, y)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(y),
    };
    Tensor::from_primitive::<Tracked>(output)
}

impl<const N: usize> Backward<Flex, N> for NormNode {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let NormState { norm, shape, x, weight, stats } = ops.state;
        let mut dx = vec![0f32; elements(&x).len()];
        let mut dweight = weight.as_ref().map(|weight| vec![0f32; elements(weight).len()]);
        backward(
            norm,
            elements(&dy),
            elements(&x),
            &stats,
            weight.as_ref().map(elements),
            None,
            shape[2],
            &mut dx,
            dweight.as_deref_mut(),
        );
        let gradients = std::iter::once((dx, shape.to_vec())).chain(dweight.map(|gradient| (gradient, vec![shape[2]])));
        for (parent, (gradient, shape)) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, primitive(gradient, &shape));
            }
        }
    }
}
