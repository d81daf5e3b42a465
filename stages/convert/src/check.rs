//! Compares a model with its export.

use std::fmt;
use std::path::Path;

use olmo_base::SplitMix64;
use olmo_infer::Placement;
use olmo_model::{
    Matrices, Matrix, ModelConfig, ModelError, StoredModel, TensorSpec, WeightSource, WeightType, differing_tensors,
};
use olmo_stage::StageError;
use olmo_stage::compute::Device;
use serde::Serialize;

use crate::perplexity::Perplexity;

/// Largest difference of logits that passes.
const TOLERANCE: f64 = 1e-5;
const ROWS: usize = 2;
const LONGEST_ROW: usize = 64;

/// Compares the weights of the `export` with the model's, which are rounded as the export's, tensor by
/// tensor, and returns the number of tensors.
///
/// # Errors
/// `convert::differs`, with the tensors that differ.
pub(crate) fn compare_weights(weights: &dyn WeightSource, export: &StoredModel) -> Result<usize, StageError> {
    let names = differing_tensors(weights, export, WeightType::Float32).map_err(|e| e.with_code("convert::model"))?;
    let names: Vec<String> = names.iter().map(|name| format!("`{name}` differs")).collect();
    if names.is_empty() { Ok(weights.tensors().len()) } else { Err(differs(&names)) }
}

/// Compares the tensors in the files of both folders by name, the model's rounded to `dtype`, of
/// embedding and head the first `rows` rows, and returns their number.
///
/// # Errors
/// `convert::differs`, listing every missing, extra or different tensor.
pub(crate) fn compare_files(model: &Path, export: &Path, dtype: WeightType, rows: usize) -> Result<usize, StageError> {
    let comparison = olmo_model::compare_weights(model, export, dtype, rows);
    let comparison = comparison.map_err(|e| e.with_code("convert::model"))?;
    match &comparison.differences[..] {
        [] => Ok(comparison.tensors),
        differences => Err(differs(differences)),
    }
}

fn differs(differences: &[String]) -> StageError {
    const SHOWN: usize = 12;
    let rest = differences.len().saturating_sub(SHOWN);
    let rest = if rest > 0 { format!("; and {rest} more") } else { String::new() };
    let shown: Vec<&str> = differences.iter().take(SHOWN).map(String::as_str).collect();
    let what = format!("the exported weights differ from the model's: {}{rest}", shown.join("; "));
    StageError::fail("convert::differs", what).hint("do not use the export; this is a bug in stage convert")
}

/// `report.json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    pub format: u32,
    /// The type of the exported weights, or of their blocks.
    pub dtype: &'static str,
    /// Largest difference between the logits of the model, its weights rounded to `dtype`, and of
    /// the export.
    pub max_abs_difference: f64,
    /// Largest difference between the logits of the unrounded model and of the export.
    pub max_abs_rounding: f64,
    /// Largest `max_abs_difference` that passes.
    pub tolerance: f64,
    /// Number of tokens whose logits were compared.
    pub tokens: usize,
    /// Number of tensors whose values are equal in both.
    pub tensors: usize,
    /// On the rows of the input `data`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<Perplexity>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensors, tokens, .. } = self;
        match self.dtype {
            "float32" => write!(
                f,
                "all {tensors} tensors equal; largest difference of logits over {tokens} tokens: {:e}",
                self.max_abs_difference
            )?,
            dtype => write!(
                f,
                "all {tensors} tensors equal those rounded to {}; over {tokens} tokens the logits differ by up to {:e} from the \
                 rounded model's and by up to {:.1e} from the model's",
                dtype, self.max_abs_difference, self.max_abs_rounding
            )?,
        }
        let Some(Perplexity { tokens, before, after, .. }) = self.perplexity else { return Ok(()) };
        let rise = 100.0 * (after / before - 1.0);
        write!(f, "; perplexity over {tokens} tokens: {before:.4} before, {after:.4} after ({rise:+.3} %)")
    }
}

