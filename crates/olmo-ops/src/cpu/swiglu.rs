//! The MLP's activation: `silu(gate) * up`, with up and gate as the halves of one row.

use std::array::from_mut;

use rayon::prelude::*;

use super::math::{LANES, exp, multiversion};

/// Rows per task.
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

/// Turns `up_gate` into its gradient, and the incoming gradient `da` back into the activation,
/// which the weight's gradient needs, so that the forward pass need not keep it.
pub(crate) fn backward(up_gate: &mut [f32], width: usize, da: &mut [f32]) {
    da.par_chunks_mut(ROWS * width)
        .zip(up_gate.par_chunks_mut(2 * ROWS * width))
        .for_each(|(da, up_gate)| backward_rows(up_gate, width, da));
}

multiversion! {
    fn backward_rows(up_gate: &mut [f32], width: usize, da: &mut [f32]) {
        for (da, row) in da.chunks_exact_mut(width).zip(up_gate.chunks_exact_mut(2 * width)) {
            let (up, gate) = row.split_at_mut(width);
            // In pieces of fixed length: compilers do not vectorise a loop that reads and writes
            // three slices.
            let (mut das, mut ups, mut gates) =
                (da.chunks_exact_mut(LANES), up.chunks_exact_mut(LANES), gate.chunks_exact_mut(LANES));
            for ((da, up), gate) in (&mut das).zip(&mut ups).zip(&mut gates) {
                backward_lanes(lanes(da), lanes(up), lanes(gate));
            }
            let rest = das.into_remainder().iter_mut().zip(ups.into_remainder()).zip(gates.into_remainder());
            for ((da, up), gate) in rest {
                backward_lanes(from_mut(da), from_mut(up), from_mut(gate));
            }
        }
    }
}

#[inline(always)]
fn lanes(chunk: &mut [f32]) -> &mut [f32; LANES] {
    chunk.try_into().expect("chunks have this length")
}

/// Processes the elements in order; reads all before writing any, so that the loop vectorises.
#[inline(always)]
fn backward_lanes<const N: usize>(da: &mut [f32; N], up: &mut [f32; N], gate: &mut [f32; N]) {
    let (incoming, u, g) = (*da, *up, *gate);
    for lane in 0..N {
        let sigmoid = 1.0 / (1.0 + exp(-g[lane]));
        let silu = g[lane] * sigmoid;
        gate[lane] = incoming[lane] * u[lane] * (sigmoid + silu * (1.0 - sigmoid));
        up[lane] = incoming[lane] * silu;
        da[lane] = silu * u[lane];
    }
}
