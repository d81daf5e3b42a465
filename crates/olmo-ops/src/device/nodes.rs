//! The operations as nodes of Burn's graph. Only activations take part in it; weights are not
//! leaves of it.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::tensor::Tensor;
use burn_tch::TchTensor;
use olmo_torch::Tensor as Native;

use super::block::{Block, Ranges, Saved};
use super::flat::DeviceFlat;
use super::norm::Stats;
use super::training::Losses;
use super::{embedding, head, norm};
use crate::config::{BlockConfig, Keep, LossTerms, Norm};
use crate::nodes::host::{SERVED, Tracked};
use crate::nodes::libtorch::LibTorch;
use crate::rope::Placed;

/// Like [`crate::embed`], in f32 or bf16 according to the weights' settings.
///
/// # Panics
/// See [`crate::embed`].
pub fn embed_device(
    flat: &DeviceFlat,
    weight: &Range<usize>,
    width: usize,
    ids: &[u32],
    [batch, sequence]: [usize; 2],
) -> Tensor<3> {
    assert_eq!(ids.len(), batch * sequence, "there is an id for every place");
    let rows: Tensor<3> = tensor(embedding::forward(flat, weight, width, ids), &[batch, sequence, width]);
    if flat.trains() { rows.autodiff().require_grad() } else { rows }
}

/// Like [`crate::embed_backward`].
pub fn embed_backward_device(flat: &DeviceFlat, weight: &Range<usize>, width: usize, ids: &[u32], gradient: Tensor<3>) {
    embedding::backward(flat, weight, width, ids, &plain(gradient, width));
}

/// Like [`crate::block_flat`].
///
/// # Panics
/// See [`crate::block_flat`].
pub fn block_device(
    config: &BlockConfig,
    placed: &Placed,
    x: Tensor<3>,
    flat: &DeviceFlat,
    weights: &Ranges,
    keep: Keep,
) -> Tensor<3> {
    let [batch, sequence, d] = x.dims();
    assert_eq!(d, config.d_model, "the input has the width of the block");
    placed.places(sequence).check(batch * sequence);
    let state = BlockState {
        config: *config,
        placed: placed.clone(),
        shape: [batch, sequence],
        flat: flat.clone(),
        weights: weights.clone(),
        saved: Held::default(),
        x: None,
    };
    let forward = |x: &Native, keep: Option<Keep>| state.with_block(|block| block.forward(x, keep));
    if !flat.trains() {
        return tensor(forward(&plain(x, d), None).0, &[batch, sequence, d]);
    }
    let (x, node) = tracked(x, d);
    node_of(BlockNode, node, &[batch, sequence, d], |wanted| {
        let (y, saved) = forward(&x, wanted.then_some(keep));
        (y, || BlockState { saved: Held::new(saved), x: Some(Held::new(Some(x))), ..state.clone() })
    })
}

/// Like [`crate::norm_flat`].
pub fn norm_device(norm: Norm, x: Tensor<3>, flat: &DeviceFlat, weight: Option<&Range<usize>>) -> Tensor<3> {
    let shape = x.dims();
    let forward = |x: &Native| norm::forward(flat, norm, x, None, weight);
    if !flat.trains() {
        return tensor(forward(&plain(x, shape[2])).0, &shape);
    }
    let (x, node) = tracked(x, shape[2]);
    node_of(NormNode, node, &shape, |_| {
        let (y, stats) = forward(&x);
        let saved = Held::new(Some((x, stats)));
        (y, || NormState { norm, flat: flat.clone(), weight: weight.cloned(), saved, shape })
    })
}

/// Like [`crate::head_loss_flat`]; the sums stay on the device.
///
/// # Panics
/// See [`crate::head_loss_flat`].
pub fn head_loss_device(
    hidden: Tensor<3>,
    flat: &DeviceFlat,
    weight: &Range<usize>,
    targets: &[u32],
    terms: LossTerms,
) -> (Tensor<1>, Losses) {
    let shape = hidden.dims();
    let value = |made: &head::Made| {
        // Use values that are already on the device: an upload would wait for it.
        let part = |index: i64| made.totals.narrow(0, index, 1);
        ((part(0) + part(1) * terms.z_loss) / terms.denominator).to_kind(olmo_torch::Kind::Float)
    };
    let losses = |made: &head::Made| Losses::new(made.totals.shallow_clone(), made.labels, terms.z_loss);
    if !flat.trains() {
        let made = head::loss(flat, &plain(hidden, shape[2]), weight, targets, terms, false);
        return (tensor(value(&made), &[1]), losses(&made));
    }
    let (hidden, node) = tracked(hidden, shape[2]);
    let mut sums = None;
    let loss = node_of(HeadNode, node, &[1], |wanted| {
        let made = head::loss(flat, &hidden, weight, targets, terms, wanted);
        sums = Some(losses(&made));
        (value(&made), || HeadState { gradient: Held::new(made.dhidden), shape })
    });
    (loss, sums.expect("the node has been made"))
}

/// Like [`crate::head_logits_flat`].
pub fn head_logits_device(hidden: Tensor<3>, flat: &DeviceFlat, weight: &Range<usize>) -> Vec<f32> {
    let width = hidden.dims()[2];
    let logits = plain(hidden, width).matmul(&flat.matrix(weight, width).tr());
    olmo_torch::download(&logits.to_kind(olmo_torch::Kind::Float))
}

