//! The reference bodies: the definition of each operation in plain Burn, with gradients from Burn's
//! autodiff.

use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use olmo_ops::{BlockConfig, IGNORED, LossTerms, Norm, NormKind, Places, Rope, Sums};

/// A block's weights as tensors; the layouts are those of `BlockWeights`.
pub(crate) struct BlockTensors {
    pub att_proj: Tensor<2>,
    pub attn_out: Tensor<2>,
    pub ff_proj: Tensor<2>,
    pub ff_out: Tensor<2>,
    pub attn_norm: Option<Tensor<1>>,
    pub ff_norm: Option<Tensor<1>>,
    pub q_norm: Option<Tensor<1>>,
    pub k_norm: Option<Tensor<1>>,
}

/// A loss and its components.
pub(crate) struct HeadLoss {
    /// `(nll + z) / denominator`, one element; differentiable.
    pub loss: Tensor<1>,
    pub sums: Sums,
}

/// A transformer block: maps `[batch, sequence, d]` to the same shape.
pub(crate) fn block(config: &BlockConfig, places: &Places<'_>, x: Tensor<3>, weights: &BlockTensors) -> Tensor<3> {
    let normed = |x: Tensor<3>, weight: &Option<Tensor<1>>, here: bool| {
        if here { norm(config.norm, x, weight.clone()) } else { x }
    };
    let before = normed(x.clone(), &weights.attn_norm, !config.norm_after);
    let attended = attention(config, places, before, weights);
    let x = x + normed(attended, &weights.attn_norm, config.norm_after);
    let before = normed(x.clone(), &weights.ff_norm, !config.norm_after);
    x + normed(mlp(config, before, weights), &weights.ff_norm, config.norm_after)
}

/// Score of a hidden position: its exponential is zero, and every precision can represent it.
const HIDDEN: f32 = -1e30;

fn attention(config: &BlockConfig, places: &Places<'_>, x: Tensor<3>, weights: &BlockTensors) -> Tensor<3> {
    let rope = places.rope;
    let [batch, sequence, _] = x.dims();
    let (head, queries, kv) = (config.head_dim, config.query_width(), config.kv_width());
    let device = x.device();
    let mut qkv = linear(x, weights.att_proj.clone());
    if let Some(clip) = config.clip_qkv {
        qkv = qkv.clamp(-clip, clip);
    }
    let part = |start: usize, width: usize| qkv.clone().slice([0..batch, 0..sequence, start..start + width]);
    let (mut q, mut k, v) = (part(0, queries), part(queries, kv), part(queries + kv, kv));
    if config.qk_norm {
        q = norm(config.norm, q, weights.q_norm.clone());
        k = norm(config.norm, k, weights.k_norm.clone());
    }
    let split = |x: Tensor<3>, heads: usize| x.reshape([batch, sequence, heads, head]).swap_dims(1, 2);
    let q = rotate(rope, split(q, config.n_heads));
    let k = rotate(rope, split(k, config.n_kv_heads));
    let group = config.n_heads / config.n_kv_heads;
    let repeat = |x: Tensor<4>| -> Tensor<4> {
        let grouped: Tensor<5> = x.unsqueeze_dim(2);
        grouped.repeat_dim(2, group).reshape([batch, config.n_heads, sequence, head])
    };
    let scores = q.matmul(repeat(k).swap_dims(2, 3)) / (head as f64).sqrt();
    let hidden = hidden(config, places, batch, &device.without_autodiff());
    let hidden = hidden.expand([batch, config.n_heads, sequence, sequence]);
    let attended = softmax(scores.mask_fill(hidden, HIDDEN), 3).matmul(repeat(split(v, config.n_kv_heads)));
    linear(attended.swap_dims(1, 2).reshape([batch, sequence, queries]), weights.attn_out.clone())
}

/// `[batch or 1, 1, query, key]`: the positions that a query does not see.
fn hidden(config: &BlockConfig, places: &Places<'_>, batch: usize, device: &Device) -> Tensor<4, Bool> {
    let sequence = places.sequence;
    let batch = if places.documents.is_some() { batch } else { 1 };
    let document = |row: usize, query: usize| places.documents.map_or(0, |all| all[row * sequence + query] as usize);
    let sees =
        |row: usize, query: usize, key: usize| key <= query && key >= config.sees_from(query, document(row, query));
    let of_query = |row: usize, query: usize| (0..sequence).map(move |key| !sees(row, query, key));
    let of_row = |row: usize| (0..sequence).flat_map(move |query| of_query(row, query));
    let values: Vec<bool> = (0..batch).flat_map(of_row).collect();
    Tensor::from_data(TensorData::new(values, [batch, 1, sequence, sequence]), device)
}

