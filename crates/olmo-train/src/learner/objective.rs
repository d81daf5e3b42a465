//! [`Objective`]: what training minimises.

use olmo_model::{LossOptions, ModelError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Size of a global batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSize {
    /// Number of labels.
    pub labels: u64,
    /// Number of tokens, padding included.
    pub tokens: u64,
}

/// The model's output for a micro-batch: the final hidden states, and the head that computes logits
/// from them. The logits of all tokens never exist at once; each operation works on chunks of rows
/// and adds its loss and gradients to those of the step.
pub trait ModelOutput {
    /// Adds the cross-entropy of the labels, and the z-loss.
    ///
    /// # Errors
    /// The micro-batch does not fit the model.
    fn cross_entropy(&mut self, options: &LossOptions) -> Result<(), ModelError>;
}

/// A loss, and how it is normalised over a global batch.
pub trait Objective {
    /// Divisor of the sums over a global batch of `size`.
    fn denominator(&self, size: StepSize) -> f64;

    /// Adds the loss of a micro-batch and its gradients, both divided by `denominator`.
    ///
    /// # Errors
    /// Those of the operations on `output`.
    fn add_loss(&self, denominator: f64, output: &mut dyn ModelOutput) -> Result<(), ModelError>;
}

/// Divisor of a step's loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossNorm {
    #[default]
    Labels,
    Olmo,
}

/// Cross-entropy of the labelled tokens, with an optional z-loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    pub norm: LossNorm,
    /// Weight of the z-loss; 0: none.
    pub z_loss: f64,
}

impl Objective for CrossEntropy {
    fn denominator(&self, size: StepSize) -> f64 {
        match self.norm {
            LossNorm::Labels => size.labels as f64,
            LossNorm::Olmo => size.tokens as f64,
        }
    }

    fn add_loss(&self, denominator: f64, output: &mut dyn ModelOutput) -> Result<(), ModelError> {
        output.cross_entropy(&LossOptions { denominator, z_loss: self.z_loss })
    }
}
