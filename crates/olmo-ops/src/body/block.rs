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

/// The values of a norm's state.
enum Values<'a, A> {
    Kept(&'a A),
    Recomputed(A),
}

impl<A> Values<'_, A> {
    fn get(&self) -> &A {
        match self {
            Values::Kept(values) => values,
            Values::Recomputed(values) => values,
        }
    }
}

/// Queries, keys and values as read by attention, and what they were computed from.
struct Heads<D: Device> {
    /// The norm before attention, if there is one.
    before: Option<(D::Array, D::NormStats)>,
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
        let Block { device, config, weights, positions } = self;
        let Heads { before, raw, heads, qkv_stats } = self.heads(x);
        let raw = config.needs_raw().then_some(raw);
        let attended = device.attention(config, positions, &heads);
        let (output, norm) = (&weights.attn_out, weights.attn_norm.as_ref());
        let (middle, mut attn_norm) = self.add_sublayer(x, D::attended(&attended), output, norm, before, Life::Scratch);
        let (output, mut ff_norm, up_gate) = self.mlp(&middle);

        let Some(keep) = keep.filter(|keep| *keep != Keep::Nothing) else { return (output, None) };
        if !keep.norm_values(config) {
            (attn_norm.values, ff_norm.values) = (None, None);
        }
        let heads = keep.heads(config).then_some(heads);
        (output, Some(Saved { attn_norm, raw, heads, qkv_stats, attended, middle, ff_norm, up_gate }))
    }

    fn heads(&self, x: &D::Array) -> Heads<D> {
        let Block { device, config, weights, positions } = self;
        let before = self.normed(x, weights.attn_norm.as_ref());
        let raw = device.linear(before.as_ref().map_or(x, |(values, _)| values), &weights.att_proj);
        let (heads, qkv_stats) = device.qkv(config, positions, &raw, self.qk_norms());
        Heads { before, raw, heads, qkv_stats }
    }

    /// The residual stream after the MLP, from that after attention; the norm's state, and up and
    /// gate.
    fn mlp(&self, middle: &D::Array) -> (D::Array, NormState<D>, D::Array) {
        let Block { device, config, weights, .. } = self;
        let before = self.normed(middle, weights.ff_norm.as_ref());
        let up_gate = device.linear(before.as_ref().map_or(middle, |(values, _)| values), &weights.ff_proj);
        let activation = device.swiglu(&up_gate, config.mlp_width);
        let (output, norm) = (&weights.ff_out, weights.ff_norm.as_ref());
        let (output, ff_norm) = self.add_sublayer(middle, &activation, output, norm, before, Life::Output);
        (output, ff_norm, up_gate)
    }

    /// Computes the gradient of the block's input for the incoming `dy` and adds those of the
    /// trained weights. Without `saved`, the forward pass runs again.
    pub(crate) fn backward(&self, x: &D::Array, saved: Option<Saved<D>>, dy: &D::Array) -> D::Array {
        let Block { device, config, weights, positions } = self;
        let saved = saved.or_else(|| self.forward(x, Some(Keep::All)).1);
        let Saved { attn_norm, raw, heads, qkv_stats, attended, middle, ff_norm, mut up_gate } =
            saved.expect("a forward pass that keeps everything gives it");

        // The MLP: up_gate turns into its gradient, and the activation is recomputed in place of
        // its gradient.
        let ff_values = self.values(&ff_norm, &middle, weights.ff_norm.as_ref());
        let after = self.before_norm(dy, ff_values.get(), &ff_norm.stats, weights.ff_norm.as_ref());
        let dsum = after.as_ref().unwrap_or(dy);
        let mut activation = device.linear_input(dsum, &weights.ff_out);
        device.swiglu_backward(&mut up_gate, &mut activation, config.mlp_width);
        device.linear_weight(&weights.ff_out, dsum, &activation);
        drop((activation, after));
        let input = if config.norm_after { &middle } else { ff_values.get() };
        device.linear_weight(&weights.ff_proj, &up_gate, input);
        drop(ff_values);
        let norm = weights.ff_norm.as_ref();
        let dmiddle = self.through_input(dy, &up_gate, &weights.ff_proj, &middle, &ff_norm.stats, norm, Life::Scratch);
        drop((up_gate, ff_norm, middle));

        // Attention.
        let attn_values = self.values(&attn_norm, x, weights.attn_norm.as_ref());
        let after = self.before_norm(&dmiddle, attn_values.get(), &attn_norm.stats, weights.attn_norm.as_ref());
        let dsum = after.as_ref().unwrap_or(&dmiddle);
        let dattended = device.linear_input(dsum, &weights.attn_out);
        device.linear_weight(&weights.attn_out, dsum, D::attended(&attended));
        drop(after);
        let heads = heads.unwrap_or_else(|| {
            device.qkv(config, positions, raw.as_ref().expect("kept where heads are not"), self.qk_norms()).0
        });
        let dheads = device.attention_backward(config, positions, &heads, &attended, &dattended);
        drop((dattended, attended, heads));
        let draw = device.qkv_backward(config, positions, dheads, raw.as_ref(), &qkv_stats, self.qk_norms());
        let input = if config.norm_after { x } else { attn_values.get() };
        device.linear_weight(&weights.att_proj, &draw, input);
        let norm = weights.attn_norm.as_ref();
        self.through_input(&dmiddle, &draw, &weights.att_proj, x, &attn_norm.stats, norm, Life::Output)
    }

    fn qk_norms(&self) -> QkNorms<'_> {
        Some([self.weights.q_norm.as_ref()?, self.weights.k_norm.as_ref()?]).filter(|_| self.config.qk_norm)
    }

    /// The norm of a sub-layer's input, if norms precede sub-layers.
    fn normed(&self, x: &D::Array, weight: Option<&Weight>) -> Option<(D::Array, D::NormStats)> {
        (!self.config.norm_after).then(|| self.norm(x, weight))
    }

    fn norm(&self, x: &D::Array, weight: Option<&Weight>) -> (D::Array, D::NormStats) {
        self.device.norm(self.config.norm, x, None, weight, self.config.d_model, Life::Scratch)
    }

    /// The values of a norm's state, recomputed if they were not kept.
    fn values<'a>(&self, state: &'a NormState<D>, input: &D::Array, weight: Option<&Weight>) -> Values<'a, D::Array> {
        match &state.values {
            Some(values) => Values::Kept(values),
            None => Values::Recomputed(self.norm(input, weight).0),
        }
    }

    /// `residual + inner * weight^T`, normed before the addition if there is no state of a norm
    /// `before`.
    fn add_sublayer(
        &self,
        residual: &D::Array,
        inner: &D::Array,
        weight: &Linear,
        norm_weight: Option<&Weight>,
        before: Option<(D::Array, D::NormStats)>,
        life: Life,
    ) -> (D::Array, NormState<D>) {
        let Block { device, config, .. } = self;
        if let Some((values, stats)) = before {
            let sum = device.linear_add(residual, inner, weight, life);
            return (sum, NormState { values: Some(values), stats });
        }
        let values = device.linear(inner, weight);
        let (sum, stats) = device.norm(config.norm, &values, Some(residual), norm_weight, config.d_model, life);
        (sum, NormState { values: Some(values), stats })
    }

    /// With a norm after the sub-layer: computes the gradient of the sub-layer's output and adds
    /// that of the norm's weight.
    fn before_norm(
        &self,
        dsum: &D::Array,
        values: &D::Array,
        stats: &D::NormStats,
        weight: Option<&Weight>,
    ) -> Option<D::Array> {
        let Block { device, config, .. } = self;
        let backward =
            || device.norm_backward(config.norm, dsum, values, stats, None, weight, config.d_model, Life::Scratch);
        config.norm_after.then(backward)
    }

    /// The gradient of a sub-layer's input, from that of its sum with the residual (`dsum`) and
    /// that of its first projection. With a norm before the sub-layer, adds the gradient of the
    /// norm's weight.
    #[expect(clippy::too_many_arguments, reason = "the arguments of two operations")]
    fn through_input(
        &self,
        dsum: &D::Array,
        gradient: &D::Array,
        projection: &Linear,
        input: &D::Array,
        stats: &D::NormStats,
        weight: Option<&Weight>,
        life: Life,
    ) -> D::Array {
        let Block { device, config, .. } = self;
        if config.norm_after {
            return device.linear_input_add(dsum, gradient, projection, life);
        }
        let dnormed = device.linear_input(gradient, projection);
        device.norm_backward(config.norm, &dnormed, input, stats, Some(dsum), weight, config.d_model, life)
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
        let (output, norm) = (&self.weights.attn_out, self.weights.attn_norm.as_ref());
        let (middle, _) = self.add_sublayer(x, attended, output, norm, before, Life::Scratch);
        self.mlp(&middle).0
    }
}
