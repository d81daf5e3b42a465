//! A transformer block as one node.

use std::sync::Arc;

use burn::backend::TensorMetadata as _;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor};

use super::compute::{Compute, with_backend};
use super::host::Host;
use crate::config::{BlockConfig, BlockWeights, Keep};
use crate::fused::block::{Saved, backward, forward};
use crate::reference;
use crate::rope::Placed;
use crate::tensors::BlockTensors;

/// A transformer block: maps `[batch, sequence, d]` to the same shape. `keep` selects what stays
/// for the backward pass; results are bit-identical.
///
/// # Panics
/// Shapes do not fit `config`, the rotary tables are too short, documents are not in order, or some
/// inputs take part in autodiff while others are on devices without it.
pub fn block(config: &BlockConfig, placed: &Placed, x: Tensor<3>, weights: &BlockTensors, keep: Keep) -> Tensor<3> {
    let shape = x.dims();
    let places = placed.places(shape[1]);
    check(config, &x, weights);
    places.check(shape[0] * shape[1]);
    match Compute::serving(&x) {
        None => reference::block(config, &places, x, weights),
        Some(compute) => with_backend!(compute, B => apply::<B>(config, placed, x, weights, keep)),
    }
}

fn apply<B: Host>(
    config: &BlockConfig,
    placed: &Placed,
    x: Tensor<3>,
    weights: &BlockTensors,
    keep: Keep,
) -> Tensor<3> {
    let (shape, dtype) = (x.dims(), x.dtype());
    if !x.is_autodiff() {
        let (x, weights) = (B::plain(x), weights.map(B::plain, B::plain));
        let (places, values) = (placed.places(shape[1]), weights.map(B::elements));
        let (y, _) = forward(B::KERNELS, config, &places, B::elements(&x), &values, None);
        return B::tensor(B::of(y, &shape, dtype));
    }
    let (x, node) = B::tracked(x);
    let weights = weights.map(B::tracked, B::tracked);
    let mut nodes = vec![node];
    let primitives = weights.map(|(primitive, _)| primitive.clone());
    nodes.extend(weights.into_vec().into_iter().map(|(_, node)| node));
    let state =
        BlockState::<B> { config: *config, placed: placed.clone(), shape, dtype, x, weights: primitives, saved: None };
    // Norms may have weights, and QK-norm may exist.
    match nodes.len() {
        5 => finish::<B, 5>(nodes, state, keep),
        7 => finish::<B, 7>(nodes, state, keep),
        _ => finish::<B, 9>(nodes, state, keep),
    }
}

fn check(config: &BlockConfig, x: &Tensor<3>, weights: &BlockTensors) {
    let (d, kv, mlp) = (config.d_model, config.kv_width(), config.mlp_width);
    assert_eq!(x.dims()[2], d, "the input has the width of the block");
    assert_eq!(weights.att_proj.dims(), [d + 2 * kv, d], "att_proj has the block's shape");
    assert_eq!(weights.attn_out.dims(), [d, d], "attn_out has the block's shape");
    assert_eq!(weights.ff_proj.dims(), [2 * mlp, d], "ff_proj has the block's shape");
    assert_eq!(weights.ff_out.dims(), [d, mlp], "ff_out has the block's shape");
    assert_eq!(weights.attn_norm.is_some(), weights.ff_norm.is_some(), "both norms have weights or neither");
    assert_eq!([weights.q_norm.is_some(), weights.k_norm.is_some()], [config.qk_norm; 2], "QK-norm has its weights");
}

#[derive(Clone, Debug)]
struct BlockState<B: Host> {
    config: BlockConfig,
    placed: Placed,
    /// Shape of the input and of the output.
    shape: [usize; 3],
    dtype: DType,
    x: FloatTensor<B>,
    weights: BlockWeights<FloatTensor<B>>,
    /// `None` until the forward pass has run, or if it keeps nothing.
    saved: Option<Arc<Saved>>,
}

#[derive(Debug)]
struct BlockNode;

fn finish<B: Host, const N: usize>(nodes: Vec<NodeGuard>, mut state: BlockState<B>, keep: Keep) -> Tensor<3> {
    let nodes: [NodeGuard; N] = nodes.try_into().expect("the caller counted the nodes");
    let run = |state: &BlockState<B>, keep: Option<Keep>| {
        let (places, weights) = (state.placed.places(state.shape[1]), state.weights.map(B::elements));
        let (y, saved) = forward(B::KERNELS, &state.config, &places, B::elements(&state.x), &weights, keep);
        (B::of(y, &state.shape, state.dtype), saved)
    };
    let node = Backward::<B, N>::prepare::<NoCheckpointing>(BlockNode, nodes);
    B::tracked_tensor(match node.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (y, saved) = run(&state, Some(keep));
            state.saved = saved.map(Arc::new);
            preparation.finish(state, y)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(run(&state, None).0),
    })
}

impl<B: Host, const N: usize> Backward<B, N> for BlockNode {
    type State = BlockState<B>;

    fn backward(self, ops: Ops<BlockState<B>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = B::contiguous(grads.consume::<B>(&ops.node));
        let BlockState { config, placed, shape, dtype, x, weights, saved } = ops.state;
        let saved = saved.map(Arc::unwrap_or_clone);
        let mut dweights = weights.map(|weight| vec![0f32; B::elements(weight).len()]);
        let (places, values) = (placed.places(shape[1]), weights.map(B::elements));
        let gradients = dweights.map_mut(|gradient| gradient.as_mut_slice());
        let (x, dy) = (B::elements(&x), B::elements(&dy));
        let dx = backward(B::KERNELS, &config, &places, x, &values, saved, dy, gradients);
        let shapes = weights.map(|weight| weight.shape().to_vec()).into_vec();
        let gradients = std::iter::once((dx, shape.to_vec())).chain(dweights.into_vec().into_iter().zip(shapes));
        for (parent, (gradient, shape)) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, B::of(gradient, &shape, dtype));
            }
        }
    }
}
