//! A whole transformer block, forward and backward, with the saved state chosen by hand.

use super::buffer::Buffer;
use super::gemm::{Write, matmul_nn, matmul_nt, matmul_tn};
use super::norm::Stats;
use super::{attention, norm, qkv, swiglu};
use crate::config::{BlockConfig, BlockWeights};
use crate::rope::Rope;

/// What the backward pass needs of the forward pass, besides the block's input and weights.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The normed input of attention (norm before) or attention's output (norm after), with its statistics.
    attn_norm: NormState,
    /// The projection before clamp and QK-norm, if either exists.
    raw: Option<Buffer>,
    /// Queries, keys and values as attention read them.
    heads: Buffer,
    lse: Buffer,
    /// Attention's result before its output projection.
    attended: Buffer,
    /// The residual stream after attention.
    middle: Buffer,
    ff_norm: NormState,
    up_gate: Buffer,
}

impl Saved {
    /// Queries, keys and values as attention read them, `[rows, qkv]`.
    pub(crate) fn heads(&self) -> &[f32] {
        &self.heads
    }
}

/// One of the block's two norms.
#[derive(Clone, Debug)]
struct NormState {
    /// Its result if the norm stands before, its input if after.
    values: Buffer,
    stats: Stats,
}

/// The block's output, and the gradients' needs if `save`. `x` is `[batch * sequence, d]`; `rope` reaches `sequence` positions.
pub fn forward(
    config: &BlockConfig,
    rope: &Rope,
    sequence: usize,
    x: &[f32],
    weights: &BlockWeights<&[f32]>,
    save: bool,
) -> (Vec<f32>, Option<Saved>) {
    let (d, mlp) = (config.d_model, config.mlp_width);
    let rows = x.len() / d;
    let linear = |input: &[f32], weight: &[f32], inner: usize, out: usize| {
        let mut output = Buffer::new(rows * out);
        matmul_nt(input, weight, rows, inner, out, &mut output, Write::New);
        output
    };

    let before = (!config.norm_after).then(|| normed(config, x, weights.attn_norm, rows));
    let input = before.as_ref().map_or(x, |state| &*state.values);
    let raw = linear(input, weights.att_proj, d, config.qkv_width());
    let mut heads = Buffer::new(rows * config.qkv_width());
    qkv::forward(config, rope, sequence, &raw, qk_norms(weights), &mut heads);
    let raw = (config.qk_norm || config.clip_qkv.is_some()).then_some(raw);
    let (mut attended, mut lse) = (Buffer::new(rows * d), Buffer::new(rows * config.n_heads));
    attention::forward(config, sequence, &heads, &mut attended, &mut lse);
    let mut middle = Buffer::new(rows * d);
    let attn_norm = add_sublayer(config, x, &attended, weights.attn_out, d, weights.attn_norm, before, &mut middle);

    let before = (!config.norm_after).then(|| normed(config, &middle, weights.ff_norm, rows));
    let input = before.as_ref().map_or(&*middle, |state| &*state.values);
    let up_gate = linear(input, weights.ff_proj, d, 2 * mlp);
    let mut activation = Buffer::new(rows * mlp);
    swiglu::forward(&up_gate, mlp, &mut activation);
    let mut output = vec![0f32; rows * d];
    let ff_norm = add_sublayer(config, &middle, &activation, weights.ff_out, mlp, weights.ff_norm, before, &mut output);

    let saved = save.then_some(Saved { attn_norm, raw, heads, lse, attended, middle, ff_norm, up_gate });
    (output, saved)
}

fn normed(config: &BlockConfig, x: &[f32], weight: Option<&[f32]>, rows: usize) -> NormState {
    let mut values = Buffer::new(rows * config.d_model);
    let stats = norm::forward(config.norm, x, weight, None, config.d_model, &mut values);
    NormState { values, stats }
}

/// `sum = residual + inner * weight^T`, normed before the addition if there is no state of a norm `before`.
#[expect(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
fn add_sublayer(
    config: &BlockConfig,
    residual: &[f32],
    inner: &[f32],
    weight: &[f32],
    inner_width: usize,
    norm_weight: Option<&[f32]>,
    before: Option<NormState>,
    sum: &mut [f32],
) -> NormState {
    let d = config.d_model;
    let rows = residual.len() / d;
    if let Some(state) = before {
        sum.copy_from_slice(residual);
        matmul_nt(inner, weight, rows, inner_width, d, sum, Write::Add);
        return state;
    }
    let mut values = Buffer::new(rows * d);
    matmul_nt(inner, weight, rows, inner_width, d, &mut values, Write::New);
    let stats = norm::forward(config.norm, &values, norm_weight, Some(residual), d, sum);
    NormState { values, stats }
}

fn qk_norms<'a>(weights: &BlockWeights<&'a [f32]>) -> Option<[&'a [f32]; 2]> {
    Some([weights.q_norm?, weights.k_norm?])
}

