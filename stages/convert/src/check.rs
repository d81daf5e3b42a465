//! The comparison of a model with its export.

use std::path::Path;

use olmo_model::{Model, ModelConfig, Parameters};
use olmo_stage::StageError;
use serde::Serialize;

use crate::model_failure;

/// The largest difference that is no failure.
const TOLERANCE: f64 = 1e-5;
const ROWS: usize = 2;
const LONGEST_ROW: usize = 64;

/// Compares the tensors in the files of both folders by name, and returns how many there are.
///
/// # Errors
/// `convert::differs` with every tensor that is lost, new or has other values.
pub fn compare_weights(model: &Path, export: &Path) -> Result<usize, StageError> {
    const SHOWN: usize = 12;
    let comparison = olmo_model::compare_weights(model, export).map_err(model_failure)?;
    let differences = comparison.differences;
    if differences.is_empty() {
        return Ok(comparison.tensors);
    }
    let rest = differences.len().saturating_sub(SHOWN);
    let rest = if rest > 0 { format!("; and {rest} more") } else { String::new() };
    let shown: Vec<&str> = differences.iter().take(SHOWN).map(String::as_str).collect();
    let what = format!("the export has other weights than the model: {}{rest}", shown.join("; "));
    Err(StageError::fail("convert::differs", what).hint("the export is not to be used; this is a bug in the export"))
}

/// `report.json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    pub format: u32,
    /// Between the logits of the model and of its export.
    pub max_abs_difference: f64,
    /// What would be a failure begins behind it.
    pub tolerance: f64,
    /// Tokens whose logits were compared.
    pub tokens: usize,
    /// Tensors of the model whose values in the files of both are equal.
    pub tensors: usize,
}

impl Report {
    /// # Errors
    /// `convert::differs` if the export answers differently.
    pub fn verdict(&self) -> Result<(), StageError> {
        // A NaN is not within any tolerance.
        if self.max_abs_difference <= TOLERANCE {
            return Ok(());
        }
        let what = format!(
            "the export answers differently: logits differ by up to {:e} (at most {TOLERANCE:e} is allowed)",
            self.max_abs_difference
        );
        Err(StageError::fail("convert::differs", what)
            .hint("the export is not to be used; this is a bug in the export, or the weights are not finite"))
    }
}

/// Ids that depend on nothing but the size of the vocabulary (SplitMix64, seed 0).
fn ids(count: usize, vocab_size: usize) -> Vec<u32> {
    let mut state = 0u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    (0..count).map(|_| (next() % vocab_size.max(1) as u64) as u32).collect()
}

/// Compares the logits of a model and of its export. `tensors`: how many of their tensors are equal.
pub fn compare(
    model: (&ModelConfig, &Parameters),
    export: (&ModelConfig, &Parameters),
    tensors: usize,
) -> Result<Report, StageError> {
    let length = LONGEST_ROW.min(model.0.max_sequence_length);
    let ids = ids(ROWS * length, model.0.vocab_size);
    let logits = |(config, parameters): (&ModelConfig, &Parameters)| {
        Model::new(config, parameters, false).and_then(|model| model.logits(&ids, ROWS, length)).map_err(model_failure)
    };
    let (before, after) = (logits(model)?, logits(export)?);
    if before.len() != after.len() {
        return Err(StageError::fail(
            "convert::differs",
            format!("the export has {} logits, the model {}", after.len(), before.len()),
        ));
    }
    Ok(Report {
        format: 1,
        max_abs_difference: largest_difference(&before, &after),
        tolerance: TOLERANCE,
        tokens: ids.len(),
        tensors,
    })
}

/// NaN if any difference is.
fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).fold(0.0, |largest: f64, (a, b)| {
        let difference = (f64::from(*a) - f64::from(*b)).abs();
        // Once NaN, it stays so.
        if difference <= largest || largest.is_nan() { largest } else { difference }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_anywhere_is_a_difference_that_fails() {
        let fails = |a: &[f32], b: &[f32]| {
            Report {
                format: 1,
                max_abs_difference: largest_difference(a, b),
                tolerance: TOLERANCE,
                tokens: 1,
                tensors: 1,
            }
            .verdict()
            .is_err()
        };
        assert!(!fails(&[1.0, 2.0], &[1.0, 2.000_005]));
        assert!(fails(&[1.0, 2.0], &[1.0, 2.000_1]));
        assert!(fails(&[f32::NAN, 2.0], &[1.0, 2.0]));
        assert!(fails(&[1.0, f32::NAN], &[1.0, f32::NAN]));
        assert!(fails(&[f32::NAN, 2.0], &[1.0, 9.0]));
    }

    #[test]
    fn ids_stay_within_the_vocabulary_and_vary() {
        let ids = ids(200, 50);
        assert!(ids.iter().all(|id| *id < 50));
        assert!((0..50).filter(|id| ids.contains(id)).count() > 30);
    }
}
