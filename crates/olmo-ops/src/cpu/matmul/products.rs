//! Matrix products on all threads.
//!
//! A product is split into pieces of its result, never along the summed dimension, and is never
//! scaled by anything but 1. So each element is computed by the same sequence of operations for any
//! number of pieces.

use rayon::prelude::*;

use super::compute::Compute;
use super::matrix::Write;
use crate::cpu::buffer::Buffer;
use crate::cpu::shared::SharedSlice;
use crate::matrix::MatrixView;

/// Elements of a part of a bf16 weight that are widened at a time.
const WIDENED: usize = 1 << 20;

/// `y (+)= x [rows, inner] w^T`, with w `[out, inner]`: a linear layer, or some columns of its
/// result. `y` begins at the first of them, and has rows of `stride`. A bf16 weight is widened in
/// parts, which changes no bit of what the default backend computes.
pub(crate) fn matmul_nt(
    compute: Compute,
    x: &[f32],
    w: MatrixView<'_>,
    rows: usize,
    inner: usize,
    (y, stride): (&mut [f32], usize),
    write: Write,
) {
    let out = w.len() / inner;
    assert!(x.len() >= rows * inner && w.len() == out * inner, "a product's matrices have its sizes");
    assert!(out <= stride && (rows == 0 || y.len() >= (rows - 1) * stride + out), "the columns lie within their rows");
    if let MatrixView::F32(w) = w {
        return product(compute, [rows, out, inner], (x, [inner, 1]), (w, [1, inner]), (y, stride), write, None);
    }
    let size = (WIDENED / inner.max(1)).next_multiple_of(128).min(out);
    let mut wide = Buffer::new(size * inner);
    for first in (0..out).step_by(size.max(1)) {
        let count = size.min(out - first);
        let part = w.part(first * inner..(first + count) * inner);
        wide[..count * inner].par_chunks_mut(LEAST_FOR_THREADS).enumerate().for_each(|(index, wide)| {
            part.part(index * LEAST_FOR_THREADS..index * LEAST_FOR_THREADS + wide.len()).widen_into(wide);
        });
        let y = (&mut y[first..], stride);
        product(compute, [rows, count, inner], (x, [inner, 1]), (&wide, [1, inner]), y, write, None);
    }
}

/// `dx [rows, inner] (+)= dy [rows, out] w`, with w `[out, inner]`: gradient of a linear layer's
/// input.
pub(crate) fn matmul_nn(
    compute: Compute,
    dy: &[f32],
    w: &[f32],
    [rows, inner, out]: [usize; 3],
    dx: &mut [f32],
    write: Write,
) {
    let fit = dy.len() >= rows * out && w.len() >= out * inner && dx.len() >= rows * inner;
    assert!(fit, "a product's matrices have its sizes");
    product(compute, [rows, inner, out], (dy, [out, 1]), (w, [inner, 1]), (dx, inner), write, None);
}

/// `dw [out, inner] += dy^T x`, with dy `[rows, out]` and x `[rows, inner]`: gradient of a linear
/// layer's weight. With `chain`, bit-identical to a sequence of products of `chain` rows each.
pub(crate) fn matmul_tn(
    compute: Compute,
    dy: &[f32],
    x: &[f32],
    [rows, inner, out]: [usize; 3],
    dw: &mut [f32],
    chain: Option<usize>,
) {
    let fit = dy.len() >= rows * out && x.len() >= rows * inner && dw.len() >= out * inner;
    assert!(fit, "a product's matrices have its sizes");
    product(compute, [out, inner, rows], (dy, [1, out]), (x, [inner, 1]), (dw, inner), Write::Add, chain);
}

/// Minimum number of multiplications for which a second thread pays off.
const LEAST_FOR_THREADS: usize = 1 << 17;

/// `c [m, n] = a [m, k] b [k, n]`; a and b with row and column strides, c with the stride of its
/// rows. The caller has checked the sizes.
fn product(
    compute: Compute,
    [m, n, k]: [usize; 3],
    a: (&[f32], [usize; 2]),
    b: (&[f32], [usize; 2]),
    (c, stride): (&mut [f32], usize),
    write: Write,
    chain: Option<usize>,
) {
    if m == 0 || n == 0 {
        return;
    }
    // Split the longer side, so that every thread packs the shorter operand.
    let (length, by_rows) = if m >= n { (m, true) } else { (n, false) };
    let pieces = if m * n * k < LEAST_FOR_THREADS { 1 } else { compute.pieces(length) };
    let step = length.div_ceil(pieces).next_multiple_of(16);
    let target = SharedSlice::new(c);
    let piece = |index: usize| {
        let start = index * step;
        let size = step.min(length - start);
        let (rows, columns, row, column) = if by_rows { (size, n, start, 0) } else { (m, size, 0, start) };
        // SAFETY: the pieces are disjoint blocks of c, and all matrices have the sizes asserted by
        // the callers.
        unsafe {
            let a = (a.0.as_ptr().add(row * a.1[0]), a.1);
            let b = (b.0.as_ptr().add(column * b.1[1]), b.1);
            let c = (target.at(row * stride + column), stride);
            match chain {
                None => compute.gemm([rows, columns, k], a, b, write, c),
                Some(chain) => compute.gemm_in_chains([rows, columns, k], a, b, write, c, chain),
            }
        }
    };
    let pieces = length.div_ceil(step);
    if pieces == 1 {
        piece(0);
    } else {
        (0..pieces).into_par_iter().for_each(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNELS: &[Compute] = Compute::ALL;

    fn matrix(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|i| (((i * 7919 + seed) % 1013) as f32 - 500.0) / 311.0).collect()
    }

    #[test]
    fn the_three_products_agree_with_their_definition() {
        let shapes = [(1, 1, 1), (1, 5, 3), (33, 17, 65), (300, 270, 40), (40, 600, 130)];
        for (compute, (rows, inner, out)) in KERNELS.iter().flat_map(|compute| shapes.map(|shape| (*compute, shape))) {
            let (x, w, y) = (matrix(rows * inner, 1), matrix(out * inner, 2), matrix(rows * out, 3));
            let exact = |m: usize, n: usize, k: usize, term: &dyn Fn(usize, usize, usize) -> f32| -> Vec<f64> {
                let element = |i: usize, j: usize| (0..k).map(|l| f64::from(term(i, j, l))).sum::<f64>();
                (0..m * n).map(|e| element(e / n, e % n)).collect()
            };
            let close = |got: &[f32], want: &[f64]| {
                for (g, w) in got.iter().zip(want) {
                    assert!((f64::from(*g) - w).abs() < 2e-3, "{g} is not {w}");
                }
            };
            let mut result = vec![f32::NAN; rows * out];
            matmul_nt(compute, &x, MatrixView::F32(&w), rows, inner, (&mut result, out), Write::New);
            close(&result, &exact(rows, out, inner, &|i, j, l| x[i * inner + l] * w[j * inner + l]));
            let mut result = vec![f32::NAN; rows * inner];
            matmul_nn(compute, &y, &w, [rows, inner, out], &mut result, Write::New);
            close(&result, &exact(rows, inner, out, &|i, j, l| y[i * out + l] * w[l * inner + j]));
            let mut result = vec![1.0; out * inner];
            matmul_tn(compute, &y, &x, [rows, inner, out], &mut result, None);
            let mut want = exact(out, inner, rows, &|i, j, l| y[l * out + i] * x[l * inner + j]);
            for value in &mut want {
                *value += 1.0;
            }
            close(&result, &want);
        }
    }
}