/// `x [batch, heads, sequence, head]` with each pair `(i, i + head / 2)` rotated by its position's
/// angle.
fn rotate(rope: &Rope, x: Tensor<4>) -> Tensor<4> {
    let [batch, heads, sequence, head] = x.dims();
    let half = head / 2;
    let table = |pick: &dyn Fn(usize) -> Vec<f32>| -> Tensor<4> {
        let values: Vec<f32> = (0..sequence).flat_map(pick).collect();
        Tensor::<4>::from_data(TensorData::new(values, [1, 1, sequence, half]), (&x.device(), x.dtype()))
    };
    let cos = table(&|position| rope.at(position).0.to_vec());
    let sin = table(&|position| rope.at(position).1.to_vec());
    let part = |start: usize| x.clone().slice([0..batch, 0..heads, 0..sequence, start..start + half]);
    let (a, b) = (part(0), part(half));
    Tensor::cat(vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin], 3)
}

fn mlp(config: &BlockConfig, x: Tensor<3>, weights: &BlockTensors) -> Tensor<3> {
    let [batch, sequence, _] = x.dims();
    let up_gate = linear(x, weights.ff_proj.clone());
    let half = |start: usize| up_gate.clone().slice([0..batch, 0..sequence, start..start + config.mlp_width]);
    linear(silu(half(config.mlp_width)) * half(0), weights.ff_out.clone())
}

/// `norm(x) * weight` over the last dimension of `x [batch, sequence, d]`.
pub(crate) fn norm(norm: Norm, x: Tensor<3>, weight: Option<Tensor<1>>) -> Tensor<3> {
    let centred = match norm.kind {
        NormKind::Rms => x,
        NormKind::Layer => x.clone() - x.mean_dim(2),
    };
    let normed = centred.clone() / (centred.clone() * centred).mean_dim(2).add_scalar(norm.eps).sqrt();
    match weight {
        Some(weight) => normed * weight.unsqueeze::<3>(),
        None => normed,
    }
}

/// `x [batch, sequence, in]` times the transpose of `weight [out, in]`.
fn linear(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    x.matmul(weight.swap_dims(0, 1).unsqueeze::<3>())
}

/// `[batch, sequence, d]`: the rows of `weight [rows, d]` at `ids`.
pub(crate) fn embedding(weight: Tensor<2>, ids: &[u32], [batch, sequence]: [usize; 2]) -> Tensor<3> {
    let width = weight.dims()[1];
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [batch * sequence]), &weight.device());
    weight.select(0, ids).reshape([batch, sequence, width])
}

/// The loss of `hidden [batch, sequence, d]` with the head `weight [vocabulary, d]`.
pub(crate) fn head_loss(hidden: Tensor<3>, weight: Tensor<2>, targets: &[u32], terms: LossTerms) -> HeadLoss {
    let rows = targets.len();
    let (device, dtype) = (hidden.device(), hidden.dtype());
    let logits = linear(hidden, weight).flatten::<2>(0, 1);
    let counts: Vec<f32> = targets.iter().map(|&target| f32::from(target != IGNORED)).collect();
    let counts = Tensor::<2>::from_data(TensorData::new(counts, [rows, 1]), (&device, dtype));
    let picks: Vec<i64> = targets.iter().map(|&target| if target == IGNORED { 0 } else { i64::from(target) }).collect();
    let picks = Tensor::<2, Int>::from_data(TensorData::new(picks, [rows, 1]), &device);
    let largest = logits.clone().detach().max_dim(1);
    let lse = (logits.clone() - largest.clone()).exp().sum_dim(1).log() + largest;
    let nll = ((lse.clone() - logits.gather(1, picks)) * counts.clone()).sum();
    let z = (lse.clone() * lse * counts).sum() * terms.z_loss;
    let number = |x: &Tensor<1>| x.clone().inner().into_data().iter::<f64>().next().unwrap_or(0.0);
    let labels = targets.iter().filter(|&&target| target != IGNORED).count() as u64;
    let sums = Sums { nll: number(&nll), z: number(&z), labels };
    HeadLoss { loss: (nll + z) / terms.denominator, sums }
}
