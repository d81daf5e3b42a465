//! The embedding: looks up rows, and sums the gradients of each.

/// `[ids, width]`: the rows of `weight` at `ids`.
///
/// # Panics
/// An id has no row.
pub fn forward(weight: &[f32], width: usize, ids: &[u32]) -> Vec<f32> {
    let mut rows = Vec::with_capacity(ids.len() * width);
    for &id in ids {
        rows.extend_from_slice(&weight[id as usize * width..(id as usize + 1) * width]);
    }
    rows
}

/// Adds each token's `dy` to its id's row of `gradient`, in token order.
pub fn backward(dy: &[f32], width: usize, ids: &[u32], gradient: &mut [f32]) {
    for (&id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
        let row = &mut gradient[id as usize * width..(id as usize + 1) * width];
        for (sum, dy) in row.iter_mut().zip(dy) {
            *sum += dy;
        }
    }
}
