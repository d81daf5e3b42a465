//! Inputs as a graph brings them: seen through another order of dimensions, and the same tensor in several places.

mod common;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{difference, numbers, read};
use olmo_ops::{
    BlockConfig, BlockTensors, Compute, IGNORED, Keep, LossTerms, Norm, NormKind, Placed, Places, Rope, block,
    block_reference, embedding, embedding_reference, head_loss, head_loss_reference, norm, norm_reference,
};

const RMS: Norm = Norm { kind: NormKind::Rms, eps: 1e-6 };

/// A tensor whose memory holds another order of dimensions than its shape says.
fn turned(device: &Device, [rows, columns]: [usize; 2], seed: u64) -> Tensor<2> {
    let values = TensorData::new(numbers(rows * columns, seed), [columns, rows]);
    Tensor::<2>::from_data(values, (device, DType::F32)).require_grad()
}

fn devices() -> impl Iterator<Item = Device> {
    Compute::ALL.iter().map(|compute| {
        compute.prepare();
        compute.device().autodiff()
    })
}

/// Output and gradients agree.
fn agree(name: &str, made: &[Vec<f64>; 2], wanted: &[Vec<f64>; 2]) {
    for (made, wanted) in made.iter().zip(wanted) {
        let off = difference(made, wanted);
        assert!(off < 2e-5, "{name}: off by {off}");
    }
}

#[test]
fn turned_and_shared_inputs_give_every_operation_what_plain_ones_give() {
    for device in devices() {
        let (batch, sequence, d) = (2, 5, 12);
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
        // One matrix is three weights at once, seen from its side; one vector is all four norms; the input is a part of something larger.
        let run = |fused: bool| {
            let wide = turned(&device, [batch * sequence, 2 * d], 1);
            let square = turned(&device, [d, d], 2);
            let scale =
                Tensor::<1>::from_data(TensorData::new(numbers(d, 3), [d]), (&device, DType::F32)).require_grad();
            let side = square.clone().swap_dims(0, 1);
            let both = |x: Tensor<2>| Tensor::cat(vec![x.clone(), x], 0);
            let three = Tensor::cat(vec![side.clone(), side.clone(), side.clone()], 0);
            let vector = Some(scale.clone());
            let weights = BlockTensors {
                att_proj: three,
                attn_out: side.clone(),
                ff_proj: both(side.clone()),
                ff_out: side.clone(),
                attn_norm: vector.clone(),
                ff_norm: vector.clone(),
                q_norm: vector.clone(),
                k_norm: vector,
            };
            let x = wide
                .clone()
                .swap_dims(0, 1)
                .slice([0..batch * sequence, d / 2..d / 2 + d])
                .reshape([batch, sequence, d]);
            let placed = Placed { rope: rope.clone(), documents: None };
            let y = match fused {
                true => block(&config, &placed, x, &weights, Keep::All),
                false => block_reference(&config, &Places::rows(&rope, sequence), x, &weights),
            };
            let grads = y.clone().powi_scalar(2).sum().backward();
            let gradients = [
                read(wide.grad(&grads).unwrap()),
                read(square.grad(&grads).unwrap()),
                read(scale.grad(&grads).unwrap()),
            ];
            [read(y.inner()), gradients.concat()]
        };
        agree("block", &run(true), &run(false));

        let run = |fused: bool| {
            let wide = turned(&device, [6, 8], 4);
            let x = wide.clone().swap_dims(0, 1).reshape([1, 6, 8]);
            let weight = wide.clone().swap_dims(0, 1).slice([2..3, 0..8]).reshape([8]);
            let y = if fused { norm(RMS, x, Some(weight)) } else { norm_reference(RMS, x, Some(weight)) };
            let grads = y.clone().powi_scalar(2).sum().backward();
            [read(y.inner()), read(wide.grad(&grads).unwrap())]
        };
        agree("norm", &run(true), &run(false));

        let run = |fused: bool| {
            let table = turned(&device, [9, 8], 5);
            let (weight, ids) = (table.clone().swap_dims(0, 1), [3u32, 0, 8, 3]);
            let apply = if fused { embedding } else { embedding_reference };
            let y = apply(weight, &ids, [2, 2]);
            let grads = y.clone().powi_scalar(2).sum().backward();
            [read(y.inner()), read(table.grad(&grads).unwrap())]
        };
        agree("embedding", &run(true), &run(false));

        // The head is tied: the hidden states are rows of its own weight.
        let run = |fused: bool| {
            let table = turned(&device, [9, 8], 6);
            let weight = table.clone().swap_dims(0, 1);
            let hidden = weight.clone().slice([1..6, 0..8]).reshape([1, 5, 8]);
            let terms = LossTerms { denominator: 4.0, z_loss: 1e-2 };
            let apply = if fused { head_loss } else { head_loss_reference };
            let loss = apply(hidden, weight, &[0, IGNORED, 8, 2, 2], terms).loss;
            let grads = loss.clone().backward();
            [read(loss.inner()), read(table.grad(&grads).unwrap())]
        };
        agree("head and loss", &run(true), &run(false));
    }
}
