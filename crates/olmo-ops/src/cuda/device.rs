//! [`Cuda`] as a [`Device`]: products and attention by libtorch, the rest by our own kernels.

use burn::backend::LibTorch;
use burn_tch::TchTensor;
use olmo_torch::{
    Argument, AttentionKept, Kind, Tensor, device_attention_backward, device_attention_forward, download,
};

use super::training::Losses;
use super::weights::{Cuda, GRID, PARTS, Tables, sizes};
use super::{embedding, head};
use crate::config::{BlockConfig, LossTerms, Norm, NormKind, Sums};
use crate::device::{Device, HeadOutput, Life, QkNorms};
use crate::linear::{Linear, Weight};
use crate::rope::Placed;

/// State of a norm for its backward pass; f32, one per row.
pub struct NormStats {
    mean: Option<Tensor>,
    rstd: Tensor,
}

/// 1 for LayerNorm, as the kernels expect.
fn layer(norm: Norm) -> i32 {
    i32::from(norm.kind == NormKind::Layer)
}

/// The sizes that both kernels between the projection and attention take.
fn qkv_sizes(config: &BlockConfig, tables: &Tables, rows: usize) -> [Argument; 5] {
    let [queries, kv] = [config.query_width(), config.kv_width()].map(|width| width as i32);
    arguments![rows as i64, queries, kv, config.head_dim as i32, tables.shape[1] as i32]
}

/// Views of queries `[rows, heads, head_dim]`, keys and values.
fn parts(config: &BlockConfig, heads: &Tensor) -> [Tensor; 3] {
    let (queries, kv) = (config.query_width(), config.kv_width());
    let parts = [(0, queries, config.n_heads), (queries, kv, config.n_kv_heads), (queries + kv, kv, config.n_kv_heads)];
    parts.map(|(at, width, count)| {
        let shape = [count as i64, config.head_dim as i64];
        heads.narrow(1, at as i64, width as i64).unflatten(1, shape)
    })
}

/// Threads of a block of an elementwise kernel.
const ELEMENTWISE: usize = 256;

impl Device for Cuda {
    type Backend = LibTorch;
    type Array = Tensor;
    type Positions = Tables;
    type NormStats = NormStats;
    /// Mean and rstd of queries and keys, `[rows, 4]`.
    type QkvStats = Tensor;
    type Attended = AttentionKept;
    type HeadGradients = [Tensor; 3];
    type Losses = Losses;

    fn trains(&self) -> bool {
        self.differentiates()
    }

    fn array(tensor: TchTensor, width: usize) -> Tensor {
        tensor.tensor.contiguous().view([-1, width as i64])
    }

    fn primitive(array: Tensor, shape: &[usize]) -> TchTensor {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        TchTensor::new(array.view(shape.as_slice()))
    }

    fn positions(&self, placed: &Placed, [batch, sequence]: [usize; 2]) -> Tables {
        placed.places(sequence).check(batch * sequence);
        self.tables(placed, [batch, sequence])
    }

    fn linear(&self, x: &Tensor, weight: &Linear) -> Tensor {
        x.matmul(&self.matrix(weight).tr())
    }

    fn linear_add(&self, residual: &Tensor, x: &Tensor, weight: &Linear, _: Life) -> Tensor {
        residual.addmm(x, &self.matrix(weight).tr())
    }

    fn linear_input(&self, dy: &Tensor, weight: &Linear) -> Tensor {
        dy.matmul(&self.matrix(weight))
    }

    fn linear_input_add(&self, residual: &Tensor, dy: &Tensor, weight: &Linear, _: Life) -> Tensor {
        residual.addmm(dy, &self.matrix(weight))
    }

    fn linear_weight(&self, weight: &Linear, dy: &Tensor, x: &Tensor) {
        self.add_product(&weight.weight, dy, x);
    }

    fn norm(
        &self,
        norm: Norm,
        x: &Tensor,
        residual: Option<&Tensor>,
        weight: Option<&Weight>,
        width: usize,
        _: Life,
    ) -> (Tensor, NormStats) {
        let rows = sizes(x)[0];
        let out = self.empty(&[rows, width]);
        let mean = (norm.kind == NormKind::Layer).then(|| self.floats(&[rows]));
        let stats = NormStats { mean, rstd: self.floats(&[rows]) };
        let weight = weight.map(|weight| self.vector_of(weight));
        let (mean, rstd, layer) = (&stats.mean, &stats.rstd, layer(norm));
        let arguments = arguments![x, residual, &weight, &out, mean, rstd, rows as i64, width as i32, norm.eps, layer];
        // SAFETY: `x`, `residual` and `out` are `[rows, width]`, the weight has `width` elements, and
        // the statistics have one for each row.
        unsafe { self.launch("norm_forward", rows.min(GRID), self.threads(width), &arguments) };
        (out, stats)
    }

    fn norm_backward(
        &self,
        norm: Norm,
        dy: &Tensor,
        x: &Tensor,
        stats: &NormStats,
        residual: Option<&Tensor>,
        weight: Option<&Weight>,
        width: usize,
        _: Life,
    ) -> Tensor {
        let rows = sizes(x)[0];
        let (dx, grid) = (self.empty(&[rows, width]), rows.min(PARTS));
        let trained = weight.filter(|weight| weight.gradient.is_some());
        let parts = trained.map(|_| self.floats(&[grid, width]));
        let values = weight.map(|weight| self.vector_of(weight));
        let (NormStats { mean, rstd }, layer) = (stats, layer(norm));
        let arguments = arguments![dy, x, mean, rstd, &values, residual, &dx, &parts, rows as i64, width as i32, layer];
        // SAFETY: as in the forward pass; each of `grid` blocks writes its row of `parts`.
        unsafe { self.launch("norm_backward", grid, self.threads(width), &arguments) };
        if let (Some(weight), Some(parts)) = (trained, &parts) {
            self.add_columns(weight, parts);
        }
        dx
    }

