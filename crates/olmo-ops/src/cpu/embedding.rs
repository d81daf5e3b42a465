//! The embedding: looks up rows, and sums the gradients of each.

use super::math::add;
use crate::matrix::MatrixView;

/// `[ids, width]`: the rows of `weight` at `ids`.
///
/// # Panics
/// An id has no row.
pub(super) fn forward(weight: MatrixView<'_>, width: usize, ids: &[u32]) -> Vec<f32> {
    let mut rows = vec![0f32; ids.len() * width];
    for (row, &id) in rows.chunks_exact_mut(width).zip(ids) {
        weight.part(id as usize * width..(id as usize + 1) * width).widen_into(row);
    }
    rows
}

/// Adds each token's `dy` to its id's row of `gradient`, in token order.
pub(super) fn backward(dy: &[f32], width: usize, ids: &[u32], gradient: &mut [f32]) {
    for (&id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
        add(&mut gradient[id as usize * width..(id as usize + 1) * width], dy);
    }
}
