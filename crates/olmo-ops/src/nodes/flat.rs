//! The operations on weights in one flat array, for training. Nodes read the weights where the
//! optimizer writes them, and add gradients where the optimizer reads them: no copies, no fresh
//! memory, and no pass over the weights except the products' own.
//!
//! Only activations take part in Burn's graph; weights are not leaves of it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;

use super::compute::{Compute, with_backend};
use super::host::Host;
use super::host_slice::HostSlice;
use crate::config::{BlockConfig, BlockWeights, Keep, LossTerms, Norm};
use crate::fused::head::{self, Sums};
use crate::fused::norm::Stats;
use crate::fused::{block, embedding, norm};
use crate::rope::Placed;

/// Weights and their gradients: two arrays with the same layout.
#[derive(Clone, Debug)]
pub struct Flat {
    compute: Compute,
    weights: Arc<Vec<f32>>,
    /// `None`: nothing is differentiated.
    gradients: Option<Arc<Mutex<Vec<f32>>>>,
}

impl Flat {
    /// Weights without gradients.
    pub fn new(compute: Compute, weights: Arc<Vec<f32>>) -> Flat {
        Flat { compute, weights, gradients: None }
    }

    /// Weights whose gradients are added to `gradients`.
    ///
    /// # Panics
    /// The arrays differ in length.
    pub fn with_gradients(compute: Compute, weights: Arc<Vec<f32>>, gradients: Vec<f32>) -> Flat {
        assert_eq!(weights.len(), gradients.len(), "weights and gradients have one layout");
        Flat { compute, weights, gradients: Some(Arc::new(Mutex::new(gradients))) }
    }

    /// Returns the gradients, once no graph that could add to them is alive.
    ///
    /// # Panics
    /// There are none, or a graph is still alive.
    pub fn into_gradients(self) -> Vec<f32> {
        let gradients = self.gradients.expect("made with gradients");
        let gradients = Arc::into_inner(gradients).expect("the graph has been walked through and dropped");
        gradients.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// All weights.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    fn sum(&self) -> MutexGuard<'_, Vec<f32>> {
        let gradients = self.gradients.as_ref().expect("only what is differentiated has a node");
        gradients.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The rows of the embedding at `ids`, `[batch, sequence, width]`; a leaf of the graph if gradients
/// are needed.
///
/// # Panics
/// An id has no row, or the number of ids is not `batch * sequence`.
pub fn embed(
    flat: &Flat,
    weight: &Range<usize>,
    width: usize,
    ids: &[u32],
    [batch, sequence]: [usize; 2],
) -> Tensor<3> {
    assert_eq!(ids.len(), batch * sequence, "there is an id for every place");
    let rows = embedding::forward(&flat.weights[weight.clone()], width, ids);
    let shape = [batch, sequence, width];
    let rows: Tensor<3> = with_backend!(flat.compute, B => B::tensor(B::primitive(rows, &shape)));
    if flat.gradients.is_some() { rows.autodiff().require_grad() } else { rows }
}

/// Adds the gradient of [`embed`]'s result to that of the embedding, in token order.
pub fn embed_backward(flat: &Flat, weight: &Range<usize>, width: usize, ids: &[u32], gradient: Tensor<3>) {
    let gradient = HostSlice::new(&gradient);
    embedding::backward(&gradient, width, ids, &mut flat.sum()[weight.clone()]);
}

/// A transformer block: maps `[batch, sequence, d]` to the same shape. `keep` selects what stays
/// for the backward pass; results are bit-identical.
///
/// # Panics
/// Shapes do not fit `config`, the rotary tables are too short, or documents are not in order.
pub fn block_flat(
    config: &BlockConfig,
    placed: &Placed,
    x: Tensor<3>,
    flat: &Flat,
    weights: &BlockWeights<Range<usize>>,
    keep: Keep,
) -> Tensor<3> {
    with_backend!(flat.compute, B => block_on::<B>(config, placed, x, flat, weights, keep))
}

fn block_on<B: Host>(
    config: &BlockConfig,
    placed: &Placed,
    x: Tensor<3>,
    flat: &Flat,
    weights: &BlockWeights<Range<usize>>,
    keep: Keep,
) -> Tensor<3> {
    let shape = x.dims();
    assert_eq!(shape[2], config.d_model, "the input has the width of the block");
    let places = placed.places(shape[1]);
    places.check(shape[0] * shape[1]);
    let values = weights.of(&flat.weights);
    let forward = |x: &FloatTensor<B>, keep: Option<Keep>| {
        let (y, saved) = block::forward(B::KERNELS, config, &places, B::elements(x), &values, keep);
        (B::primitive(y, &shape), saved)
    };
    if flat.gradients.is_none() {
        return B::tensor(forward(&B::plain(x), None).0);
    }
    let (x, node) = B::tracked(x);
    let node = Backward::<B, 1>::prepare::<NoCheckpointing>(BlockNode, [node]);
    B::tracked_tensor(match node.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (y, saved) = forward(&x, Some(keep));
            let state = BlockState {
                config: *config,
                placed: placed.clone(),
                shape,
                x,
                flat: flat.clone(),
                weights: weights.clone(),
                saved: saved.map(Arc::new),
            };
            preparation.finish(state, y)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(forward(&x, None).0),
    })
}

#[derive(Clone, Debug)]
struct BlockState<B: Host> {
    config: BlockConfig,
    placed: Placed,
    shape: [usize; 3],
    x: FloatTensor<B>,
    flat: Flat,
    weights: BlockWeights<Range<usize>>,
    saved: Option<Arc<block::Saved>>,
}

#[derive(Debug)]
struct BlockNode;

impl<B: Host> Backward<B, 1> for BlockNode {
    type State = BlockState<B>;

