//! A transformer block, forward and backward, with the saved state chosen by [`Keep`].

use crate::config::{BlockConfig, BlockWeights, Keep};
use crate::decoder::Decoder;
use crate::device::{Device, Life, QkNorms};
use crate::linear::{Linear, Weight};

/// State from the forward pass that the backward pass needs, in addition to the block's input and
/// weights.
pub(crate) struct Saved<D: Device> {
    attn_norm: NormState<D>,
    /// The projection before clamp and QK-norm, if either exists.
    raw: Option<D::Array>,
    /// Queries, keys and values as read by attention; they can be recomputed from `raw`.
    heads: Option<D::Array>,
    qkv_stats: D::QkvStats,
    attended: D::Attended,
    /// The residual stream after attention.
    middle: D::Array,
    ff_norm: NormState<D>,
    up_gate: D::Array,
}

/// State of one of the block's two norms.
struct NormState<D: Device> {
    /// Its result if the norm precedes the sub-layer (`None`: recompute it), its input if it
    /// follows.
    values: Option<D::Array>,
    stats: D::NormStats,
}

/// Normed values, and the statistics of their norm.
type Normed<D> = (<D as Device>::Array, <D as Device>::NormStats);

/// Attention or the MLP: a norm before or after it, its first and its last projection.
#[derive(Clone, Copy)]
struct Sublayer<'a> {
    norm: Option<&'a Weight>,
    input: &'a Linear,
    output: &'a Linear,
}

/// Queries, keys and values as read by attention, and what they were computed from.
struct Heads<D: Device> {
    /// The norm before attention, if there is one.
    before: Option<Normed<D>>,
    raw: D::Array,
    heads: D::Array,
    qkv_stats: D::QkvStats,
}

/// A block with the positions of its batch.
pub(crate) struct Block<'a, D: Device> {
    pub device: &'a D,
    pub config: &'a BlockConfig,
    pub weights: &'a BlockWeights<Linear, Weight>,
    pub positions: &'a D::Positions,
}

