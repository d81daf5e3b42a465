//! The embedding as one node.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::Tensor;

use super::{Tracked, contiguous, elements, plain, primitive, serves, tracked};
use crate::fused::embedding::{backward, forward};
use crate::reference;

/// `[batch, sequence, d]`: the rows of `weight [rows, d]` that `ids` (`batch * sequence` of them) name.
///
/// # Panics
/// An id has no row, or the number of ids is not `batch * sequence`.
pub fn embedding(weight: Tensor<2>, ids: &[u32], [batch, sequence]: [usize; 2]) -> Tensor<3> {
    assert_eq!(ids.len(), batch * sequence, "there is an id for every place");
    if !serves(&weight) {
        return reference::embedding(weight, ids, [batch, sequence]);
    }
    let [rows, width] = weight.dims();
    let shape = [batch, sequence, width];
    if !weight.is_autodiff() {
        return Tensor::from_primitive::<Flex>(primitive(forward(elements(&plain(weight)), width, ids), &shape));
    }
    let (weight, node) = tracked(weight);
    let y = primitive(forward(elements(&weight), width, ids), &shape);
    let output = match EmbeddingNode.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => preparation.finish(EmbeddingState { ids: ids.into(), rows, width }, y),
        OpsKind::UnTracked(preparation) => preparation.finish(y),
    };
    Tensor::from_primitive::<Tracked>(output)
}

#[derive(Clone, Debug)]
struct EmbeddingState {
    ids: Arc<[u32]>,
    rows: usize,
    width: usize,
}

#[derive(Debug)]
struct EmbeddingNode;

impl Backward<Flex, 1> for EmbeddingNode {
    type State = EmbeddingState;

    fn backward(self, ops: Ops<EmbeddingState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let EmbeddingState { ids, rows, width } = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let mut gradient = vec![0f32; rows * width];
            backward(elements(&dy), width, &ids, &mut gradient);
            grads.register::<Flex>(parent.id, primitive(gradient, &[rows, width]));
        }
    }
}
