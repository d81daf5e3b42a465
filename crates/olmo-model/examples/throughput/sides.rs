//! What computes: a backend with weights, gradients and the optimizer's state where it wants them.

use std::ops::Range;
use std::time::Instant;

use olmo_model::{ActivationCheckpointing, Batch, Compute, LossOptions, Model, ModelConfig, Parameters};
use olmo_ops::adamw::{self, AdamW, State};

use crate::Failure;

const SETTINGS: AdamW = AdamW { learning_rate: 1e-3, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };

/// A backend and what it computes in.
#[derive(Clone, Copy, Default)]
pub struct Side {
    compute: Compute,
}

impl Side {
    /// Under the engine's names: `flex`, `libtorch`; `fp32`.
    pub fn named(backend: &str, precision: &str) -> Result<Side, Failure> {
        let compute = Compute::named(backend).ok_or(format!("{backend}: this build has no such backend"))?;
        if precision != "fp32" {
            return Err(format!("{precision}: {backend} computes in fp32").into());
        }
        Ok(Side { compute })
    }

    /// The largest error, relative to what is right, that rounding explains: of a loss, and of a tensor's gradient.
    pub fn tolerance(&self) -> (f64, f64) {
        (1e-5, 2e-4)
    }

    /// A loss, its number of labels and the gradients of all weights.
    pub fn gradients(
        &self,
        config: &ModelConfig,
        parameters: &Parameters,
        batch: &Batch,
        options: &LossOptions,
    ) -> Result<(f64, Vec<f32>), Failure> {
        let mut gradients = vec![0f32; parameters.len()];
        let model = Model::on(self.compute, config, parameters, true)?;
        let output = model.loss_and_gradients(batch, options, &mut gradients)?;
        Ok(((output.loss_sum + output.z_sum) / options.denominator, gradients))
    }
}

/// A model in training.
pub struct Trainer {
    model: Model,
    parameters: Parameters,
    gradients: Vec<f32>,
    moments: [Vec<f32>; 2],
    groups: Vec<(Range<usize>, bool)>,
}

impl Trainer {
    pub fn new(
        side: &Side,
        config: &ModelConfig,
        parameters: Parameters,
        recompute: ActivationCheckpointing,
    ) -> Result<Trainer, Failure> {
        let zeros = || vec![0f32; parameters.len()];
        let (gradients, moments) = (zeros(), [zeros(), zeros()]);
        let mut model = Model::on(side.compute, config, &parameters, true)?;
        model.set_activation_checkpointing(recompute);
        let groups = parameters.weight_decay_groups(true, false);
        Ok(Trainer { model, parameters, gradients, moments, groups })
    }

    pub fn loss(&self, batch: &Batch, options: &LossOptions) -> Result<f64, Failure> {
        Ok(self.model.loss(batch, options)?.loss_sum)
    }

    /// One step, the `number`-th (from 1): the sum of its losses, and the seconds that clipping and the optimizer took.
    pub fn step(&mut self, number: u64, batch: &Batch, options: &LossOptions) -> Result<(f64, f64), Failure> {
        self.gradients.fill(0.0);
        let output = self.model.loss_and_gradients(batch, options, &mut self.gradients)?;
        let update = Instant::now();
        let scale = olmo_ops::clip_coefficient(olmo_ops::global_norm(&self.gradients), 1.0);
        let ([exp_avg, exp_avg_sq], gradients, groups) = (&mut self.moments, &self.gradients, &self.groups);
        self.model.update(&mut self.parameters, |parameters| {
            let state = State { parameters, exp_avg, exp_avg_sq };
            adamw::step(&SETTINGS, number, state, gradients, scale, groups);
        })?;
        Ok((output.loss_sum, update.elapsed().as_secs_f64()))
    }
}
