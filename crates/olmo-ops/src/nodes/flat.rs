//! The operations on weights that lie in one flat array, as training has them: nodes read the weights where the optimizer writes them,
//! and add their gradients where the optimizer reads them. No copy, no fresh memory, no pass over the weights but the products' own.
//!
//! Only activations take part in Burn's graph; weights are not its leaves.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::{Device, Tensor, TensorData};
use burn_flex::FlexTensor;

use super::block::Placed;
use super::{Tracked, contiguous, elements, plain, primitive, tracked};
use crate::config::{BlockConfig, BlockWeights, Keep, LossTerms, Norm};
use crate::fused::head::{self, Sums};
use crate::fused::norm::Stats;
use crate::fused::{block, embedding, norm};

/// Weights, and the place where their gradients are added up; two arrays of one layout.
#[derive(Clone, Debug)]
pub struct Flat {
    weights: Arc<Vec<f32>>,
    /// `None`: nothing is differentiated.
    gradients: Option<Arc<Mutex<Vec<f32>>>>,
}

impl Flat {
    /// Weights alone.
    pub fn new(weights: Arc<Vec<f32>>) -> Flat {
        Flat { weights, gradients: None }
    }

    /// Weights whose gradients are added to `gradients`.
    ///
    /// # Panics
    /// The arrays differ in length.
    pub fn with_gradients(weights: Arc<Vec<f32>>, gradients: Vec<f32>) -> Flat {
        assert_eq!(weights.len(), gradients.len(), "weights and gradients have one layout");
        Flat { weights, gradients: Some(Arc::new(Mutex::new(gradients))) }
    }

    /// The gradients back, once no graph is alive that could add to them.
    ///
    /// # Panics
    /// There are none, or a graph still is alive.
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

/// The rows of the embedding that `ids` name, `[batch, sequence, width]`; a leaf of a graph if gradients are wanted.
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
    let rows = Tensor::<3>::from_data(TensorData::new(rows, [batch, sequence, width]), &Device::flex());
    if flat.gradients.is_some() { rows.autodiff().require_grad() } else { rows }
}

/// Adds the gradient of [`embed`]'s result to that of the embedding, in the order of the tokens.
pub fn embed_backward(flat: &Flat, weight: &Range<usize>, width: usize, ids: &[u32], gradient: Tensor<3>) {
    let gradient = plain(gradient);
    embedding::backward(elements(&gradient), width, ids, &mut flat.sum()[weight.clone()]);
}

/// As [`super::block`], with weights in `flat`.
///
/// # Panics
/// As [`super::block`].
pub fn block_flat(
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
    if flat.gradients.is_none() {
        let x = plain(x);
        let (y, _) = block::forward(config, &places, elements(&x), &weights.of(&flat.weights), None);
        return Tensor::from_primitive::<Flex>(primitive(y, &shape));
    }
    let (x, node) = tracked(x);
    let output = match BlockNode.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (y, saved) = block::forward(config, &places, elements(&x), &weights.of(&flat.weights), Some(keep));
            let state = BlockState {
                config: *config,
                placed: placed.clone(),
                shape,
                x,
                flat: flat.clone(),
                weights: weights.clone(),
                saved: saved.map(Arc::new),
            };
            preparation.finish(state, primitive(y, &shape))
        }
        OpsKind::UnTracked(preparation) => {
            let (y, _) = block::forward(config, &places, elements(&x), &weights.of(&flat.weights), None);
            preparation.finish(primitive(y, &shape))
        }
    };
    Tensor::from_primitive::<Tracked>(output)
}

#[derive(Clone, Debug)]
struct BlockState {
    config: BlockConfig,
    placed: Placed,
    shape: [usize; 3],
    x: FlexTensor,
    flat: Flat,
    weights: BlockWeights<Range<usize>>,
    saved: Option<Arc<block::Saved>>,
}

#[derive(Debug)]
struct BlockNode;

impl Backward<Flex, 1> for BlockNode {
    type State = BlockState;

    fn backward(self, ops: Ops<BlockState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let BlockState { config, placed, shape, x, flat, weights, saved } = ops.state;
        let dx = {
            let mut sum = flat.sum();
            let gradients = weights.of_mut(&mut sum);
            let saved = saved.map(Arc::unwrap_or_clone);
            let (places, values) = (placed.places(shape[1]), weights.of(&flat.weights));
            block::backward(&config, &places, elements(&x), &values, saved, elements(&dy), gradients)
        };
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, primitive(dx, &shape));
        }
    }
}

