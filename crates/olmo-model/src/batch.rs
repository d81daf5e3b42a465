//! What a loss is computed of, and what it says.

use std::sync::Arc;

use olmo_ops::IGNORED;

/// Rows of equal length with the labels to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `batch` x `sequence` token ids, row after row.
    pub input_ids: Vec<u32>,
    /// Whether a token counts as a target (same order); `None`: all do. The first of a row never does: nothing stands before it.
    pub label_mask: Option<Vec<bool>>,
    /// For each token the place in its row where its document begins: tokens do not see other documents. `None`: rows are documents.
    pub documents: Option<Arc<[u32]>>,
    /// Number of rows.
    pub batch: usize,
    /// Tokens in each row.
    pub sequence: usize,
}

impl Batch {
    /// What the model has to say at each place: the next token where that counts, else [`IGNORED`].
    pub(crate) fn targets(&self) -> Vec<u32> {
        let mut targets = vec![IGNORED; self.input_ids.len()];
        for row in 0..self.batch {
            for place in row * self.sequence + 1..(row + 1) * self.sequence {
                if self.label_mask.as_ref().is_none_or(|mask| mask[place]) {
                    targets[place - 1] = self.input_ids[place];
                }
            }
        }
        targets
    }

    /// Number of targets; the sum over all micro-batches and ranks is the usual denominator of the loss.
    pub fn labels(&self) -> u64 {
        let counts = |place: usize| {
            !place.is_multiple_of(self.sequence)
                && self.label_mask.as_ref().is_none_or(|mask| mask.get(place) == Some(&true))
        };
        (0..self.input_ids.len()).filter(|&place| counts(place)).count() as u64
    }
}

/// How a loss is made of the losses of tokens: `(sum of nll + z_loss * sum of lse^2) / denominator`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossOptions {
    /// What the sum over tokens is divided by (OLMo: batch times sequence; else the number of labels over all micro-batches and ranks).
    pub denominator: f64,
    /// Weight of the square of the log of the partition function; 0: none.
    pub z_loss: f64,
}

/// Sums over the labels of a batch, not yet divided by the denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossOutput {
    /// Sum of negative log-likelihoods.
    pub loss_sum: f64,
    /// Sum of `z_loss` times the squared log partition function.
    pub z_sum: f64,
    /// Number of labels.
    pub labels: u64,
}
