//! Steps of a model on a GPU, and fetching their results.

use std::borrow::Cow;
#[cfg(feature = "libtorch")]
use std::sync::Arc;

#[cfg(feature = "libtorch")]
use olmo_model::device::Losses;
use olmo_stage::{Context, StageError};

use super::run::{Learned, Run};
use crate::data::StepBatch;
#[cfg(feature = "libtorch")]
use crate::failure::model_failure;

impl Run<'_> {
    /// Runs a step on the GPU, if the model is there; changes nothing if a number is not finite.
    /// The host waits once, at the end.
    #[cfg(feature = "libtorch")]
    pub(super) fn on_gpu(
        &mut self,
        batch: &StepBatch,
        labels: u64,
        lr: f64,
        context: &Context,
    ) -> Result<Option<Learned>, StageError> {
        let (options, settings) = (self.loss_options(batch, labels), self.adamw(lr));
        let Some(training) = self.model.on_gpu_mut() else { return Ok(None) };
        training.begin();
        let mut parts = Vec::new();
        for part in self.parts(batch) {
            context.check_stop()?;
            let losses = self.model.accumulate(&batch.part(part.start, part.end), &options).map_err(model_failure)?;
            parts.push((part, losses));
        }
        let losses = parts.iter().map(|(_, losses)| losses);
        let losses = Losses::all(losses).expect("a batch with labels has a part with labels");
        let (groups, max_norm, number) =
            (&self.groups, self.setup.params.max_grad_norm, self.state.optimizer_steps + 1);
        let training = self.model.on_gpu_mut().expect("it was there");
        let finished = training.finish(&settings, number, groups, max_norm, &losses);
        *self.pace.gpu.get_or_insert_default() += finished.waited;
        let mut learned = Learned {
            loss: finished.sums.nll / options.denominator,
            z_loss: finished.sums.z / options.denominator,
            grad_norm: finished.grad_norm,
            bad: None,
        };
        if learned.is_finite() {
            self.state.optimizer_steps = number;
        } else {
            let is_bad = |losses: &Losses| {
                let sums = losses.sums();
                !(sums.nll + sums.z).is_finite()
            };
            learned.bad = parts.into_iter().find(|(_, losses)| is_bad(losses)).map(|(part, _)| part);
        }
        Ok(Some(learned))
    }

    #[cfg(not(feature = "libtorch"))]
    pub(super) fn on_gpu(&mut self, _: &StepBatch, _: u64, _: f64, _: &Context) -> Result<Option<Learned>, StageError> {
        Ok(None)
    }

    /// Copies weights and moments to the host, if they are on a GPU.
    pub(super) fn fetch_state(&mut self) {
        #[cfg(feature = "libtorch")]
        if let Some(training) = self.model.on_gpu_mut() {
            let [weights, exp_avg, exp_avg_sq] = training.download();
            self.state.parameters.replace(weights);
            (self.state.exp_avg, self.state.exp_avg_sq) = (Arc::new(exp_avg), Arc::new(exp_avg_sq));
        }
    }

    pub(super) fn host_gradients(&self) -> Cow<'_, [f32]> {
        #[cfg(feature = "libtorch")]
        if let Some(gradients) = self.model.gradients_on_gpu() {
            return gradients.into();
        }
        (&self.gradients).into()
    }
}
