//! The head, cross-entropy and z-loss at once, in chunks of rows: the logits of all tokens never exist together, rows without a
//! target cost nothing, and the gradients are made in the forward pass, where the logits are at hand.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::gemm::{Write, matmul_nn, matmul_nt, matmul_tn};
use super::kernels::Kernels;
use super::math::{exp, maximum, multiversion, sum};
use crate::config::{IGNORED, LossTerms};

/// Sums over the targets that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Negative log-likelihood.
    pub nll: f64,
    /// `z_loss` times the squared log partition function.
    pub z: f64,
    /// Targets that count.
    pub labels: u64,
}

/// Where the gradients of the loss `(nll + z) / denominator` go.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// That of the hidden states, `[rows, width]`, is written here; rows without a target are left as they are, so hand in zeros.
    pub hidden: &'a mut [f32],
    /// That of the head's weight, `[vocabulary, width]`, is added here.
    pub weight: &'a mut [f32],
}

/// Rows of a chunk: logits of at most 4 Mi floats, but enough rows to keep the products efficient. Depends on shapes alone.
fn chunk_rows(vocabulary: usize) -> usize {
    ((1 << 22) / vocabulary.max(1)).clamp(32, 256)
}

/// The loss of `hidden [rows, width]` with the head `weight [vocabulary, width]`; `targets[i] == IGNORED` takes row `i` out.
///
/// # Panics
/// A target is neither [`IGNORED`] nor below the number of rows of `weight`.
pub fn loss(
    kernels: Kernels,
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
        assert!(dhidden.len() == hidden.len() && dweight.len() == weight.len(), "gradients have their sizes");
    }
    let mut sums = Sums { labels: labelled.len() as u64, ..Sums::default() };
    let size = chunk_rows(vocabulary).min(labelled.len().max(1));
    let (mut rows, mut logits, mut losses) =
        (Buffer::new(size * width), Buffer::new(size * vocabulary), vec![[0f32; 2]; size]);
    for chunk in labelled.chunks(size) {
        let count = chunk.len();
        for (to, &from) in rows.chunks_exact_mut(width).zip(chunk) {
            to.copy_from_slice(&hidden[from * width..(from + 1) * width]);
        }
        matmul_nt(kernels, &rows, weight, count, width, vocabulary, &mut logits, Write::New);
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
            matmul_tn(kernels, logits, &rows, count, width, vocabulary, made.weight, Write::Add);
            matmul_nn(kernels, logits, weight, count, width, vocabulary, &mut rows, Write::New);
            for (from, &to) in rows.chunks_exact(width).zip(chunk) {
                made.hidden[to * width..(to + 1) * width].copy_from_slice(from);
            }
        }
    }
    sums
}

multiversion! {
    /// Negative log-likelihood and log partition function of one row.
    fn loss_alone(logits: &mut [f32], target: usize) -> [f32; 2] {
        let aim = logits[target];
        let largest = maximum(logits);
        for logit in logits.iter_mut() {
            *logit = exp(*logit - largest);
        }
        let shifted = sum(logits).ln();
        // Subtract the two large parts first: shifted is small and keeps its digits.
        [shifted + (largest - aim), shifted + largest]
    }
}

multiversion! {
    /// As [`loss_alone`], and turns the logits into their gradient.
    fn loss_and_gradient(logits: &mut [f32], target: usize, terms: LossTerms) -> [f32; 2] {
        let aim = logits[target];
        let largest = maximum(logits);
        for logit in logits.iter_mut() {
            *logit = exp(*logit - largest);
        }
        let total = sum(logits);
        let shifted = total.ln();
        let lse = shifted + largest;
        // d(nll + z lse^2) = (1 + 2 z lse) softmax - one at the target.
        let scale = ((1.0 + 2.0 * terms.z_loss * f64::from(lse)) / terms.denominator) as f32 / total;
        for logit in logits.iter_mut() {
            *logit *= scale;
        }
        logits[target] -= (1.0 / terms.denominator) as f32;
        [shifted + (largest - aim), lse]
    }
}

/// Logits `[rows, vocabulary]`.
pub fn logits(kernels: Kernels, hidden: &[f32], weight: &[f32], width: usize) -> Vec<f32> {
    let (rows, vocabulary) = (hidden.len() / width, weight.len() / width);
    let mut logits = vec![0f32; rows * vocabulary];
    matmul_nt(kernels, hidden, weight, rows, width, vocabulary, &mut logits, Write::New);
    logits
}
