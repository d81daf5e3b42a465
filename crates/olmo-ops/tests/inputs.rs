//! Inputs as a graph brings them: seen through another order of dimensions, parts of something
//! larger, and the same tensor in several places.

mod common;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::reference::{self, BlockTensors};
use common::{Gradients, difference, flatten, input, numbers, read};
use olmo_ops::{
    BlockConfig, BlockWeights, Compute, Flat, IGNORED, Keep, LossTerms, Norm, NormKind, Placed, Places, Rope,
    block_flat, head_loss_flat, norm_flat,
};

const RMS: Norm = Norm { kind: NormKind::Rms, eps: 1e-6 };

/// Applies `op` to a turned part of a larger leaf, to which the part is also added: the output, and
/// the gradient of the leaf for the output's square sum.
fn of_a_part<const D: usize>(
    wide: Tensor<2>,
    [batch, sequence, d]: [usize; 3],
    op: impl FnOnce(Tensor<3>) -> Tensor<D>,
) -> Gradients {
    let rows = batch * sequence;
    let x = wide.clone().swap_dims(0, 1).slice([0..rows, d / 2..d / 2 + d]).reshape([batch, sequence, d]);
    let y = op(x.clone());
    let total = if D == 1 { y.clone().sum() } else { y.clone().powi_scalar(2).sum() };
    let grads = (total + x.powi_scalar(2).sum()).backward();
    (read(y.inner()), vec![read(wide.grad(&grads).expect("a gradient"))])
}

/// Runs the operation of `compute` and the reference body in f64 on the same numbers.
fn agree<const D: usize>(
    name: &str,
    shape: [usize; 3],
    weights: &[Vec<f64>],
    fused: impl Fn(Tensor<3>, &Flat, &[std::ops::Range<usize>]) -> Tensor<D>,
    plain: impl Fn(Tensor<3>, Vec<Tensor<2>>) -> Tensor<D>,
) {
    let [batch, sequence, d] = shape;
    let size = [2 * d, batch * sequence];
    let values = numbers(size[0] * size[1], 1);
    let device = Device::flex().autodiff();
    let exact = |values: &[f64], shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), (&device, DType::F64))
    };
    let tensors = weights.iter().map(|values| exact(values, [values.len() / d, d])).collect();
    let (want, want_gradients) = of_a_part(exact(&values, size).require_grad(), shape, |x| plain(x, tensors));
    for compute in Compute::ALL {
        let of_weights: Vec<&[f64]> = weights.iter().map(Vec::as_slice).collect();
        let (flat, ranges) = flatten(&of_weights);
        let gradients = vec![0f32; flat.len()];
        let flat = Flat::with_gradients(*compute, Arc::new(flat), gradients);
        let (got, gradients) = of_a_part(input(*compute, &values, size), shape, |x| fused(x, &flat, &ranges));
        for (got, want) in [(&got, &want), (&gradients[0], &want_gradients[0])] {
            let off = difference(got, want);
            assert!(off < 2e-5, "{name} on {compute:?}: off by {off}");
        }
    }
}

#[test]
fn turned_and_shared_inputs_give_every_operation_what_plain_ones_give() {
    let (batch, sequence, d) = (2, 5, 12);
    let shape = [batch, sequence, d];
    let config = BlockConfig {
        d_model: d,
        n_heads: 2,
        n_kv_heads: 2,
        mlp_width: d,
        clip_qkv: None,
        norm: RMS,
        norm_after: true,
        qk_norm: true,
        window: None,
    };
    let rope = Arc::new(Rope::new(config.head_width(), 10_000.0, sequence));
    let weights: Vec<Vec<f64>> = [3 * d * d, d * d, 2 * d * d, d * d, d, d, d, d]
        .iter()
        .zip(2..)
        .map(|(count, seed)| numbers(*count, seed))
        .collect();
    agree(
        "block",
        shape,
        &weights,
        |x, flat, ranges| {
            let [att_proj, attn_out, ff_proj, ff_out] = [0, 1, 2, 3].map(|index| ranges[index].clone());
            let [attn_norm, ff_norm, q_norm, k_norm] = [4, 5, 6, 7].map(|index| Some(ranges[index].clone()));
            let weights = BlockWeights { att_proj, attn_out, ff_proj, ff_out, attn_norm, ff_norm, q_norm, k_norm };
            let placed = Placed { rope: rope.clone(), documents: None };
            block_flat(&config, &placed, x, flat, &weights, Keep::All)
        },
        |x, weights| {
            let vector = |index: usize| Some(weights[index].clone().reshape([d]));
            let tensors = BlockTensors {
                att_proj: weights[0].clone(),
                attn_out: weights[1].clone(),
                ff_proj: weights[2].clone(),
                ff_out: weights[3].clone(),
                attn_norm: vector(4),
                ff_norm: vector(5),
                q_norm: vector(6),
                k_norm: vector(7),
            };
            reference::block(&config, &Places::rows(&rope, sequence), x, &tensors)
        },
    );
    agree(
        "norm",
        shape,
        &[numbers(d, 3)],
        |x, flat, ranges| norm_flat(RMS, x, flat, ranges.first()),
        |x, weights| reference::norm(RMS, x, Some(weights[0].clone().reshape([d]))),
    );
    let targets = [0, IGNORED, 8, 2, 2, 1, 0, IGNORED, 5, 6];
    let terms = LossTerms { denominator: 4.0, z_loss: 1e-2 };
    agree(
        "head and loss",
        shape,
        &[numbers(9 * d, 4)],
        |x, flat, ranges| head_loss_flat(x, flat, &ranges[0], &targets, terms).0,
        |x, weights| reference::head_loss(x, weights[0].clone(), &targets, terms).loss,
    );
}
