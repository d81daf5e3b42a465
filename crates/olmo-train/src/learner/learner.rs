//! The interface of a learner.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use olmo_model::{Batch, Model, OptimizerState, Parameters};
use olmo_stage::StageError;

use super::objective::StepSize;

/// Everything that an update changes. A clone shares the large arrays until they change, so it
/// costs a copy only if the next update comes before the clone is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnerState {
    pub parameters: Parameters,
    /// The range of the parameters whose moments follow: all of them, or the shard of a rank.
    pub shard: Range<usize>,
    /// Running average of the gradients, laid out like the parameters.
    pub exp_avg: Arc<Vec<f32>>,
    /// Running average of their squares.
    pub exp_avg_sq: Arc<Vec<f32>>,
    /// Number of updates.
    pub optimizer_steps: u64,
}

impl LearnerState {
    /// The state before the first update, with the moments of `shard`.
    pub fn new(parameters: Parameters, shard: Range<usize>) -> Self {
        let zeros = || Arc::new(vec![0.0; shard.len()]);
        Self { exp_avg: zeros(), exp_avg_sq: zeros(), shard, parameters, optimizer_steps: 0 }
    }

    /// The state with `optimizer`, of whose moments it keeps those of `shard`.
    pub fn continued(parameters: Parameters, shard: Range<usize>, optimizer: &OptimizerState) -> Self {
        let own = |moments: &Parameters| Arc::new(moments.flat()[shard.clone()].to_vec());
        let (exp_avg, exp_avg_sq) = (own(&optimizer.exp_avg), own(&optimizer.exp_avg_sq));
        Self { exp_avg, exp_avg_sq, shard, parameters, optimizer_steps: optimizer.steps }
    }
}

/// The results of a step: sums over its micro-batches, divided by the step's denominator.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    pub loss: f64,
    pub z_loss: f64,
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Index of the first micro-batch with a loss that is not finite among those of this rank, if
    /// any.
    pub bad: Option<usize>,
    /// Time that the host waited for the GPU, if there is one.
    pub waited: Option<Duration>,
}

impl Step {
    /// Whether the losses and the norm are finite. If not, the step changed nothing.
    pub fn is_finite(&self) -> bool {
        (self.loss + self.z_loss).is_finite() && self.grad_norm.is_finite()
    }
}

/// A model being trained: `begin`, `accumulate` or `skip` for each micro-batch of this rank,
/// `finish`.
///
/// Losses and gradients of micro-batches are added in the order of a fixed binary tree over their
/// positions in the global batch.
pub trait Learner {
    /// The model with the current weights.
    fn model(&self) -> &Model;

    /// Number of updates so far.
    fn optimizer_steps(&self) -> u64;

    /// Begins a step over a global batch of `size`, of whose micro-batches this rank computes those
    /// at `positions`. Discards earlier gradients.
    fn begin(&mut self, size: StepSize, positions: Range<u64>);

    /// Adds the loss and the gradients of a micro-batch.
    ///
    /// # Errors
    /// The micro-batch does not fit the model.
    fn accumulate(&mut self, part: &Batch) -> Result<(), StageError>;

    /// Passes over a micro-batch without labels, which has a position but adds nothing.
    fn skip(&mut self);

    /// Sums losses and gradients over the ranks, measures the gradients, and updates the weights
    /// with learning rate `lr`. A larger norm of the gradients is scaled down to `max_grad_norm`.
    /// Changes nothing if a number is not finite.
    ///
    /// # Errors
    /// The exchange between the ranks failed.
    fn finish(&mut self, lr: f64, max_grad_norm: Option<f64>) -> Result<Step, StageError>;

    /// Weights and moments on the host.
    fn snapshot(&mut self) -> LearnerState;

    /// The gradients of the last step, on the host.
    fn gradients(&self) -> Cow<'_, [f32]>;

    /// Settings that change the results but are not part of any cache key.
    fn unkeyed_settings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The reason why the run was slower than possible, if there is one.
    fn slowdown(&self) -> Option<String> {
        None
    }
}
