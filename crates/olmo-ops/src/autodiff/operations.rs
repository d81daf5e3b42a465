//! The operations on Burn tensors, for any device.

use burn::tensor::Tensor;

use super::node::{Pass, node};
use crate::body::block::Block;
use crate::carrier::Carrier as _;
use crate::config::{BlockConfig, BlockWeights, Keep, LossTerms, Norm};
use crate::device::{Device, HeadOutput, Life};
use crate::linear::{Linear, Weight};
use crate::rope::Placed;

/// The rows of the embedding at `ids`, `[batch, sequence, width]`; a leaf of the graph if the
/// device trains the embedding.
///
/// # Panics
/// An id has no row, or the number of ids is not `batch * sequence`.
pub fn embed<D: Device>(device: &D, weight: &Linear, ids: &[u32], [batch, sequence]: [usize; 2]) -> Tensor<3> {
    assert_eq!(ids.len(), batch * sequence, "there is an id for every place");
    let rows = D::primitive(device.embed(weight, ids), &[batch, sequence, weight.inputs]);
    let rows: Tensor<3> = D::Backend::tensor(rows);
    match (device.trains(), &weight.weight.gradient) {
        (false, _) => rows,
        (true, None) => rows.autodiff(),
        (true, Some(_)) => rows.autodiff().require_grad(),
    }
}

/// Adds the gradient of [`embed`]'s result to that of the embedding, in token order.
pub fn embed_backward<D: Device>(device: &D, weight: &Linear, ids: &[u32], gradient: Tensor<3>) {
    if weight.weight.gradient.is_some() {
        device.embed_backward(weight, ids, &D::array(D::Backend::plain(gradient), weight.inputs));
    }
}

/// A transformer block: maps `[batch, sequence, d]` to the same shape. `keep` selects what stays
/// for the backward pass; results are bit-identical.
///
/// # Panics
/// The input does not have the block's width, the rotary tables are too short or another block's,
/// documents are not in order, or the device trains and the input does not take part in autodiff.
pub fn block<D: Device>(
    device: &D,
    config: &BlockConfig,
    placed: &Placed,
    x: Tensor<3>,
    weights: &BlockWeights<Linear, Weight>,
    keep: Keep,
) -> Tensor<3> {
    let [batch, sequence, d] = x.dims();
    assert_eq!(d, config.d_model, "the input has the width of the block");
    assert_eq!(*placed.rope.config(), config.rope, "the rotary tables are those of the block");
    let shape = [batch, sequence, d];
    node(device, x, |x, tracked| {
        let positions = device.positions(placed, [batch, sequence]);
        let (y, saved) = Block { device, config, weights, positions: &positions }.forward(&x, tracked.then_some(keep));
        let (device, config, weights, placed) = (device.clone(), *config, weights.clone(), placed.clone());
        let backward: Pass<D::Backend> = Box::new(move |dy| {
            let positions = device.positions(&placed, [batch, sequence]);
            let body = Block { device: &device, config: &config, weights: &weights, positions: &positions };
            D::primitive(body.backward(&x, saved, &D::array(dy, d)), &shape)
        });
        (D::primitive(y, &shape), Some(backward))
    })
}

/// `norm(x) * weight` over the last dimension of `x [batch, sequence, d]`; without `weight`, only
/// the norm.
pub fn norm<D: Device>(device: &D, norm: Norm, x: Tensor<3>, weight: Option<&Weight>) -> Tensor<3> {
    let shape = x.dims();
    let width = shape[2];
    node(device, x, |x, _| {
        let (y, stats) = device.norm(norm, &x, None, weight, width, Life::Output);
        let (device, weight) = (device.clone(), weight.cloned());
        let backward: Pass<D::Backend> = Box::new(move |dy| {
            let (dy, weight) = (D::array(dy, width), weight.as_ref());
            D::primitive(device.norm_backward(norm, &dy, &x, &stats, None, weight, width, Life::Output), &shape)
        });
        (D::primitive(y, &shape), Some(backward))
    })
}

/// The loss of `hidden [batch, sequence, d]` with the head `weight`. Rows with the target
/// [`crate::IGNORED`] are skipped.
///
/// The gradients are computed in the forward pass and are those of the loss itself; that of the
/// weight is added immediately. So the loss itself must be differentiated, not a function of it.
///
/// # Panics
/// A target is neither [`crate::IGNORED`] nor below the number of rows of `weight`, or there is not
/// one for each row; also in the backward pass, if the incoming gradient is known not to be 1.
pub fn head_loss<D: Device>(
    device: &D,
    hidden: Tensor<3>,
    weight: &Linear,
    targets: &[u32],
    terms: LossTerms,
) -> (Tensor<1>, D::Losses) {
    let shape = hidden.dims();
    assert_eq!(targets.len(), shape[0] * shape[1], "there is a target for every place");
    let mut sums = None;
    let loss = node(device, hidden, |hidden, tracked| {
        let HeadOutput { loss, losses, dhidden } = device.head_loss(&hidden, weight, targets, terms, tracked);
        sums = Some(losses);
        let backward = dhidden.map(|dhidden| -> Pass<D::Backend> {
            Box::new(move |dloss| {
                D::check_loss_gradient(dloss);
                D::primitive(dhidden, &shape)
            })
        });
        (D::primitive(loss, &[1]), backward)
    });
    (loss, sums.expect("the forward pass has run"))
}