    fn qkv(&self, config: &BlockConfig, tables: &Tables, raw: &Tensor, norms: QkNorms<'_>) -> (Tensor, Tensor) {
        let rows = sizes(raw)[0];
        let heads = self.empty(&[rows, config.qkv_width()]);
        let stats = self.floats(&[if config.qk_norm { rows } else { 0 }, 4]);
        let [wq, wk] = self.qk_values(norms);
        let tensors = arguments![raw, &wq, &wk, &tables.cosines, &tables.sines, &heads, &stats];
        let options = arguments![config.norm.eps, layer(config.norm), config.clip_qkv.unwrap_or(0.0)];
        let arguments = [&tensors[..], &qkv_sizes(config, tables, rows), &options].concat();
        // SAFETY: `raw` and `heads` are `[rows, qkv]`, the norms' weights are as wide as queries and
        // keys, and the tables reach the sequence's length.
        unsafe { self.launch("qkv_forward", rows.min(GRID), self.threads_for_pairs(config.query_width()), &arguments) };
        (heads, stats)
    }

    fn qkv_backward(
        &self,
        config: &BlockConfig,
        tables: &Tables,
        gradients: [Tensor; 3],
        raw: Option<&Tensor>,
        stats: &Tensor,
        norms: QkNorms<'_>,
    ) -> Tensor {
        let (rows, queries, kv) = (gradients[0].size()[0] as usize, config.query_width(), config.kv_width());
        let (draw, grid) = (self.empty(&[rows, config.qkv_width()]), rows.min(PARTS));
        let parts = |width: usize| config.qk_norm.then(|| self.floats(&[grid, width]));
        let (part_q, part_k) = (parts(queries), parts(kv));
        let [wq, wk] = self.qk_values(norms);
        let with_strides = |x: &Tensor| {
            let strides = x.stride();
            assert_eq!(strides[2], 1, "attention's gradients have whole rows of a head");
            arguments![x, strides[0], strides[1]]
        };
        let gradients = gradients.each_ref().map(with_strides).concat();
        let tensors = arguments![raw, &wq, &wk, &tables.cosines, &tables.sines, stats, &draw, &part_q, &part_k];
        let options = arguments![layer(config.norm), config.clip_qkv.unwrap_or(0.0)];
        let arguments = [&gradients[..], &tensors, &qkv_sizes(config, tables, rows), &options].concat();
        // SAFETY: as in the forward pass; the gradients are read by their strides, and each of
        // `grid` blocks writes its row of the parts.
        unsafe { self.launch("qkv_backward", grid, self.threads_for_pairs(queries), &arguments) };
        for (weight, parts) in norms.into_iter().flatten().zip([&part_q, &part_k]) {
            if let Some(parts) = parts {
                self.add_columns(weight, parts);
            }
        }
        draw
    }

    fn attention(&self, config: &BlockConfig, tables: &Tables, heads: &Tensor) -> AttentionKept {
        let [q, k, v] = parts(config, heads);
        device_attention_forward(&tables.attention(config), &q, &k, &v)
    }

    fn attended(attended: &AttentionKept) -> &Tensor {
        &attended.output
    }

    fn attention_backward(
        &self,
        config: &BlockConfig,
        tables: &Tables,
        heads: &Tensor,
        attended: &AttentionKept,
        dattended: &Tensor,
    ) -> [Tensor; 3] {
        let [q, k, v] = parts(config, heads);
        device_attention_backward(&tables.attention(config), &q, &k, &v, attended, dattended)
    }

    fn swiglu(&self, up_gate: &Tensor, width: usize) -> Tensor {
        let activation = self.empty(&[sizes(up_gate)[0], width]);
        let total = activation.numel() / self.vector();
        let arguments = arguments![up_gate, &activation, width as i32, total as i64];
        // SAFETY: `up_gate` has rows of two `width` elements, `activation` of one.
        unsafe { self.launch("swiglu_forward", total.div_ceil(ELEMENTWISE), ELEMENTWISE, &arguments) };
        activation
    }

    fn swiglu_backward(&self, up_gate: &mut Tensor, activation: &mut Tensor, width: usize) {
        let total = activation.numel() / self.vector();
        let arguments = arguments![&*up_gate, &*activation, width as i32, total as i64];
        // SAFETY: as in the forward pass; both are written, and exclusively borrowed.
        unsafe { self.launch("swiglu_backward", total.div_ceil(ELEMENTWISE), ELEMENTWISE, &arguments) };
    }

    fn embed(&self, weight: &Linear, ids: &[u32]) -> Tensor {
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        self.matrix(weight).index_select(0, &self.integers(&ids))
    }

    fn embed_backward(&self, weight: &Linear, ids: &[u32], dx: &Tensor) {
        embedding::backward(self, weight, ids, dx);
    }

    fn head_loss(
        &self,
        hidden: &Tensor,
        weight: &Linear,
        targets: &[u32],
        terms: LossTerms,
        gradients: bool,
    ) -> HeadOutput<Cuda> {
        head::loss(self, hidden, weight, targets, terms, gradients)
    }

    fn sums(losses: &Losses) -> Sums {
        losses.sums()
    }

    fn check_loss_gradient(_: TchTensor) {
        // Reading its value would wait for the device.
    }

    fn logits(&self, hidden: &Tensor, weight: &Linear) -> Vec<f32> {
        download(&hidden.matmul(&self.matrix(weight).tr()).to_kind(Kind::Float))
    }
}
