//! A whole transformer block, forward and backward, with the saved state chosen by [`Keep`].

use super::buffer::Buffer;
use super::matmul::{Kernels, Write, matmul_nn, matmul_nt, matmul_tn};
use super::norm::Stats;
use super::{attention, norm, qkv, swiglu};
use crate::config::{BlockConfig, BlockWeights, Keep};
use crate::rope::Places;

/// State from the forward pass that the backward pass needs, in addition to the block's input and
/// weights.
#[derive(Clone, Debug)]
pub struct Saved {
    attn_norm: NormState,
    /// The projection before clamp and QK-norm, if either exists.
    raw: Option<Buffer>,
    /// Queries, keys and values as read by attention; they can be recomputed from `raw`.
    heads: Option<Buffer>,
    lse: Buffer,
    /// The result of attention before its output projection.
    attended: Buffer,
    /// The residual stream after attention.
    middle: Buffer,
    ff_norm: NormState,
    up_gate: Buffer,
}

impl Saved {
    /// Queries, keys and values as read by attention, `[rows, qkv]`, if they were kept.
    pub(crate) fn heads(&self) -> Option<&[f32]> {
        self.heads.as_deref()
    }
}

/// State of one of the block's two norms.
#[derive(Clone, Debug)]
struct NormState {
    /// Its result if the norm precedes the sub-layer (`None`: recompute it), its input if it
    /// follows.
    values: Option<Buffer>,
    stats: Stats,
}

/// The block's output and, with `keep`, the state for [`backward`] (none if it must recompute
/// everything). `x` is `[batch * sequence, d]`.
pub fn forward(
    kernels: Kernels,
    config: &BlockConfig,
    places: &Places<'_>,
    x: &[f32],
    weights: &BlockWeights<&[f32]>,
    keep: Option<Keep>,
) -> (Vec<f32>, Option<Saved>) {
    let (d, mlp) = (config.d_model, config.mlp_width);
    let rows = x.len() / d;
    let linear = |input: &[f32], weight: &[f32], inner: usize, out: usize| {
        let mut output = Buffer::new(rows * out);
        matmul_nt(kernels, input, weight, rows, inner, out, &mut output, Write::New);
        output
    };

    let before = (!config.norm_after).then(|| normed(config, x, weights.attn_norm, rows));
    let input = before.as_ref().map_or(x, |(values, _)| values);
    let raw = linear(input, weights.att_proj, d, config.qkv_width());
    let mut heads = Buffer::new(rows * config.qkv_width());
    qkv::forward(config, places, &raw, qk_norms(weights), &mut heads);
    let raw = config.needs_raw().then_some(raw);
    let (mut attended, mut lse) = (Buffer::new(rows * d), Buffer::new(rows * config.n_heads));
    attention::forward(kernels, config, places, &heads, &mut attended, &mut lse);
    let mut middle = Buffer::new(rows * d);
    let mut attn_norm =
        add_sublayer(kernels, config, x, &attended, weights.attn_out, d, weights.attn_norm, before, &mut middle);

    let before = (!config.norm_after).then(|| normed(config, &middle, weights.ff_norm, rows));
    let input = before.as_ref().map_or(&*middle, |(values, _)| values);
    let up_gate = linear(input, weights.ff_proj, d, 2 * mlp);
    let mut activation = Buffer::new(rows * mlp);
    swiglu::forward(&up_gate, mlp, &mut activation);
    let mut output = vec![0f32; rows * d];
    let mut ff_norm =
        add_sublayer(kernels, config, &middle, &activation, weights.ff_out, mlp, weights.ff_norm, before, &mut output);

    let Some(keep) = keep.filter(|keep| *keep != Keep::Nothing) else { return (output, None) };
    if !keep.norm_values(config) {
        (attn_norm.values, ff_norm.values) = (None, None);
    }
    let heads = keep.heads(config).then_some(heads);
    (output, Some(Saved { attn_norm, raw, heads, lse, attended, middle, ff_norm, up_gate }))
}

fn normed(config: &BlockConfig, x: &[f32], weight: Option<&[f32]>, rows: usize) -> (Buffer, Stats) {
    let mut values = Buffer::new(rows * config.d_model);
    let stats = norm::forward(config.norm, x, weight, None, config.d_model, &mut values);
    (values, stats)
}

/// `sum = residual + inner * weight^T`, normed before the addition if there is no state of a norm
/// `before`.
#[expect(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
fn add_sublayer(
    kernels: Kernels,
    config: &BlockConfig,
    residual: &[f32],
    inner: &[f32],
    weight: &[f32],
    inner_width: usize,
    norm_weight: Option<&[f32]>,
    before: Option<(Buffer, Stats)>,
    sum: &mut [f32],
) -> NormState {
    let d = config.d_model;
    let rows = residual.len() / d;
    if let Some((values, stats)) = before {
        sum.copy_from_slice(residual);
        matmul_nt(kernels, inner, weight, rows, inner_width, d, sum, Write::Add);
        return NormState { values: Some(values), stats };
    }
    let mut values = Buffer::new(rows * d);
    matmul_nt(kernels, inner, weight, rows, inner_width, d, &mut values, Write::New);
    let stats = norm::forward(config.norm, &values, norm_weight, Some(residual), d, sum);
    NormState { values: Some(values), stats }
}

fn qk_norms<'a>(weights: &BlockWeights<&'a [f32]>) -> Option<[&'a [f32]; 2]> {
    Some([weights.q_norm?, weights.k_norm?])
}