    fn backward(self, ops: Ops<BlockState<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = B::contiguous(grads.consume::<B>(&ops.node));
        let BlockState { config, placed, shape, x, flat, weights, saved } = ops.state;
        let dx = {
            let mut sum = flat.sum();
            let gradients = weights.of_mut(&mut sum);
            let saved = saved.map(Arc::unwrap_or_clone);
            let (places, values) = (placed.places(shape[1]), weights.of(&flat.weights));
            let (x, dy) = (B::elements(&x), B::elements(&dy));
            block::backward(B::KERNELS, &config, &places, x, &values, saved, dy, gradients)
        };
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::primitive(dx, &shape));
        }
    }
}

/// `norm(x) * weight` over the last dimension of `x [batch, sequence, d]`; without `weight`, only
/// the norm.
pub fn norm_flat(norm: Norm, x: Tensor<3>, flat: &Flat, weight: Option<&Range<usize>>) -> Tensor<3> {
    with_backend!(flat.compute, B => norm_on::<B>(norm, x, flat, weight))
}

fn norm_on<B: Host>(norm: Norm, x: Tensor<3>, flat: &Flat, weight: Option<&Range<usize>>) -> Tensor<3> {
    let shape = x.dims();
    let apply = |x: &FloatTensor<B>| {
        let mut y = vec![0f32; B::elements(x).len()];
        let weight = weight.map(|range| &flat.weights[range.clone()]);
        let stats = norm::forward(norm, B::elements(x), weight, None, shape[2], &mut y);
        (B::primitive(y, &shape), stats)
    };
    if flat.gradients.is_none() {
        return B::tensor(apply(&B::plain(x)).0);
    }
    let (x, node) = B::tracked(x);
    let (y, stats) = apply(&x);
    let node = Backward::<B, 1>::prepare::<NoCheckpointing>(NormNode, [node]);
    B::tracked_tensor(match node.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (flat, weight) = (flat.clone(), weight.cloned());
            preparation.finish(NormState { norm, shape, x, flat, weight, stats: Arc::new(stats) }, y)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(y),
    })
}

#[derive(Clone, Debug)]
struct NormState<B: Host> {
    norm: Norm,
    shape: [usize; 3],
    x: FloatTensor<B>,
    flat: Flat,
    weight: Option<Range<usize>>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct NormNode;

impl<B: Host> Backward<B, 1> for NormNode {
    type State = NormState<B>;