/// The gradients of the block's input and weights for the incoming `dy`.
pub fn backward(
    config: &BlockConfig,
    rope: &Rope,
    sequence: usize,
    x: &[f32],
    weights: &BlockWeights<&[f32]>,
    saved: Saved,
    dy: &[f32],
) -> (Vec<f32>, BlockWeights<Vec<f32>>) {
    let (d, mlp, width) = (config.d_model, config.mlp_width, config.qkv_width());
    let rows = x.len() / d;
    let Saved { attn_norm, raw, heads, lse, attended, middle, ff_norm, mut up_gate } = saved;
    let weight_gradient = |dy: &[f32], x: &[f32], inner: usize, out: usize| {
        let mut gradient = vec![0f32; out * inner];
        matmul_tn(dy, x, rows, inner, out, &mut gradient, Write::New);
        gradient
    };

    // The MLP: up_gate becomes its gradient; the activation is made again where its gradient was.
    let (after, mut dff_norm) = before_norm(config, dy, &ff_norm, weights.ff_norm);
    let dsum = after.as_deref().unwrap_or(dy);
    let mut activation = Buffer::new(rows * mlp);
    matmul_nn(dsum, weights.ff_out, rows, mlp, d, &mut activation, Write::New);
    swiglu::backward(&mut up_gate, mlp, &mut activation);
    let dff_out = weight_gradient(dsum, &activation, mlp, d);
    let input = if config.norm_after { &*middle } else { &*ff_norm.values };
    let dff_proj = weight_gradient(&up_gate, input, d, 2 * mlp);
    let mut dmiddle = Buffer::new(rows * d);
    let dweight =
        through_input(config, dy, &up_gate, weights.ff_proj, 2 * mlp, &middle, &ff_norm, weights.ff_norm, &mut dmiddle);
    dff_norm = dff_norm.or(dweight);

    // Attention.
    let (after, mut dattn_norm) = before_norm(config, &dmiddle, &attn_norm, weights.attn_norm);
    let dsum = after.as_deref().unwrap_or(&dmiddle);
    let mut dattended = Buffer::new(rows * d);
    matmul_nn(dsum, weights.attn_out, rows, d, d, &mut dattended, Write::New);
    let dattn_out = weight_gradient(dsum, &attended, d, d);
    let mut dheads = Buffer::new(rows * width);
    attention::backward(config, sequence, &heads, &attended, &lse, &dattended, &mut dheads);
    let dqk = qkv::backward(config, rope, sequence, raw.as_deref(), qk_norms(weights), &mut dheads);
    let input = if config.norm_after { x } else { &*attn_norm.values };
    let datt_proj = weight_gradient(&dheads, input, d, width);
    let mut dx = vec![0f32; rows * d];
    let dweight =
        through_input(config, &dmiddle, &dheads, weights.att_proj, width, x, &attn_norm, weights.attn_norm, &mut dx);
    dattn_norm = dattn_norm.or(dweight);

    let [q_norm, k_norm] = dqk.map_or([None, None], |both| both.map(Some));
    let gradients = BlockWeights {
        att_proj: datt_proj,
        attn_out: dattn_out,
        ff_proj: dff_proj,
        ff_out: dff_out,
        attn_norm: dattn_norm,
        ff_norm: dff_norm,
        q_norm,
        k_norm,
    };
    (dx, gradients)
}

/// With a norm after the sub-layer: the gradient of the sub-layer's output, and of the norm's weight.
fn before_norm(
    config: &BlockConfig,
    dsum: &[f32],
    state: &NormState,
    weight: Option<&[f32]>,
) -> (Option<Buffer>, Option<Vec<f32>>) {
    if !config.norm_after {
        return (None, None);
    }
    let mut gradient = Buffer::new(dsum.len());
    let dweight =
        norm::backward(config.norm, dsum, &state.values, &state.stats, weight, None, config.d_model, &mut gradient);
    (Some(gradient), dweight)
}

/// `dinput`, the gradient of a sub-layer's input, from that of its sum with the residual (`dsum`) and that of its first projection's
/// result (`dprojected`). With a norm before the sub-layer, returns the gradient of the norm's weight.
#[expect(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
fn through_input(
    config: &BlockConfig,
    dsum: &[f32],
    dprojected: &[f32],
    projection: &[f32],
    projected: usize,
    input: &[f32],
    state: &NormState,
    weight: Option<&[f32]>,
    dinput: &mut [f32],
) -> Option<Vec<f32>> {
    let d = config.d_model;
    let rows = dsum.len() / d;
    if config.norm_after {
        dinput.copy_from_slice(dsum);
        matmul_nn(dprojected, projection, rows, d, projected, dinput, Write::Add);
        return None;
    }
    let mut dnormed = Buffer::new(rows * d);
    matmul_nn(dprojected, projection, rows, d, projected, &mut dnormed, Write::New);
    norm::backward(config.norm, &dnormed, input, &state.stats, weight, Some(dsum), d, dinput)
}