/// Computes the gradient of the block's input for the incoming `dy` and adds those of the weights
/// to `gradients`. Without `saved`, the forward pass runs again.
#[expect(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
pub fn backward(
    kernels: Kernels,
    config: &BlockConfig,
    places: &Places<'_>,
    x: &[f32],
    weights: &BlockWeights<&[f32]>,
    saved: Option<Saved>,
    dy: &[f32],
    gradients: BlockWeights<&mut [f32]>,
) -> Vec<f32> {
    let (d, mlp, width) = (config.d_model, config.mlp_width, config.qkv_width());
    let rows = x.len() / d;
    let saved = saved.or_else(|| forward(kernels, config, places, x, weights, Some(Keep::All)).1);
    let Saved { attn_norm, raw, heads, lse, attended, middle, ff_norm, mut up_gate } =
        saved.expect("a forward pass that keeps everything gives it");
    let heads = heads.unwrap_or_else(|| {
        let mut heads = Buffer::new(rows * width);
        qkv::forward(config, places, raw.as_deref().expect("kept where heads are not"), qk_norms(weights), &mut heads);
        heads
    });
    let again = |state: NormState, x: &[f32], weight: Option<&[f32]>| match state.values {
        Some(values) => (values, state.stats),
        None => normed(config, x, weight, rows),
    };
    let attn_norm = again(attn_norm, x, weights.attn_norm);
    let ff_norm = again(ff_norm, &middle, weights.ff_norm);
    let BlockWeights { att_proj, attn_out, ff_proj, ff_out, q_norm, k_norm, .. } = gradients;
    let (mut dattn_norm, mut dff_norm) = (gradients.attn_norm, gradients.ff_norm);

    // The MLP: up_gate turns into its gradient, and the activation is recomputed in place of its
    // gradient.
    let after = before_norm(config, dy, &ff_norm, weights.ff_norm, &mut dff_norm);
    let dsum = after.as_deref().unwrap_or(dy);
    let mut activation = Buffer::new(rows * mlp);
    matmul_nn(kernels, dsum, weights.ff_out, rows, mlp, d, &mut activation, Write::New);
    swiglu::backward(&mut up_gate, mlp, &mut activation);
    matmul_tn(kernels, dsum, &activation, rows, mlp, d, ff_out, Write::Add);
    let input = if config.norm_after { &*middle } else { &*ff_norm.0 };
    matmul_tn(kernels, &up_gate, input, rows, d, 2 * mlp, ff_proj, Write::Add);
    let mut dmiddle = Buffer::new(rows * d);
    let projection = Projection { gradient: &up_gate, weight: weights.ff_proj, width: 2 * mlp };
    through_input(kernels, config, dy, projection, &middle, &ff_norm.1, weights.ff_norm, dff_norm, &mut dmiddle);

    // Attention.
    let after = before_norm(config, &dmiddle, &attn_norm, weights.attn_norm, &mut dattn_norm);
    let dsum = after.as_deref().unwrap_or(&dmiddle);
    let mut dattended = Buffer::new(rows * d);
    matmul_nn(kernels, dsum, weights.attn_out, rows, d, d, &mut dattended, Write::New);
    matmul_tn(kernels, dsum, &attended, rows, d, d, attn_out, Write::Add);
    let mut dheads = Buffer::new(rows * width);
    attention::backward(kernels, config, places, &heads, &attended, &lse, &dattended, &mut dheads);
    let dnorms = q_norm.zip(k_norm).map(|(q, k)| [q, k]);
    qkv::backward(config, places, raw.as_deref(), qk_norms(weights), &mut dheads, dnorms);
    let input = if config.norm_after { x } else { &*attn_norm.0 };
    matmul_tn(kernels, &dheads, input, rows, d, width, att_proj, Write::Add);
    let mut dx = vec![0f32; rows * d];
    let projection = Projection { gradient: &dheads, weight: weights.att_proj, width };
    through_input(kernels, config, &dmiddle, projection, x, &attn_norm.1, weights.attn_norm, dattn_norm, &mut dx);
    dx
}

/// With a norm after the sub-layer: computes the gradient of the sub-layer's output and adds that
/// of the norm's weight.
fn before_norm(
    config: &BlockConfig,
    dsum: &[f32],
    (values, stats): &(Buffer, Stats),
    weight: Option<&[f32]>,
    dweight: &mut Option<&mut [f32]>,
) -> Option<Buffer> {
    if !config.norm_after {
        return None;
    }
    let mut gradient = Buffer::new(dsum.len());
    norm::backward(config.norm, dsum, values, stats, weight, None, config.d_model, &mut gradient, dweight.take());
    Some(gradient)
}

/// The first projection of a sub-layer.
struct Projection<'a> {
    /// Gradient of its result, `[rows, width]`.
    gradient: &'a [f32],
    /// `[width, d]`.
    weight: &'a [f32],
    width: usize,
}

/// Computes `dinput`, the gradient of a sub-layer's input, from that of its sum with the residual
/// (`dsum`) and that of its first projection. With a norm before the sub-layer, adds the gradient
/// of the norm's weight.
#[expect(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
fn through_input(
    kernels: Kernels,
    config: &BlockConfig,
    dsum: &[f32],
    projection: Projection<'_>,
    input: &[f32],
    stats: &Stats,
    weight: Option<&[f32]>,
    dweight: Option<&mut [f32]>,
    dinput: &mut [f32],
) {
    let d = config.d_model;
    let rows = dsum.len() / d;
    let Projection { gradient, weight: matrix, width } = projection;
    if config.norm_after {
        dinput.copy_from_slice(dsum);
        matmul_nn(kernels, gradient, matrix, rows, d, width, dinput, Write::Add);
        return;
    }
    let mut dnormed = Buffer::new(rows * d);
    matmul_nn(kernels, gradient, matrix, rows, d, width, &mut dnormed, Write::New);
    norm::backward(config.norm, &dnormed, input, stats, weight, Some(dsum), d, dinput, dweight);
}