    fn backward(self, ops: Ops<NormState<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = B::contiguous(grads.consume::<B>(&ops.node));
        let NormState { norm, shape, x, flat, weight, stats } = ops.state;
        let mut dx = vec![0f32; B::elements(&x).len()];
        let mut sum = flat.sum();
        let dweight = weight.clone().map(|range| &mut sum[range]);
        let weight = weight.map(|range| &flat.weights[range]);
        let (x, dy) = (B::elements(&x), B::elements(&dy));
        norm::backward(norm, dy, x, &stats, weight, None, shape[2], &mut dx, dweight);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::primitive(dx, &shape));
        }
    }
}

/// The loss of `hidden [batch, sequence, d]` with the head `weight`. Rows with the target
/// [`crate::IGNORED`] are skipped. The gradient is computed in the forward pass and is that of the
/// loss itself. The weight's gradient is added immediately, so the loss
/// itself must be differentiated, not a function of it.
///
/// # Panics
/// A target is neither [`crate::IGNORED`] nor below the number of rows of `weight`, or there is not
/// one for each row; also in the backward pass, if the incoming gradient is not 1.
pub fn head_loss_flat(
    hidden: Tensor<3>,
    flat: &Flat,
    weight: &Range<usize>,
    targets: &[u32],
    terms: LossTerms,
) -> (Tensor<1>, Sums) {
    with_backend!(flat.compute, B => head_loss_on::<B>(hidden, flat, weight, targets, terms))
}

fn head_loss_on<B: Host>(
    hidden: Tensor<3>,
    flat: &Flat,
    weight: &Range<usize>,
    targets: &[u32],
    terms: LossTerms,
) -> (Tensor<1>, Sums) {
    let shape = hidden.dims();
    assert_eq!(targets.len(), shape[0] * shape[1], "there is a target for every place");
    let value = |sums: &Sums| B::primitive(vec![((sums.nll + sums.z) / terms.denominator) as f32], &[1]);
    let values = &flat.weights[weight.clone()];
    let loss = |hidden: &FloatTensor<B>, gradients: Option<head::Gradients<'_>>| {
        head::loss(B::KERNELS, B::elements(hidden), values, shape[2], targets, terms, gradients)
    };
    if flat.gradients.is_none() {
        let sums = loss(&B::plain(hidden), None);
        return (B::tensor(value(&sums)), sums);
    }
    let (hidden, node) = B::tracked(hidden);
    let node = Backward::<B, 1>::prepare::<NoCheckpointing>(HeadNode, [node]);
    let (made, sums) = match node.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let mut dhidden = vec![0f32; B::elements(&hidden).len()];
            let mut sum = flat.sum();
            let gradients = head::Gradients { hidden: &mut dhidden, weight: &mut sum[weight.clone()] };
            let sums = loss(&hidden, Some(gradients));
            let state = HeadState { gradient: Arc::new(dhidden), shape };
            (preparation.finish(state, value(&sums)), sums)
        }
        OpsKind::UnTracked(preparation) => {
            let sums = loss(&hidden, None);
            (preparation.finish(value(&sums)), sums)
        }
    };
    (B::tracked_tensor(made), sums)
}

#[derive(Clone, Debug)]
struct HeadState {
    /// Gradient of the hidden states.
    gradient: Arc<Vec<f32>>,
    shape: [usize; 3],
}

#[derive(Debug)]
struct HeadNode;

impl<B: Host> Backward<B, 1> for HeadNode {
    type State = HeadState;

    fn backward(self, ops: Ops<HeadState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let incoming = B::contiguous(grads.consume::<B>(&ops.node));
        assert_eq!(B::elements(&incoming), [1.0], "the loss itself is differentiated");
        let HeadState { gradient, shape } = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::primitive(Arc::unwrap_or_clone(gradient), &shape));
        }
    }
}

/// Logits `[batch * sequence, vocabulary]` of hidden states without autodiff.
pub fn head_logits_flat(hidden: Tensor<3>, flat: &Flat, weight: &Range<usize>) -> Vec<f32> {
    let (width, hidden) = (hidden.dims()[2], HostSlice::new(&hidden));
    head::logits(flat.compute.kernels(), &hidden, &flat.weights[weight.clone()], width)
}
