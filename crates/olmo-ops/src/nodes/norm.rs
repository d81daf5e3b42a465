//! A norm as one node.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor};

use super::compute::{Compute, with_backend};
use super::host::Host;
use crate::config::Norm;
use crate::fused::norm::{Stats, backward, forward};
use crate::reference;

/// `norm(x) * weight` over the last dimension of `x [batch, sequence, d]`; without `weight`, only
/// the norm.
pub fn norm(norm: Norm, x: Tensor<3>, weight: Option<Tensor<1>>) -> Tensor<3> {
    match Compute::serving(&x) {
        None => reference::norm(norm, x, weight),
        Some(compute) => with_backend!(compute, B => apply::<B>(norm, x, weight)),
    }
}

fn apply<B: Host>(norm: Norm, x: Tensor<3>, weight: Option<Tensor<1>>) -> Tensor<3> {
    let (shape, dtype) = (x.dims(), x.dtype());
    if !x.is_autodiff() {
        let (x, weight) = (B::plain(x), weight.map(B::plain));
        let mut y = vec![0f32; B::elements(&x).len()];
        forward(norm, B::elements(&x), weight.as_ref().map(B::elements), None, shape[2], &mut y);
        return B::tensor(B::of(y, &shape, dtype));
    }
    let (x, node) = B::tracked(x);
    match weight.map(B::tracked) {
        None => finish::<B, 1>([node], norm, (shape, dtype), x, None),
        Some((weight, weight_node)) => finish::<B, 2>([node, weight_node], norm, (shape, dtype), x, Some(weight)),
    }
}

#[derive(Clone, Debug)]
struct NormState<B: Host> {
    norm: Norm,
    shape: [usize; 3],
    dtype: DType,
    x: FloatTensor<B>,
    weight: Option<FloatTensor<B>>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct NormNode;

fn finish<B: Host, const N: usize>(
    nodes: [NodeGuard; N],
    norm: Norm,
    (shape, dtype): ([usize; 3], DType),
    x: FloatTensor<B>,
    weight: Option<FloatTensor<B>>,
) -> Tensor<3> {
    let mut y = vec![0f32; B::elements(&x).len()];
    let stats = forward(norm, B::elements(&x), weight.as_ref().map(B::elements), None, shape[2], &mut y);
    let y = B::of(y, &shape, dtype);
    let node = Backward::<B, N>::prepare::<NoCheckpointing>(NormNode, nodes);
    B::tracked_tensor(match node.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            preparation.finish(NormState { norm, shape, dtype, x, weight, stats: Arc::new(stats) }, y)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(y),
    })
}

impl<B: Host, const N: usize> Backward<B, N> for NormNode {
    type State = NormState<B>;

    fn backward(self, ops: Ops<NormState<B>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = B::contiguous(grads.consume::<B>(&ops.node));
        let NormState { norm, shape, dtype, x, weight, stats } = ops.state;
        let mut dx = vec![0f32; B::elements(&x).len()];
        let mut dweight = weight.as_ref().map(|weight| vec![0f32; B::elements(weight).len()]);
        backward(
            norm,
            B::elements(&dy),
            B::elements(&x),
            &stats,
            weight.as_ref().map(B::elements),
            None,
            shape[2],
            &mut dx,
            dweight.as_deref_mut(),
        );
        let gradients = std::iter::once((dx, shape.to_vec())).chain(dweight.map(|gradient| (gradient, vec![shape[2]])));
        for (parent, (gradient, shape)) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, B::of(gradient, &shape, dtype));
            }
        }
    }
}
