//! Products of single rows, for steps of generation: each element is one sum over its weight's row,
//! for any number of rows and threads.

use rayon::prelude::*;

use super::matrix::Write;
use crate::cpu::buffer::Buffer;
use crate::cpu::math::{dot, multiversion, sum_of_pairs};
use crate::matrix::{MatrixView, widen};

/// Rows of a weight per task.
const ROWS: usize = 512;

/// `y [rows, outputs] (+)= x [rows, inputs] w^T`; w consists of `parts`, one below the other.
pub(crate) fn product_of_rows(
    x: &[f32],
    inputs: usize,
    parts: &[MatrixView<'_>],
    outputs: usize,
    y: &mut [f32],
    write: Write,
) {
    let rows = x.len() / inputs;
    if rows == 1 && write == Write::New {
        return transposed(x, inputs, parts, y);
    }
    let mut columns = Buffer::new(outputs * rows);
    transposed(x, inputs, parts, &mut columns);
    for (row, y) in y.chunks_exact_mut(outputs).enumerate() {
        for (y, column) in y.iter_mut().zip(columns.chunks_exact(rows)) {
            *y = if write == Write::New { column[row] } else { *y + column[row] };
        }
    }
}

/// `y [outputs, rows]`, the transposed result.
fn transposed(x: &[f32], inputs: usize, parts: &[MatrixView<'_>], mut y: &mut [f32]) {
    let rows = x.len() / inputs;
    let mut tasks = Vec::new();
    for part in parts {
        let outputs = part.len() / inputs;
        let (own, rest) = y.split_at_mut(outputs * rows);
        y = rest;
        let chunks = own.chunks_mut(ROWS * rows).enumerate();
        tasks.extend(chunks.map(|(index, y)| {
            let start = index * ROWS * inputs;
            (y, part.part(start..part.len().min(start + ROWS * inputs)))
        }));
    }
    tasks.into_par_iter().for_each(|(y, weight)| multiply(x, inputs, weight, y));
}

multiversion! {
    fn multiply(x: &[f32], inputs: usize, weight: MatrixView<'_>, y: &mut [f32]) {
        let rows = x.len() / inputs;
        match weight {
            MatrixView::F32(weight) => {
                for (y, weight) in y.chunks_exact_mut(rows).zip(weight.chunks_exact(inputs)) {
                    for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
                        *y = dot(weight, x);
                    }
                }
            }
            MatrixView::Bf16(weight) if rows == 1 => {
                for (y, weight) in y.iter_mut().zip(weight.chunks_exact(inputs)) {
                    *y = sum_of_pairs(weight, x, |weight, x| widen(weight) * x);
                }
            }
            MatrixView::Bf16(weight) => {
                let mut wide = vec![0f32; inputs];
                for (y, weight) in y.chunks_exact_mut(rows).zip(weight.chunks_exact(inputs)) {
                    wide.iter_mut().zip(weight).for_each(|(wide, &bits)| *wide = widen(bits));
                    for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
                        *y = dot(&wide, x);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_parts_and_bf16_change_no_bit() {
        let (inputs, outputs) = (37, 1100);
        let value = |i: usize| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5;
        let bits: Vec<u16> = (0..outputs * inputs).map(|i| (value(i).to_bits() >> 16) as u16).collect();
        let wide: Vec<f32> = bits.iter().map(|&bits| widen(bits)).collect();
        let x: Vec<f32> = (0..3 * inputs).map(|i| value(i + 11)).collect();
        let run = |x: &[f32], parts: &[MatrixView<'_>]| {
            let mut y = vec![f32::NAN; x.len() / inputs * outputs];
            product_of_rows(x, inputs, parts, outputs, &mut y, Write::New);
            y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let whole = run(&x, &[MatrixView::F32(&wide)]);
        let one_by_one: Vec<u32> = x.chunks(inputs).flat_map(|x| run(x, &[MatrixView::F32(&wide)])).collect();
        assert!(whole == one_by_one);
        let split = 600 * inputs;
        let parts = [MatrixView::Bf16(&bits[..split]), MatrixView::F32(&wide[split..])];
        assert!(whole == run(&x, &parts) && whole[..outputs] == run(&x[..inputs], &parts));
    }
}
