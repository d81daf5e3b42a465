//! The inputs and outputs of a loss.

use std::sync::Arc;

use olmo_ops::IGNORED;

/// Rows of equal length with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `batch` x `sequence` token ids, row by row.
    pub input_ids: Vec<u32>,
    /// Whether each token is a target, in the same order; `None`: all are. The first token of a row
    /// never is, because it has no context.
    pub label_mask: Option<Vec<bool>>,
    /// For each token, the position in its row where its document begins; tokens do not attend to
    /// other documents. `None`: each row is one document.
    pub documents: Option<Arc<[u32]>>,
    /// Number of rows.
    pub batch: usize,
    /// Row length in tokens.
    pub sequence: usize,
}

impl Batch {
    /// The target at each position: the next token if it counts, otherwise [`IGNORED`].
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

    /// Number of targets. The sum over all micro-batches and ranks is the usual denominator of the
    /// loss.
    pub fn labels(&self) -> u64 {
        let counts = |place: usize| {
            !place.is_multiple_of(self.sequence)
                && self.label_mask.as_ref().is_none_or(|mask| mask.get(place) == Some(&true))
        };
        (0..self.input_ids.len()).filter(|&place| counts(place)).count() as u64
    }
}

/// How the losses of tokens are combined: `(sum of nll + z_loss * sum of lse^2) / denominator`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossOptions {
    /// Divisor of the sum over tokens (OLMo: batch times sequence; otherwise the number of labels
    /// over all micro-batches and ranks).
    pub denominator: f64,
    /// Weight of the squared log partition function; 0: none.
    pub z_loss: f64,
}

/// Sums over the labels of a batch, before division by the denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossOutput {
    /// Sum of negative log-likelihoods.
    pub loss_sum: f64,
    /// Sum of `z_loss` times the squared log partition function.
    pub z_sum: f64,
    /// Number of labels.
    pub labels: u64,
}
