//! The MLP's middle: `silu(gate) * up`, with up and gate as the halves of one row.

use rayon::prelude::*;

use super::math::{exp, multiversion};

/// Rows that one task takes.
const ROWS: usize = 16;

/// `a [rows, width] = silu(gate) * up`, with `up_gate` `[rows, 2 * width]`.
pub(crate) fn forward(up_gate: &[f32], width: usize, a: &mut [f32]) {
    a.par_chunks_mut(ROWS * width)
        .zip(up_gate.par_chunks(2 * ROWS * width))
        .for_each(|(a, up_gate)| forward_rows(up_gate, width, a));
}

multiversion! {
    fn forward_rows(up_gate: &[f32], width: usize, a: &mut [f32]) {
        for (a, row) in a.chunks_exact_mut(width).zip(up_gate.chunks_exact(2 * width)) {
            let (up, gate) = row.split_at(width);
            for ((a, up), gate) in a.iter_mut().zip(up).zip(gate) {
                *a = gate / (1.0 + exp(-gate)) * up;
            }
        }
    }
}

/// Turns `up_gate` into its gradient and the incoming gradient `da` back into the activation, which the weight's gradient needs:
/// so the forward pass does not have to keep it.
pub(crate) fn backward(up_gate: &mut [f32], width: usize, da: &mut [f32]) {
    da.par_chunks_mut(ROWS * width)
        .zip(up_gate.par_chunks_mut(2 * ROWS * width))
        .for_each(|(da, up_gate)| backward_rows(up_gate, width, da));
}

multiversion! {
    fn backward_rows(up_gate: &mut [f32], width: usize, da: &mut [f32]) {
        for (da, row) in da.chunks_exact_mut(width).zip(up_gate.chunks_exact_mut(2 * width)) {
            let (up, gate) = row.split_at_mut(width);
            for ((da, up), gate) in da.iter_mut().zip(up).zip(gate) {
                let sigmoid = 1.0 / (1.0 + exp(-*gate));
                let silu = *gate * sigmoid;
                let (incoming, activation) = (*da, silu * *up);
                *gate = incoming * *up * (sigmoid + silu * (1.0 - sigmoid));
                *up = incoming * silu;
                *da = activation;
            }
        }
    }
}
