//! Between the fused projection and attention: clamp, QK-norm and rotary embedding, forward and
//! backward.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::math::multiversion;
use super::norm::{row_backward, row_stats};
use crate::config::BlockConfig;
use crate::rope::{Places, Rope};

/// Number of rows whose contributions to the norms' gradients one task sums; fixed, so that the
/// order of the sum is fixed.
const ROWS: usize = 64;

/// Computes `heads [rows, qkv]` from the projection `raw`: clamps each row, then normalises and
/// rotates queries and keys. `position` is that of a row.
pub(crate) fn forward(
    config: &BlockConfig,
    rope: &Rope,
    position: impl Fn(usize) -> usize + Copy + Send + Sync,
    raw: &[f32],
    norms: Option<[&[f32]; 2]>,
    heads: &mut [f32],
) {
    let size = ROWS * config.qkv_width();
    heads.par_chunks_mut(size).zip(raw.par_chunks(size)).enumerate().for_each(|(index, (heads, raw))| {
        let width = config.qkv_width();
        for (row, (heads, raw)) in heads.chunks_exact_mut(width).zip(raw.chunks_exact(width)).enumerate() {
            forward_row(config, rope.at(position(index * ROWS + row)), raw, norms, heads);
        }
    });
}

multiversion! {
    fn forward_row(config: &BlockConfig, angles: (&[f32], &[f32]), raw: &[f32], norms: Option<[&[f32]; 2]>, heads: &mut [f32]) {
        clamp(config, raw, heads);
        let (queries, rest) = heads.split_at_mut(config.query_width());
        let keys = &mut rest[..config.kv_width()];
        if let Some([q_norm, k_norm]) = norms {
            normalise_in_place(config, queries, q_norm);
            normalise_in_place(config, keys, k_norm);
        }
        let (cos, sin) = angles;
        rotate(queries, cos, sin, 1.0);
        rotate(keys, cos, sin, 1.0);
    }
}

#[inline(always)]
fn clamp(config: &BlockConfig, raw: &[f32], clamped: &mut [f32]) {
    match config.clip_qkv {
        None => clamped.copy_from_slice(raw),
        Some(clip) => {
            for (clamped, raw) in clamped.iter_mut().zip(raw) {
                *clamped = raw.clamp(-clip, clip);
            }
        }
    }
}

#[inline(always)]
fn normalise_in_place(config: &BlockConfig, values: &mut [f32], weight: &[f32]) {
    let (mean, r) = row_stats(config.norm, values);
    for (value, weight) in values.iter_mut().zip(weight) {
        *value = (*value - mean) * r * weight;
    }
}

/// Rotates the pairs `(i, i + half)` of each head; `direction` -1 rotates back.
#[inline(always)]
fn rotate(values: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let half = cos.len();
    for head in values.chunks_exact_mut(2 * half) {
        let (left, right) = head.split_at_mut(half);
        for (((x, y), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
            let (a, b, sin) = (*x, *y, sin * direction);
            *x = a * cos - b * sin;
            *y = b * cos + a * sin;
        }
    }
}

/// Turns `dheads`, the gradient of [`forward`]'s result, into the gradient of `raw`, in place.
/// `raw` is needed only with a clamp or QK-norm. Returns rows whose sum is the gradient of the two
/// norms' weights, queries then keys.
pub(crate) fn backward(
    config: &BlockConfig,
    places: &Places<'_>,
    raw: Option<&[f32]>,
    norms: Option<[&[f32]; 2]>,
    dheads: &mut [f32],
) -> Buffer {
    let size = ROWS * config.qkv_width();
    let norm_width = config.query_width() + config.kv_width();
    let tasks = dheads.len().div_ceil(size);
    // Without norms, each task still gets an (unused) slot, so that one loop serves both cases.
    let mut partial = Buffer::zeros(tasks * norm_width);
    dheads.par_chunks_mut(size).zip(partial.par_chunks_mut(norm_width)).enumerate().for_each(
        |(index, (dheads, partial))| {
            let raw = raw.map(|all| &all[index * size..index * size + dheads.len()]);
            backward_rows(config, places.rope, places.sequence, index * ROWS, raw, norms, dheads, partial);
        },
    );
    partial
}

multiversion! {
    fn backward_rows(
        config: &BlockConfig, rope: &Rope, sequence: usize, first: usize, raw: Option<&[f32]>, norms: Option<[&[f32]; 2]>, dheads: &mut [f32],
        partial: &mut [f32],
    ) {
        let (width, d, kv) = (config.qkv_width(), config.query_width(), config.kv_width());
        let (dq_norm, dk_norm) = partial.split_at_mut(d);
        let mut clamped = vec![0f32; width];
        let mut gradient = vec![0f32; d.max(kv)];
        for (row, dheads) in dheads.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = rope.at((first + row) % sequence);
            rotate(&mut dheads[..d + kv], cos, sin, -1.0);
            let Some(raw) = raw.map(|raw| &raw[row * width..(row + 1) * width]) else { continue };
            if let Some([q_norm, k_norm]) = norms {
                clamp(config, raw, &mut clamped);
                let parts = [(0, d, q_norm, &mut *dq_norm), (d, kv, k_norm, &mut *dk_norm)];
                for (start, length, weight, dweight) in parts {
                    let (x, dy) = (&clamped[start..start + length], &mut dheads[start..start + length]);
                    let (mean, r) = row_stats(config.norm, x);
                    row_backward(config.norm, dy, x, mean, r, Some(weight), &mut gradient[..length], Some(dweight));
                    dy.copy_from_slice(&gradient[..length]);
                }
            }
            if let Some(clip) = config.clip_qkv {
                for (gradient, raw) in dheads.iter_mut().zip(raw) {
                    // As in torch.clamp, the gradient passes inside and at the bounds.
                    *gradient = if *raw >= -clip && *raw <= clip { *gradient } else { 0.0 };
                }
            }
        }
    }
}
