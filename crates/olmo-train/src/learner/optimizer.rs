//! Settings of AdamW.

use std::ops::Range;

use olmo_model::Parameters;
use olmo_ops::adamw::AdamW;

/// Settings of AdamW that stay the same for all steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerSettings {
    /// Decay rates of the running averages of the gradients and of their squares.
    pub betas: [f64; 2],
    /// Added to the denominator for numerical stability.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Applies weight decay to norms too.
    pub decay_norm_and_bias: bool,
    /// Applies weight decay to the embedding too.
    pub decay_embeddings: bool,
}

impl OptimizerSettings {
    /// The settings of a step with learning rate `lr`.
    pub(super) fn adamw(&self, lr: f64) -> AdamW {
        let [beta1, beta2] = self.betas;
        AdamW { learning_rate: lr, betas: (beta1, beta2), eps: self.eps, weight_decay: self.weight_decay }
    }

    /// Where weight decay applies.
    pub(super) fn groups(&self, parameters: &Parameters) -> Vec<(Range<usize>, bool)> {
        parameters.weight_decay_groups(self.decay_norm_and_bias, self.decay_embeddings)
    }
}

#[cfg(test)]
impl OptimizerSettings {
    /// Settings for tests that are not about them.
    pub(super) fn plain() -> Self {
        Self { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, decay_norm_and_bias: false, decay_embeddings: false }
    }
}
