//! A transformer block, forward and backward, with the saved state chosen by [`Keep`].

use std::ops::Range;

use olmo_torch::{AttentionKept, Tensor, device_attention_backward, device_attention_forward};

use super::flat::{DeviceFlat, GRID, PARTS, Tables};
use super::norm::{self, Stats};
use crate::config::{BlockConfig, BlockWeights, Keep};

/// Ranges of a block's weights.
pub(super) type Ranges = BlockWeights<Range<usize>>;

/// State from the forward pass that the backward pass needs, in addition to the block's input and
/// weights. All matrices have the batch's tokens as rows.
#[derive(Debug)]
pub(super) struct Saved {
    attn_norm: NormState,
    /// The projection before clamp and QK-norm, if either exists.
    raw: Option<Tensor>,
    /// Queries, keys and values as read by attention; they can be recomputed from `raw`.
    heads: Option<Tensor>,
    /// Mean and rstd of queries and keys, `[rows, 4]`.
    qk_stats: Tensor,
    attended: AttentionKept,
    middle: Tensor,
    ff_norm: NormState,
    up_gate: Tensor,
}

/// State of one of the block's two norms.
#[derive(Debug)]
struct NormState {
    /// Its result if the norm precedes the sub-layer (`None`: recompute it), its input if it
    /// follows.
    values: Option<Tensor>,
    stats: Stats,
}

/// A block with its batch.
pub(super) struct Block<'a> {
    pub flat: &'a DeviceFlat,
    pub config: &'a BlockConfig,
    pub weights: &'a Ranges,
    pub tables: &'a Tables,
    /// Number of rows, and row length in tokens.
    pub shape: [usize; 2],
}

