//! Head, cross-entropy and z-loss in one pass, in chunks of rows. The logits of all tokens never
//! exist at the same time, rows without a target cost nothing, and gradients are computed in the
//! forward pass, while the logits are available.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::math::{exponentials, multiversion};
use super::matmul::{Compute, Write, matmul_nn, matmul_nt, matmul_tn};
use crate::config::{IGNORED, LossTerms, Sums};
use crate::matrix::MatrixView;

/// Outputs for the gradients of the loss `(nll + z) / denominator`.
#[derive(Debug)]
pub(super) struct Gradients<'a> {
    /// Receives the gradient of the hidden states, `[rows, width]`. Rows without a target are not
    /// written, so pass zeros.
    pub hidden: &'a mut [f32],
    /// The gradient of the head's weight, `[vocabulary, width]`, is added here, unless it is frozen.
    pub weight: Option<&'a mut [f32]>,
}

/// Number of rows whose part of the weight's gradient is summed in one chain. Depends only on
/// shapes.
fn chain_rows(vocabulary: usize) -> usize {
    ((1 << 22) / vocabulary.max(1)).clamp(32, 256)
}

/// Maximum number of logits at a time, in whole chains and at least one. With more rows, the weight
/// and its gradient, which exceed most caches, are read less often; the order of additions remains
/// that of the chains.
const MOST_LOGITS: usize = 1 << 24;

/// Number of rows in a chunk.
fn chunk_rows(compute: Compute, vocabulary: usize) -> usize {
    let chain = chain_rows(vocabulary);
    match compute {
        Compute::Flex => (MOST_LOGITS / (chain * vocabulary.max(1))).max(1) * chain,
        // A BLAS may use another order of additions for another shape.
        #[cfg(feature = "libtorch")]
        Compute::LibTorch => chain,
    }
}

/// The loss of `hidden [rows, width]` with the head `weight [vocabulary, width]`. Rows with
/// `targets[i] == IGNORED` are skipped.
///
/// # Panics
/// A target is neither [`IGNORED`] nor below the number of rows of `weight`.
pub(super) fn loss(
    compute: Compute,
    hidden: &[f32],
    weight: &[f32],
    width: usize,
    targets: &[u32],
    terms: LossTerms,
    mut gradients: Option<Gradients<'_>>,
) -> Sums {
    let vocabulary = weight.len() / width;
    let labelled: Vec<usize> = (0..targets.len()).filter(|&row| targets[row] != IGNORED).collect();
    assert!(labelled.iter().all(|&row| (targets[row] as usize) < vocabulary), "every target has a row of the head");
    if let Some(Gradients { hidden: dhidden, weight: dweight }) = &gradients {
        let fits = dweight.as_ref().is_none_or(|dweight| dweight.len() == weight.len());
        assert!(dhidden.len() == hidden.len() && fits, "gradients have their sizes");
    }
    let mut sums = Sums { labels: labelled.len() as u64, ..Sums::default() };
    let (size, chain) = (chunk_rows(compute, vocabulary).min(labelled.len().max(1)), chain_rows(vocabulary));
    let (mut rows, mut logits, mut losses) =
        (Buffer::new(size * width), Buffer::new(size * vocabulary), vec![[0f32; 2]; size]);
    for chunk in labelled.chunks(size) {
        let count = chunk.len();
        for (to, &from) in rows.chunks_exact_mut(width).zip(chunk) {
            to.copy_from_slice(&hidden[from * width..(from + 1) * width]);
        }
        matmul_nt(compute, &rows, MatrixView::F32(weight), count, width, (&mut logits, vocabulary), Write::New);
        let (logits, wanted) = (&mut logits[..count * vocabulary], gradients.is_some());
        logits.par_chunks_mut(vocabulary).zip(&mut losses[..count]).zip(chunk).for_each(|((logits, loss), &row)| {
            let target = targets[row] as usize;
            *loss = if wanted { loss_and_gradient(logits, target, terms) } else { loss_alone(logits, target) };
        });
        for [nll, lse] in &losses[..count] {
            sums.nll += f64::from(*nll);
            sums.z += terms.z_loss * f64::from(*lse) * f64::from(*lse);
        }
        if let Some(made) = &mut gradients {
            if let Some(dweight) = made.weight.as_deref_mut() {
                matmul_tn(compute, logits, &rows, [count, width, vocabulary], dweight, Some(chain));
            }
            matmul_nn(compute, logits, weight, [count, width, vocabulary], &mut rows, Write::New);
            for (from, &to) in rows.chunks_exact(width).zip(chunk) {
                made.hidden[to * width..(to + 1) * width].copy_from_slice(from);
            }
        }
    }
    sums
}

multiversion! {
    /// Negative log-likelihood and log partition function of one row.
    pub(super) fn loss_alone(logits: &mut [f32], target: usize) -> [f32; 2] {
        exponentials_and_loss(logits, target).1
    }
}

/// Turns the logits into their exponentials, divided by that of the largest one. Returns their sum,
/// and the result of [`loss_alone`].
#[inline(always)]
fn exponentials_and_loss(logits: &mut [f32], target: usize) -> (f32, [f32; 2]) {
    let aim = logits[target];
    let (largest, total) = exponentials(logits, 1.0);
    let shifted = total.ln();
    // Subtract the two large terms first: `shifted` is small and keeps its digits.
    (total, [shifted + (largest - aim), shifted + largest])
}

multiversion! {
    /// Like [`loss_alone`], and turns the logits into their gradient.
    fn loss_and_gradient(logits: &mut [f32], target: usize, terms: LossTerms) -> [f32; 2] {
        let (total, [nll, lse]) = exponentials_and_loss(logits, target);
        // d(nll + z lse^2) = (1 + 2 z lse) softmax - one at the target.
        let scale = ((1.0 + 2.0 * terms.z_loss * f64::from(lse)) / terms.denominator) as f32 / total;
        for logit in logits.iter_mut() {
            *logit *= scale;
        }
        logits[target] -= (1.0 / terms.denominator) as f32;
        [nll, lse]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_chains_in_a_chunk_have_the_bits_of_one_after_the_other() {
        for (rows, width, vocabulary) in [(600, 8, 50), (450, 4, 20_000)] {
            let chain = chain_rows(vocabulary);
            assert!(chain < rows && rows <= chunk_rows(Compute::Flex, vocabulary), "one chunk of several chains");
            let value = |i: usize| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5;
            let hidden: Vec<f32> = (0..rows * width).map(value).collect();
            let weight: Vec<f32> = (0..vocabulary * width).map(|i| value(i + 5)).collect();
            let targets: Vec<u32> = (0..rows).map(|i| ((i * 31) % vocabulary) as u32).collect();
            let terms = LossTerms { z_loss: 1e-4, denominator: rows as f64 };
            let gradients = |chunk: usize| {
                let (mut dhidden, mut dweight) = (vec![0f32; hidden.len()], vec![0f32; weight.len()]);
                let parts = hidden.chunks(chunk * width).zip(targets.chunks(chunk));
                for ((hidden, targets), dhidden) in parts.zip(dhidden.chunks_mut(chunk * width)) {
                    let made = Gradients { hidden: dhidden, weight: Some(&mut dweight) };
                    loss(Compute::Flex, hidden, &weight, width, targets, terms, Some(made));
                }
                dhidden.into_iter().chain(dweight).map(f32::to_bits).collect::<Vec<_>>()
            };
            assert!(gradients(rows) == gradients(chain), "{rows} rows of {width}, vocabulary {vocabulary}");
        }
    }
}
