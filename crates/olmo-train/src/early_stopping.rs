//! [`EarlyStopping`]: ends a training whose score no longer improves; and [`Scorer`], which measures
//! scores other than the loss on held-out data.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_stage::{Context, StageError};
use serde::{Deserialize, Serialize};

/// The score that is the loss on `eval_data`.
pub const EVAL_LOSS: &str = "eval_loss";

/// A score with its standard error, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    pub value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
}

/// When a training ends before its last step.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Name of the score.
    pub metric: String,
    /// Whether higher scores are better.
    pub maximize: bool,
    /// Number of evaluations in a row without an improvement.
    pub patience: u64,
    /// An improvement is more than this, plus `errors` standard errors of the score.
    pub min_delta: f64,
    pub errors: f64,
}

impl EarlyStopping {
    /// Whether training ends after these scores, oldest first.
    pub fn is_over(&self, scores: &[Score]) -> bool {
        let sign = if self.maximize { 1.0 } else { -1.0 };
        let (mut best, mut without) = (None, 0);
        for score in scores {
            let least = self.min_delta + self.errors * score.stderr.unwrap_or(0.0);
            match best {
                Some(best) if sign * (score.value - best) <= least => without += 1,
                _ => (best, without) = (Some(score.value), 0),
            }
        }
        without >= self.patience
    }
}

/// Scores the weights during a training.
pub trait Scorer {
    /// The scores of the model in folder `model`, by name. Does not change the training.
    ///
    /// # Errors
    /// The model cannot be scored.
    fn score(&self, model: &Path, context: &mut Context) -> Result<BTreeMap<String, Score>, StageError>;
}

/// A [`Scorer`] that can be part of a setup.
pub struct SharedScorer(pub Box<dyn Scorer>);

impl std::fmt::Debug for SharedScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedScorer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f64], stderr: Option<f64>) -> Vec<Score> {
        values.iter().map(|&value| Score { value, stderr }).collect()
    }

    #[test]
    fn training_ends_after_evaluations_without_an_improvement() {
        let rule = |maximize, patience, min_delta, errors| EarlyStopping {
            metric: EVAL_LOSS.into(),
            maximize,
            patience,
            min_delta,
            errors,
        };
        let lower = rule(false, 2, 0.0, 1.0);
        assert!(!lower.is_over(&[]) && !lower.is_over(&scores(&[3.0, 2.0, 2.5], None)));
        assert!(lower.is_over(&scores(&[3.0, 2.0, 2.5, 2.0], None)), "equal is no improvement");
        assert!(!lower.is_over(&scores(&[3.0, 2.0, 2.5, 1.9], None)));
        // Within its error, a higher score is no improvement.
        let higher = rule(true, 2, 0.0, 1.0);
        assert!(higher.is_over(&scores(&[0.50, 0.52, 0.54], Some(0.05))));
        assert!(!higher.is_over(&scores(&[0.50, 0.52, 0.56], Some(0.05))));
        assert!(!rule(true, 2, 0.0, 0.0).is_over(&scores(&[0.50, 0.52, 0.54], Some(0.05))));
        assert!(rule(true, 1, 0.05, 0.0).is_over(&scores(&[0.50, 0.54], None)));
    }
}
