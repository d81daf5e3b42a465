//! LayerNorm and RMSNorm over rows, forward and backward.
//!
//! Both are `(x - mean) * r * weight`; for RMSNorm the mean is 0, so that the same code serves
//! both.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::math::{add, dot, multiversion, sum, sum_of_pairs};
use crate::config::{Norm, NormKind};

/// Mean and reciprocal deviation of each row, from the forward pass.
#[derive(Clone, Debug)]
pub struct Stats(Buffer);

/// Number of rows whose contributions to the weight's gradient one task sums; fixed, so that the
/// order of the sum is fixed.
const ROWS: usize = 64;

/// `y = norm(x) * weight`, plus `residual` if given; x and y are `[rows, width]`.
pub(crate) fn forward(
    norm: Norm,
    x: &[f32],
    weight: Option<&[f32]>,
    residual: Option<&[f32]>,
    width: usize,
    y: &mut [f32],
) -> Stats {
    let mut stats = Buffer::new(2 * (x.len() / width));
    let size = ROWS * width;
    y.par_chunks_mut(size).zip(x.par_chunks(size)).zip(stats.par_chunks_mut(2 * ROWS)).enumerate().for_each(
        |(index, ((y, x), stats))| {
            let residual = residual.map(|all| &all[index * size..index * size + y.len()]);
            forward_rows(norm, x, weight, residual, width, y, stats);
        },
    );
    Stats(stats)
}

multiversion! {
    fn forward_rows(norm: Norm, x: &[f32], weight: Option<&[f32]>, residual: Option<&[f32]>, width: usize, y: &mut [f32], stats: &mut [f32]) {
        for (row, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
            let (mean, r) = row_stats(norm, x);
            stats[2 * row] = mean;
            stats[2 * row + 1] = r;
            normalise(x, mean, r, weight, y);
            if let Some(residual) = residual {
                add(y, &residual[row * width..]);
            }
        }
    }
}

/// Mean (0 for RMSNorm) and reciprocal deviation of one row.
#[inline(always)]
pub(crate) fn row_stats(norm: Norm, x: &[f32]) -> (f32, f32) {
    let width = x.len() as f32;
    match norm.kind {
        NormKind::Rms => (0.0, 1.0 / (dot(x, x) / width + norm.eps).sqrt()),
        NormKind::Layer => {
            let mean = sum(x) / width;
            let variance = sum_of_pairs(x, x, |x, _| (x - mean) * (x - mean)) / width;
            (mean, 1.0 / (variance + norm.eps).sqrt())
        }
    }
}

/// `y = (x - mean) * r * weight`.
#[inline(always)]
pub(crate) fn normalise(x: &[f32], mean: f32, r: f32, weight: Option<&[f32]>, y: &mut [f32]) {
    match weight {
        Some(weight) => {
            for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                *y = (x - mean) * r * weight;
            }
        }
        None => {
            for (y, x) in y.iter_mut().zip(x) {
                *y = (x - mean) * r;
            }
        }
    }
}

/// `dx = residual + gradient of norm(x) * weight` for the incoming `dy`; all are `[rows, width]`.
/// Adds the weight's gradient, if there is a weight, to `dweight`.
#[expect(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
pub(crate) fn backward(
    norm: Norm,
    dy: &[f32],
    x: &[f32],
    stats: &Stats,
    weight: Option<&[f32]>,
    residual: Option<&[f32]>,
    width: usize,
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let size = ROWS * width;
    let mut partial =
        Buffer::zeros(if weight.is_some() && dweight.is_some() { x.len().div_ceil(size) * width } else { 0 });
    let task = |index: usize, dx: &mut [f32], dweight: Option<&mut [f32]>| {
        let part = index * size..index * size + dx.len();
        let stats = &stats.0[2 * ROWS * index..];
        backward_rows(
            norm,
            &dy[part.clone()],
            &x[part.clone()],
            stats,
            weight,
            residual.map(|all| &all[part]),
            width,
            dx,
            dweight,
        );
    };
    let chunks = dx.par_chunks_mut(size).enumerate();
    let Some(total) = dweight.filter(|_| weight.is_some()) else {
        chunks.for_each(|(index, dx)| task(index, dx, None));
        return;
    };
    chunks.zip(partial.par_chunks_mut(width)).for_each(|((index, dx), dweight)| task(index, dx, Some(dweight)));
    add_rows(&partial, width, 0, total);
}

/// Adds the columns from `first` on of rows to `total`, rows first to last.
pub(crate) fn add_rows(rows: &[f32], width: usize, first: usize, total: &mut [f32]) {
    for row in rows.chunks_exact(width) {
        add(total, &row[first..]);
    }
}

multiversion! {
    fn backward_rows(
        norm: Norm, dy: &[f32], x: &[f32], stats: &[f32], weight: Option<&[f32]>, residual: Option<&[f32]>, width: usize, dx: &mut [f32],
        dweight: Option<&mut [f32]>,
    ) {
        let mut dweight = dweight;
        for (row, dx) in dx.chunks_exact_mut(width).enumerate() {
            let part = row * width..(row + 1) * width;
            let (mean, r) = (stats[2 * row], stats[2 * row + 1]);
            row_backward(norm, &dy[part.clone()], &x[part.clone()], mean, r, weight, dx, dweight.as_deref_mut());
            if let Some(residual) = residual {
                add(dx, &residual[part]);
            }
        }
    }
}

/// Writes one row's gradient to `dx`; adds the row's part of the weight's gradient to `dweight`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
pub(crate) fn row_backward(
    norm: Norm,
    dy: &[f32],
    x: &[f32],
    mean: f32,
    r: f32,
    weight: Option<&[f32]>,
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let width = x.len() as f32;
    // With g = dy * weight and n = (x - mean) * r: dx = r * (g - mean(g) - n * mean(g * n));
    // RMSNorm lacks the middle term.
    match (weight, dweight) {
        (Some(weight), Some(dweight)) => {
            for ((((dx, dy), x), weight), dweight) in dx.iter_mut().zip(dy).zip(x).zip(weight).zip(dweight) {
                *dweight += dy * ((x - mean) * r);
                *dx = dy * weight;
            }
        }
        (Some(weight), None) => {
            for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = dy * weight;
            }
        }
        (None, _) => dx.copy_from_slice(dy),
    }
    let mean_gn = sum_of_pairs(dx, x, |g, x| g * ((x - mean) * r)) / width;
    let mean_g = if norm.kind == NormKind::Layer { sum(dx) / width } else { 0.0 };
    for (dx, x) in dx.iter_mut().zip(x) {
        *dx = r * (*dx - mean_g - (x - mean) * r * mean_gn);
    }
}
