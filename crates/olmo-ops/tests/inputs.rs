//! Inputs as a graph brings them: seen through another order of dimensions, parts of something
//! larger, and the same tensor in several places.

mod common;

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device as BurnDevice, Tensor, TensorData};
use common::reference::{self, BlockTensors};
use common::{Block, Gradients, Head, On, Operation, Work, difference, flatten, input, numbers, read, train};
use olmo_ops::{BlockConfig, Device, IGNORED, Keep, LossTerms, Norm, NormKind, Placed, Places, Rope, RopeConfig};

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

struct OfAPart<'a, O, const D: usize> {
    wide: Tensor<2>,
    shape: [usize; 3],
    ranges: &'a [Range<usize>],
    operation: &'a O,
}

impl<O: Operation<D>, const D: usize> Work<Gradients> for OfAPart<'_, O, D> {
    fn run<T: Device>(self, device: &T) -> Gradients {
        let OfAPart { wide, shape, ranges, operation } = self;
        of_a_part(wide, shape, |x| operation.apply(device, ranges, x))
    }
}

/// Runs the operation on every device, and the reference body in f64, on the same numbers.
fn agree<const D: usize>(
    name: &str,
    shape: [usize; 3],
    weights: &[Vec<f64>],
    operation: &impl Operation<D>,
    plain: impl Fn(Tensor<3>, Vec<Tensor<2>>) -> Tensor<D>,
) {
    let [batch, sequence, d] = shape;
    let size = [2 * d, batch * sequence];
    let values = numbers(size[0] * size[1], 1);
    let device = BurnDevice::flex().autodiff();
    let exact = |values: &[f64], shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), (&device, DType::F64))
    };
    let tensors = weights.iter().map(|values| exact(values, [values.len() / d, d])).collect();
    let (want, want_gradients) = of_a_part(exact(&values, size).require_grad(), shape, |x| plain(x, tensors));
    for on in On::all() {
        let weights: Vec<&[f64]> = weights.iter().map(Vec::as_slice).collect();
        let (flat, ranges) = flatten(&weights);
        let part = OfAPart::<_, D> { wide: input(on, &values, size), shape, ranges: &ranges, operation };
        let ((got, gradients), _) = train(on, flat, part);
        for (got, want) in [(&got, &want), (&gradients[0], &want_gradients[0])] {
            let off = difference(got, want);
            assert!(off < 2e-5, "{name} on {on:?}: off by {off}");
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
        head_dim: d / 2,
        rope: RopeConfig::new(10_000.0),
        mlp_width: d,
        clip_qkv: None,
        norm: RMS,
        norm_after: true,
        qk_norm: true,
        window: None,
    };
    let rope = Arc::new(Rope::new(config.rope, config.head_dim, sequence));
    let weights: Vec<Vec<f64>> = [3 * d * d, d * d, 2 * d * d, d * d, d, d, d, d]
        .iter()
        .zip(2..)
        .map(|(count, seed)| numbers(*count, seed))
        .collect();
    agree(
        "block",
        shape,
        &weights,
        &Block {
            config: &config,
            placed: Placed { rope: rope.clone(), documents: None },
            affine: true,
            keep: Keep::All,
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
    agree("norm", shape, &[numbers(d, 3)], &RMS, |x, weights| {
        reference::norm(RMS, x, Some(weights[0].clone().reshape([d])))
    });
    let targets = [0, IGNORED, 8, 2, 2, 1, 0, IGNORED, 5, 6];
    let terms = LossTerms { denominator: 4.0, z_loss: 1e-2 };
    agree(
        "head and loss",
        shape,
        &[numbers(9 * d, 4)],
        &Head { targets: &targets, terms, sums: Cell::default() },
        |x, weights| reference::head_loss(x, weights[0].clone(), &targets, terms).loss,
    );
}