impl Block<'_> {
    /// The block's output and, with `keep`, the state for [`Block::backward`] (none if it must
    /// recompute everything).
    pub(super) fn forward(&self, x: &Tensor, keep: Option<Keep>) -> (Tensor, Option<Saved>) {
        let Block { flat, config, weights, .. } = self;
        let (d, mlp) = (config.d_model, config.mlp_width);
        let linear =
            |input: &Tensor, weight: &Range<usize>, width: usize| input.matmul(&flat.matrix(weight, width).tr());

        let before = self.normed(x, weights.attn_norm.as_ref());
        let raw = linear(before.as_ref().map_or(x, |(values, _)| values), &weights.att_proj, d);
        let (heads, qk_stats) = self.heads(&raw);
        let raw = config.needs_raw().then_some(raw);
        let [q, k, v] = self.parts(&heads);
        let attended = device_attention_forward(&self.tables.attention(config, self.shape), &q, &k, &v);
        drop((q, k, v));
        let (middle, mut attn_norm) =
            self.add_sublayer(x, &attended.output, &weights.attn_out, d, weights.attn_norm.as_ref(), before);

        let before = self.normed(&middle, weights.ff_norm.as_ref());
        let up_gate = linear(before.as_ref().map_or(&middle, |(values, _)| values), &weights.ff_proj, d);
        let activation = self.swiglu(&up_gate);
        let (output, mut ff_norm) =
            self.add_sublayer(&middle, &activation, &weights.ff_out, mlp, weights.ff_norm.as_ref(), before);

        let Some(keep) = keep.filter(|keep| *keep != Keep::Nothing) else { return (output, None) };
        if !keep.norm_values(config) {
            (attn_norm.values, ff_norm.values) = (None, None);
        }
        let heads = keep.heads(config).then_some(heads);
        (output, Some(Saved { attn_norm, raw, heads, qk_stats, attended, middle, ff_norm, up_gate }))
    }

    /// Computes the gradient of the block's input for the incoming `dy` and adds those of the
    /// weights. Without `saved`, the forward pass runs again.
    pub(super) fn backward(&self, x: &Tensor, saved: Option<Saved>, dy: &Tensor) -> Tensor {
        let Block { flat, config, weights, .. } = self;
        let (d, mlp) = (config.d_model, config.mlp_width);
        let saved = saved.or_else(|| self.forward(x, Some(Keep::All)).1);
        let Saved { attn_norm, raw, heads, qk_stats, attended, middle, ff_norm, up_gate } =
            saved.expect("a forward pass that keeps everything gives it");

        // The MLP: up_gate turns into its gradient, and the activation is recomputed in place of
        // its gradient.
        let ff_values = self.values(&ff_norm, &middle, weights.ff_norm.as_ref());
        let after = self.before_norm(dy, &ff_values, &ff_norm.stats, weights.ff_norm.as_ref());
        let dsum = after.as_ref().unwrap_or(dy);
        let activation = dsum.matmul(&flat.matrix(&weights.ff_out, mlp));
        let (total, block) = self.elementwise(activation.numel());
        let arguments = [(&up_gate).into(), (&activation).into(), (mlp as i32).into(), (total as i64).into()];
        flat.launch("swiglu_backward", total.div_ceil(block), block, &arguments);
        flat.add_product(&weights.ff_out, dsum, &activation);
        drop(activation);
        let input = if config.norm_after { &middle } else { &ff_values };
        flat.add_product(&weights.ff_proj, &up_gate, input);
        let projection = flat.matrix(&weights.ff_proj, d);
        let dmiddle = self.through_input(dy, &up_gate, &projection, &middle, &ff_norm.stats, weights.ff_norm.as_ref());
        drop((up_gate, after, ff_values));

        // Attention.
        let attn_values = self.values(&attn_norm, x, weights.attn_norm.as_ref());
        let after = self.before_norm(&dmiddle, &attn_values, &attn_norm.stats, weights.attn_norm.as_ref());
        let dsum = after.as_ref().unwrap_or(&dmiddle);
        let dattended = dsum.matmul(&flat.matrix(&weights.attn_out, d));
        flat.add_product(&weights.attn_out, dsum, &attended.output);
        drop(after);
        let heads = heads.unwrap_or_else(|| self.heads(raw.as_ref().expect("kept where heads are not")).0);
        let [q, k, v] = self.parts(&heads);
        let attention = self.tables.attention(config, self.shape);
        let dheads = device_attention_backward(&attention, &q, &k, &v, &attended, &dattended);
        drop((dattended, attended));
        let draw = self.draw(&dheads, raw.as_ref(), &qk_stats);
        drop(dheads);
        let input = if config.norm_after { x } else { &attn_values };
        flat.add_product(&weights.att_proj, &draw, input);
        let projection = flat.matrix(&weights.att_proj, d);
        self.through_input(&dmiddle, &draw, &projection, x, &attn_norm.stats, weights.attn_norm.as_ref())
    }

    fn rows(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Number of chunks of `elements`, and of threads per block, one chunk each.
    fn elementwise(&self, elements: usize) -> (usize, usize) {
        (elements / self.flat.vector(), 256)
    }

    /// The norm of a sub-layer's input, if norms precede sub-layers.
    fn normed(&self, x: &Tensor, weight: Option<&Range<usize>>) -> Option<(Tensor, Stats)> {
        (!self.config.norm_after).then(|| norm::forward(self.flat, self.config.norm, x, None, weight))
    }

    /// The values of a norm's state, recomputed if they were not kept.
    fn values(&self, state: &NormState, input: &Tensor, weight: Option<&Range<usize>>) -> Tensor {
        match &state.values {
            Some(values) => values.shallow_clone(),
            None => norm::forward(self.flat, self.config.norm, input, None, weight).0,
        }
    }

    /// `residual + inner * weight^T`, normed before the addition if there is no state of a norm `before`.
    fn add_sublayer(
        &self,
        residual: &Tensor,
        inner: &Tensor,
        weight: &Range<usize>,
        width: usize,
        norm_weight: Option<&Range<usize>>,
        before: Option<(Tensor, Stats)>,
    ) -> (Tensor, NormState) {
        let weight = self.flat.matrix(weight, width).tr();
        if let Some((values, stats)) = before {
            return (residual.addmm(inner, &weight), NormState { values: Some(values), stats });
        }
        let values = inner.matmul(&weight);
        let (sum, stats) = norm::forward(self.flat, self.config.norm, &values, Some(residual), norm_weight);
        (sum, NormState { values: Some(values), stats })
    }

    /// With a norm after the sub-layer: computes the gradient of the sub-layer's output and adds
    /// that of the norm's weight.
    fn before_norm(
        &self,
        dsum: &Tensor,
        values: &Tensor,
        stats: &Stats,
        weight: Option<&Range<usize>>,
    ) -> Option<Tensor> {
        let norm_after = self.config.norm_after;
        norm_after.then(|| norm::backward(self.flat, self.config.norm, dsum, values, stats, None, weight))
    }

    /// The gradient of a sub-layer's input, from that of its sum with the residual (`dsum`) and
    /// that of its first projection.
    fn through_input(
        &self,
        dsum: &Tensor,
        gradient: &Tensor,
        projection: &Tensor,
        input: &Tensor,
        stats: &Stats,
        weight: Option<&Range<usize>>,
    ) -> Tensor {
        if self.config.norm_after {
            return dsum.addmm(gradient, projection);
        }
        norm::backward(self.flat, self.config.norm, &gradient.matmul(projection), input, stats, Some(dsum), weight)
    }

    /// Queries, keys and values from their projection, and the statistics of their norms.
    fn heads(&self, raw: &Tensor) -> (Tensor, Tensor) {
        let Block { flat, config, tables, .. } = self;
        let (rows, d, kv) = (self.rows(), config.d_model, config.kv_width());
        let heads = flat.empty(&[rows, config.qkv_width()]);
        let stats = flat.floats(&[if config.qk_norm { rows } else { 0 }, 4]);
        let [wq, wk] = self.qk_norms();
        let arguments = [
            raw.into(),
            wq.as_ref().into(),
            wk.as_ref().into(),
            (&tables.cosines).into(),
            (&tables.sines).into(),
            (&heads).into(),
            (&stats).into(),
            (rows as i64).into(),
            (d as i32).into(),
            (kv as i32).into(),
            (config.head_width() as i32).into(),
            (self.shape[1] as i32).into(),
            config.norm.eps.into(),
            norm::layer(config.norm).into(),
            config.clip_qkv.unwrap_or(0.0).into(),
        ];
        flat.launch("qkv_forward", rows.min(GRID), flat.threads_for_pairs(d), &arguments);
        (heads, stats)
    }

    /// Computes the gradient of the projection from those of queries, keys and values; adds those
    /// of the norms' weights.
    fn draw(&self, [dq, dk, dv]: &[Tensor; 3], raw: Option<&Tensor>, stats: &Tensor) -> Tensor {
        let Block { flat, config, tables, weights, .. } = self;
        let (rows, d, kv) = (self.rows(), config.d_model, config.kv_width());
        let (draw, grid) = (flat.empty(&[rows, config.qkv_width()]), rows.min(PARTS));
        let parts = |width: usize| config.qk_norm.then(|| flat.floats(&[grid, width]));
        let (part_q, part_k) = (parts(d), parts(kv));
        let [wq, wk] = self.qk_norms();
        let strides = |x: &Tensor| -> [i64; 2] {
            let strides = x.stride();
            assert_eq!(strides[2], 1, "attention's gradients have whole rows of a head");
            [strides[0], strides[1]]
        };
        let ([qt, qh], [kt, kh], [vt, vh]) = (strides(dq), strides(dk), strides(dv));
        let arguments = [
            dq.into(),
            qt.into(),
            qh.into(),
            dk.into(),
            kt.into(),
            kh.into(),
            dv.into(),
            vt.into(),
            vh.into(),
            raw.into(),
            wq.as_ref().into(),
            wk.as_ref().into(),
            (&tables.cosines).into(),
            (&tables.sines).into(),
            stats.into(),
            (&draw).into(),
            part_q.as_ref().into(),
            part_k.as_ref().into(),
            (rows as i64).into(),
            (d as i32).into(),
            (kv as i32).into(),
            (config.head_width() as i32).into(),
            (self.shape[1] as i32).into(),
            norm::layer(config.norm).into(),
            config.clip_qkv.unwrap_or(0.0).into(),
        ];
        flat.launch("qkv_backward", grid, flat.threads_for_pairs(d), &arguments);
        for (range, parts) in [(&weights.q_norm, &part_q), (&weights.k_norm, &part_k)] {
            if let (Some(range), Some(parts)) = (range, parts) {
                flat.add_columns(range, parts);
            }
        }
        draw
    }

    fn qk_norms(&self) -> [Option<Tensor>; 2] {
        let used = |range: &Option<Range<usize>>| self.flat.vector_of(range.as_ref().filter(|_| self.config.qk_norm));
        [used(&self.weights.q_norm), used(&self.weights.k_norm)]
    }

    /// Views of queries `[rows, heads, head]`, keys and values.
    fn parts(&self, heads: &Tensor) -> [Tensor; 3] {
        let config = self.config;
        let (d, kv) = (config.d_model, config.kv_width());
        [(0, d, config.n_heads), (d, kv, config.n_kv_heads), (d + kv, kv, config.n_kv_heads)].map(
            |(at, width, count)| {
                let shape = [self.rows() as i64, count as i64, config.head_width() as i64];
                heads.narrow(1, at as i64, width as i64).unflatten(1, &shape[1..])
            },
        )
    }

    /// The activation between the MLP's two products.
    fn swiglu(&self, up_gate: &Tensor) -> Tensor {
        let mlp = self.config.mlp_width;
        let activation = self.flat.empty(&[self.rows(), mlp]);
        let (total, block) = self.elementwise(activation.numel());
        let arguments = [up_gate.into(), (&activation).into(), (mlp as i32).into(), (total as i64).into()];
        self.flat.launch("swiglu_forward", total.div_ceil(block), block, &arguments);
        activation
    }
}
