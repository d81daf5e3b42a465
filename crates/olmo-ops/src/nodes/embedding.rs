//! The embedding as one node.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::{DType, Tensor};

use super::compute::{Compute, with_backend};
use super::host::Host;
use crate::fused::embedding::{backward, forward};
use crate::reference;

/// `[batch, sequence, d]`: the rows of `weight [rows, d]` at `ids`, of which there are
/// `batch * sequence`.
///
/// # Panics
/// An id has no row, or the number of ids is not `batch * sequence`.
pub fn embedding(weight: Tensor<2>, ids: &[u32], [batch, sequence]: [usize; 2]) -> Tensor<3> {
    assert_eq!(ids.len(), batch * sequence, "there is an id for every place");
    match Compute::serving(&weight) {
        None => reference::embedding(weight, ids, [batch, sequence]),
        Some(compute) => with_backend!(compute, B => apply::<B>(weight, ids, [batch, sequence])),
    }
}

fn apply<B: Host>(weight: Tensor<2>, ids: &[u32], [batch, sequence]: [usize; 2]) -> Tensor<3> {
    let ([rows, width], dtype) = (weight.dims(), weight.dtype());
    let shape = [batch, sequence, width];
    if !weight.is_autodiff() {
        let weight = B::plain(weight);
        return B::tensor(B::of(forward(B::elements(&weight), width, ids), &shape, dtype));
    }
    let (weight, node) = B::tracked(weight);
    let y = B::of(forward(B::elements(&weight), width, ids), &shape, dtype);
    let node = Backward::<B, 1>::prepare::<NoCheckpointing>(EmbeddingNode, [node]);
    B::tracked_tensor(match node.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => preparation.finish(EmbeddingState { ids: ids.into(), rows, width, dtype }, y),
        OpsKind::UnTracked(preparation) => preparation.finish(y),
    })
}

#[derive(Clone, Debug)]
struct EmbeddingState {
    ids: Arc<[u32]>,
    rows: usize,
    width: usize,
    dtype: DType,
}

#[derive(Debug)]
struct EmbeddingNode;

impl<B: Host> Backward<B, 1> for EmbeddingNode {
    type State = EmbeddingState;

    fn backward(self, ops: Ops<EmbeddingState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = B::contiguous(grads.consume::<B>(&ops.node));
        let EmbeddingState { ids, rows, width, dtype } = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let mut gradient = vec![0f32; rows * width];
            backward(B::elements(&dy), width, &ids, &mut gradient);
            grads.register::<B>(parent.id, B::of(gradient, &[rows, width], dtype));
        }
    }
}