impl Report {
    /// # Errors
    /// `convert::differs` if the logits differ by more than the tolerance.
    pub(crate) fn verdict(&self) -> Result<(), StageError> {
        // A NaN never passes.
        if self.max_abs_difference <= TOLERANCE {
            return Ok(());
        }
        let what = format!(
            "the export's logits differ from the model's by up to {:e} (at most {TOLERANCE:e} is allowed)",
            self.max_abs_difference
        );
        Err(StageError::fail("convert::differs", what)
            .hint("do not use the export; either the weights are not finite, or this is a bug in stage convert"))
    }
}

/// Token ids that depend only on the size of the vocabulary (seed 0).
fn ids(count: usize, vocab_size: usize) -> Vec<u32> {
    let mut numbers = SplitMix64::new(0);
    (0..count).map(|_| (numbers.next_u64() % vocab_size.max(1) as u64) as u32).collect()
}

/// Compares the logits of a model and of its `export`. `rounded` are the model's weights rounded to
/// `dtype`, if that changes them. `tensors` is the number of equal tensors. On the CPU, weights are read
/// block by block.
pub(crate) fn compare_logits(
    (config, weights): (&ModelConfig, &dyn WeightSource),
    export: &StoredModel,
    (dtype, rounded): (&'static str, Option<&dyn WeightSource>),
    tensors: usize,
    placement: &Placement<'_>,
) -> Result<Report, StageError> {
    let length = LONGEST_ROW.min(config.max_sequence_length);
    let ids = ids(ROWS * length, config.vocab_size);
    let coded = |error: ModelError| StageError::from(error.with_code("convert::model"));
    let logits = |config: &ModelConfig, source: &dyn WeightSource| -> Result<Vec<f32>, StageError> {
        match placement.compute.device {
            Device::Cpu => {
                let compute = olmo_infer::host(placement)?;
                olmo_infer::streamed_logits(config, source, &ids, [ROWS, length], compute).map_err(coded)
            }
            Device::Cuda => {
                let model = olmo_infer::of_matrices(config.clone(), matrices(source).map_err(coded)?, placement)?;
                model.logits(&ids, ROWS, length).map_err(coded)
            }
        }
    };
    let exact = logits(config, weights)?;
    // With the config that its reader finds in the export.
    let after = logits(export.config(), export)?;
    if exact.len() != after.len() {
        return Err(StageError::fail(
            "convert::differs",
            format!("the export has {} logits, the model {}", after.len(), exact.len()),
        ));
    }
    let max_abs_rounding = largest_difference(&exact, &after);
    let max_abs_difference = match rounded {
        None => max_abs_rounding,
        Some(rounded) => largest_difference(&logits(config, rounded)?, &after),
    };
    Ok(Report {
        format: 1,
        dtype,
        max_abs_difference,
        max_abs_rounding,
        tolerance: TOLERANCE,
        tokens: ids.len(),
        tensors,
        perplexity: None,
    })
}

/// All weights, for a device with memory of its own.
fn matrices(source: &dyn WeightSource) -> Result<Matrices, ModelError> {
    let read = |spec: &TensorSpec| {
        let mut values = vec![0.0; spec.range.len()];
        source.read_into(spec.range.start, &mut values)?;
        Ok((spec.range.clone(), Matrix::F32(values.into())))
    };
    Ok(Matrices::new(source.tensors().iter().map(read).collect::<Result<Vec<_>, ModelError>>()?))
}

/// NaN if any difference is NaN.
fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).fold(0.0, |largest: f64, (a, b)| {
        let difference = (f64::from(*a) - f64::from(*b)).abs();
        // A NaN persists.
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
                dtype: "float32",
                max_abs_difference: largest_difference(a, b),
                max_abs_rounding: 0.0,
                tolerance: TOLERANCE,
                tokens: 1,
                tensors: 1,
                perplexity: None,
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