/// As [`super::norm`], with the weight in `flat`.
pub fn norm_flat(norm: Norm, x: Tensor<3>, flat: &Flat, weight: Option<&Range<usize>>) -> Tensor<3> {
    let shape = x.dims();
    let apply = |x: &FlexTensor| {
        let mut y = vec![0f32; elements(x).len()];
        let weight = weight.map(|range| &flat.weights[range.clone()]);
        let stats = norm::forward(norm, elements(x), weight, None, shape[2], &mut y);
        (primitive(y, &shape), stats)
    };
    if flat.gradients.is_none() {
        return Tensor::from_primitive::<Flex>(apply(&plain(x)).0);
    }
    let (x, node) = tracked(x);
    let (y, stats) = apply(&x);
    let output = match NormNode.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (flat, weight) = (flat.clone(), weight.cloned());
            preparation.finish(NormState { norm, shape, x, flat, weight, stats: Arc::new(stats) }, y)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(y),
    };
    Tensor::from_primitive::<Tracked>(output)
}

#[derive(Clone, Debug)]
struct NormState {
    norm: Norm,
    shape: [usize; 3],
    x: FlexTensor,
    flat: Flat,
    weight: Option<Range<usize>>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct NormNode;

impl Backward<Flex, 1> for NormNode {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let NormState { norm, shape, x, flat, weight, stats } = ops.state;
        let mut dx = vec![0f32; elements(&x).len()];
        let mut sum = flat.sum();
        let dweight = weight.clone().map(|range| &mut sum[range]);
        let weight = weight.map(|range| &flat.weights[range]);
        norm::backward(norm, elements(&dy), elements(&x), &stats, weight, None, shape[2], &mut dx, dweight);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, primitive(dx, &shape));
        }
    }
}

/// As [`super::head_loss`], with the weight in `flat`. The gradient is made in the forward pass and is that of the loss itself: the
/// weight's is added at once, so the loss must be what is differentiated, not something made of it.
///
/// # Panics
/// As [`super::head_loss`]; and in the backward pass, if the incoming gradient is not 1.
pub fn head_loss_flat(
    hidden: Tensor<3>,
    flat: &Flat,
    weight: &Range<usize>,
    targets: &[u32],
    terms: LossTerms,
) -> (Tensor<1>, Sums) {
    let shape = hidden.dims();
    assert_eq!(targets.len(), shape[0] * shape[1], "there is a target for every place");
    let value = |sums: &Sums| primitive(vec![((sums.nll + sums.z) / terms.denominator) as f32], &[1]);
    let values = &flat.weights[weight.clone()];
    if flat.gradients.is_none() {
        let sums = head::loss(elements(&plain(hidden)), values, shape[2], targets, terms, None);
        return (Tensor::from_primitive::<Flex>(value(&sums)), sums);
    }
    let (hidden, node) = tracked(hidden);
    match HeadNode.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let mut dhidden = vec![0f32; elements(&hidden).len()];
            let mut sum = flat.sum();
            let gradients = head::Gradients { hidden: &mut dhidden, weight: &mut sum[weight.clone()] };
            let sums = head::loss(elements(&hidden), values, shape[2], targets, terms, Some(gradients));
            let state = HeadState { gradient: Arc::new(dhidden), shape };
            (Tensor::from_primitive::<Tracked>(preparation.finish(state, value(&sums))), sums)
        }
        OpsKind::UnTracked(preparation) => {
            let sums = head::loss(elements(&hidden), values, shape[2], targets, terms, None);
            (Tensor::from_primitive::<Tracked>(preparation.finish(value(&sums))), sums)
        }
    }
}

#[derive(Clone, Debug)]
struct HeadState {
    /// Of the hidden states.
    gradient: Arc<Vec<f32>>,
    shape: [usize; 3],
}

#[derive(Debug)]
struct HeadNode;

impl Backward<Flex, 1> for HeadNode {
    type State = HeadState;

    fn backward(self, ops: Ops<HeadState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let incoming = contiguous(grads.consume::<Flex>(&ops.node));
        assert_eq!(elements(&incoming), [1.0], "the loss itself is differentiated");
        let HeadState { gradient, shape } = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, primitive(Arc::unwrap_or_clone(gradient), &shape));
        }
    }
}

/// Logits `[batch * sequence, vocabulary]` of hidden states without autodiff.
pub fn head_logits_flat(hidden: Tensor<3>, flat: &Flat, weight: &Range<usize>) -> Vec<f32> {
    let width = hidden.dims()[2];
    head::logits(elements(&plain(hidden)), &flat.weights[weight.clone()], width)
}