/// Copies all weights to the host; waits for the device.
pub fn weights_on_host(flat: &DeviceFlat) -> Vec<f32> {
    olmo_torch::download(flat.weights())
}

/// State kept by a node: taken out once, in the backward pass, and freed there.
struct Held<T>(Arc<Mutex<Option<T>>>);

impl<T> Held<T> {
    fn new(value: Option<T>) -> Held<T> {
        Held(Arc::new(Mutex::new(value)))
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held::new(None)
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Held(self.0.clone())
    }
}

impl<T> Debug for Held<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Held")
    }
}

#[derive(Clone, Debug)]
struct BlockState {
    config: BlockConfig,
    placed: Placed,
    /// Number of rows, and row length in tokens.
    shape: [usize; 2],
    flat: DeviceFlat,
    weights: Ranges,
    saved: Held<Saved>,
    x: Option<Held<Native>>,
}

impl BlockState {
    fn with_block<T>(&self, work: impl FnOnce(&Block<'_>) -> T) -> T {
        let BlockState { config, placed, shape, flat, weights, .. } = self;
        let tables = flat.tables(placed, *shape);
        work(&Block { flat, config, weights, tables: &tables, shape: *shape })
    }
}

#[derive(Debug)]
struct BlockNode;

impl Backward<LibTorch, 1> for BlockNode {
    type State = BlockState;

    fn backward(self, ops: Ops<BlockState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let state = ops.state;
        let (d, [batch, sequence]) = (state.config.d_model, state.shape);
        let dy = rows(&grads.consume::<LibTorch>(&ops.node).tensor, d);
        let x = state.x.as_ref().and_then(Held::take).expect("a graph is walked through once");
        let dx = state.with_block(|block| block.backward(&x, state.saved.take(), &dy));
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<LibTorch>(parent.id, primitive(dx, &[batch, sequence, d]));
        }
    }
}

#[derive(Clone, Debug)]
struct NormState {
    norm: Norm,
    flat: DeviceFlat,
    weight: Option<Range<usize>>,
    saved: Held<(Native, Stats)>,
    shape: [usize; 3],
}

#[derive(Debug)]
struct NormNode;

impl Backward<LibTorch, 1> for NormNode {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let NormState { norm, flat, weight, saved, shape } = ops.state;
        let dy = rows(&grads.consume::<LibTorch>(&ops.node).tensor, shape[2]);
        let (x, stats) = saved.take().expect("a graph is walked through once");
        let dx = norm::backward(&flat, norm, &dy, &x, &stats, None, weight.as_ref());
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<LibTorch>(parent.id, primitive(dx, &shape));
        }
    }
}

#[derive(Clone, Debug)]
struct HeadState {
    gradient: Held<Native>,
    shape: [usize; 3],
}

/// The gradient is computed in the forward pass and is that of the loss itself, so the loss itself
/// must be differentiated.
#[derive(Debug)]
struct HeadNode;

impl Backward<LibTorch, 1> for HeadNode {
    type State = HeadState;

    fn backward(self, ops: Ops<HeadState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        // Do not read its value: the host would wait for the device.
        let _ = grads.consume::<LibTorch>(&ops.node);
        let gradient = ops.state.gradient.take().expect("a graph is walked through once");
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<LibTorch>(parent.id, primitive(gradient, &ops.state.shape));
        }
    }
}

/// A graph tensor computed by `forward`, which receives whether state is needed and returns the
/// value and the state.
fn node_of<N, S, const D: usize>(
    node: N,
    parent: NodeGuard,
    shape: &[usize],
    forward: impl FnOnce(bool) -> (Native, S),
) -> Tensor<D>
where
    N: Backward<LibTorch, 1>,
    S: FnOnce() -> N::State,
{
    let preparation = Backward::<LibTorch, 1>::prepare::<NoCheckpointing>(node, [parent]);
    let made = match preparation.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (y, state) = forward(true);
            preparation.finish(state(), primitive(y, shape))
        }
        OpsKind::UnTracked(preparation) => preparation.finish(primitive(forward(false).0, shape)),
    };
    Tensor::from_primitive::<Tracked<LibTorch>>(made)
}

fn plain<const D: usize>(x: Tensor<D>, width: usize) -> Native {
    rows(&x.without_autodiff().try_into_primitive::<LibTorch>().expect(SERVED).tensor, width)
}

fn tracked<const D: usize>(x: Tensor<D>, width: usize) -> (Native, NodeGuard) {
    let (primitive, node) = x.try_into_primitive::<Tracked<LibTorch>>().expect(SERVED).into_parts();
    (rows(&primitive.tensor, width), node)
}

fn rows(x: &Native, width: usize) -> Native {
    x.contiguous().view([-1, width as i64])
}

fn primitive(x: Native, shape: &[usize]) -> TchTensor {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    TchTensor::new(x.view(shape.as_slice()))
}

fn tensor<const D: usize>(x: Native, shape: &[usize]) -> Tensor<D> {
    Tensor::from_primitive::<LibTorch>(primitive(x, shape))
}