impl<D: Device> Block<'_, D> {
    /// The block's output and, with `keep`, the state for [`Block::backward`] (none if it must
    /// recompute everything).
    pub(crate) fn forward(&self, x: &D::Array, keep: Option<Keep>) -> (D::Array, Option<Saved<D>>) {
        let Block { device, config, positions, .. } = self;
        let Heads { before, raw, heads, qkv_stats } = self.heads(x);
        let raw = config.needs_raw().then_some(raw);
        let attended = device.attention(config, positions, &heads);
        let (middle, mut attn_norm) = self.leave(self.attention(), x, D::attended(&attended), before, Life::Scratch);
        let (output, mut ff_norm, up_gate) = self.add_mlp(&middle);

        let Some(keep) = keep.filter(|keep| *keep != Keep::Nothing) else { return (output, None) };
        if !keep.norm_values(config) {
            (attn_norm.values, ff_norm.values) = (None, None);
        }
        let heads = keep.heads(config).then_some(heads);
        (output, Some(Saved { attn_norm, raw, heads, qkv_stats, attended, middle, ff_norm, up_gate }))
    }

    fn heads(&self, x: &D::Array) -> Heads<D> {
        let (before, raw) = self.enter(self.attention(), x);
        let (heads, qkv_stats) = self.device.qkv(self.config, self.positions, &raw, self.qk_norms());
        Heads { before, raw, heads, qkv_stats }
    }

    /// The residual stream after the MLP, from that after attention; the norm's state, and up and
    /// gate.
    fn add_mlp(&self, middle: &D::Array) -> (D::Array, NormState<D>, D::Array) {
        let (before, up_gate) = self.enter(self.mlp(), middle);
        let activation = self.device.swiglu(&up_gate, self.config.mlp_width);
        let (output, ff_norm) = self.leave(self.mlp(), middle, &activation, before, Life::Output);
        (output, ff_norm, up_gate)
    }

    /// Computes the gradient of the block's input for the incoming `dy` and adds those of the
    /// trained weights. Without `saved`, the forward pass runs again.
    pub(crate) fn backward(&self, x: &D::Array, saved: Option<Saved<D>>, dy: &D::Array) -> D::Array {
        let Block { device, config, positions, .. } = self;
        let saved = saved.or_else(|| self.forward(x, Some(Keep::All)).1);
        let Saved { attn_norm, raw, heads, qkv_stats, attended, middle, ff_norm, mut up_gate } =
            saved.expect("a forward pass that keeps everything gives it");

        let mlp = self.mlp();
        let dmiddle = self.sublayer_backward(mlp, &middle, &ff_norm, dy, Life::Scratch, |dsum| {
            // up_gate turns into its gradient, and the activation is recomputed in place of its
            // gradient.
            let mut activation = device.linear_input(dsum, mlp.output);
            device.swiglu_backward(&mut up_gate, &mut activation, config.mlp_width);
            device.linear_weight(mlp.output, dsum, &activation);
            up_gate
        });
        drop((ff_norm, middle));

        let attention = self.attention();
        self.sublayer_backward(attention, x, &attn_norm, &dmiddle, Life::Output, |dsum| {
            let dattended = device.linear_input(dsum, attention.output);
            device.linear_weight(attention.output, dsum, D::attended(&attended));
            let heads = heads.unwrap_or_else(|| {
                device.qkv(config, positions, raw.as_ref().expect("kept where heads are not"), self.qk_norms()).0
            });
            let dheads = device.attention_backward(config, positions, &heads, &attended, &dattended);
            drop((dattended, attended, heads));
            device.qkv_backward(config, positions, dheads, raw.as_ref(), &qkv_stats, self.qk_norms())
        })
    }

    fn attention(&self) -> Sublayer<'_> {
        let BlockWeights { attn_norm, att_proj, attn_out, .. } = self.weights;
        Sublayer { norm: attn_norm.as_ref(), input: att_proj, output: attn_out }
    }

    fn mlp(&self) -> Sublayer<'_> {
        let BlockWeights { ff_norm, ff_proj, ff_out, .. } = self.weights;
        Sublayer { norm: ff_norm.as_ref(), input: ff_proj, output: ff_out }
    }

    fn qk_norms(&self) -> QkNorms<'_> {
        Some([self.weights.q_norm.as_ref()?, self.weights.k_norm.as_ref()?]).filter(|_| self.config.qk_norm)
    }

    fn norm(&self, x: &D::Array, weight: Option<&Weight>) -> Normed<D> {
        self.device.norm(self.config.norm, x, None, weight, self.config.d_model, Life::Scratch)
    }

    /// The norm of a sub-layer's input `x`, if norms precede sub-layers, and its first projection.
    fn enter(&self, sublayer: Sublayer<'_>, x: &D::Array) -> (Option<Normed<D>>, D::Array) {
        let before = (!self.config.norm_after).then(|| self.norm(x, sublayer.norm));
        let projected = self.device.linear(before.as_ref().map_or(x, |(values, _)| values), sublayer.input);
        (before, projected)
    }

    /// `residual` plus the last projection of `inner`, which is normed before the addition if there
    /// is no state of a norm `before`.
    fn leave(
        &self,
        Sublayer { norm, output, .. }: Sublayer<'_>,
        residual: &D::Array,
        inner: &D::Array,
        before: Option<Normed<D>>,
        life: Life,
    ) -> (D::Array, NormState<D>) {
        let Block { device, config, .. } = self;
        if let Some((values, stats)) = before {
            let sum = device.linear_add(residual, inner, output, life);
            return (sum, NormState { values: Some(values), stats });
        }
        let values = device.linear(inner, output);
        let (sum, stats) = device.norm(config.norm, &values, Some(residual), norm, config.d_model, life);
        (sum, NormState { values: Some(values), stats })
    }

    /// The gradient of a sub-layer's input `x` from that of its sum with the residual, `dsum`.
    /// `inner` maps the gradient of the last projection to that of the first one. Adds the gradients
    /// of the norm's weight and of the first projection.
    fn sublayer_backward(
        &self,
        sublayer: Sublayer<'_>,
        x: &D::Array,
        state: &NormState<D>,
        dsum: &D::Array,
        life: Life,
        inner: impl FnOnce(&D::Array) -> D::Array,
    ) -> D::Array {
        let Block { device, config, .. } = self;
        let through_norm = |dy: &D::Array, input: &D::Array, residual: Option<&D::Array>, life: Life| {
            device.norm_backward(config.norm, dy, input, &state.stats, residual, sublayer.norm, config.d_model, life)
        };
        // Only a norm before the sub-layer may not have kept its values; these follow from `x`.
        let recomputed = state.values.is_none().then(|| self.norm(x, sublayer.norm).0);
        let values = state.values.as_ref().or(recomputed.as_ref()).expect("kept or recomputed");
        let after = config.norm_after.then(|| through_norm(dsum, values, None, Life::Scratch));
        let dprojected = inner(after.as_ref().unwrap_or(dsum));
        drop(after);
        device.linear_weight(sublayer.input, &dprojected, if config.norm_after { x } else { values });
        drop(recomputed);
        if config.norm_after {
            return device.linear_input_add(dsum, &dprojected, sublayer.input, life);
        }
        through_norm(&device.linear_input(&dprojected, sublayer.input), x, Some(dsum), life)
    }
}

impl<D: Decoder> Block<'_, D> {
    /// The block's output for rows that begin sequences; fills the cache with their first `lengths`
    /// tokens.
    pub(crate) fn prefill(&self, x: &D::Array, lengths: &[usize], cache: &mut D::KvCache) -> D::Array {
        let Heads { before, heads, .. } = self.heads(x);
        self.device.kv_fill(self.config, cache, &heads, lengths);
        let attended = self.device.attention(self.config, self.positions, &heads);
        self.after_attention(x, D::attended(&attended), before)
    }

    /// The block's output for the next token of each sequence in the cache.
    pub(crate) fn step(&self, x: &D::Array, cache: &mut D::KvCache) -> D::Array {
        let Heads { before, heads, .. } = self.heads(x);
        let attended = self.device.attention_next(self.config, self.positions, cache, &heads);
        self.after_attention(x, &attended, before)
    }

    fn after_attention(&self, x: &D::Array, attended: &D::Array, before: Option<(D::Array, D::NormStats)>) -> D::Array {
        let (middle, _) = self.leave(self.attention(), x, attended, before, Life::Scratch);
        self.add_mlp(&middle).0
    }
}
