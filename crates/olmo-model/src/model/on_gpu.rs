//! Training on a GPU with libtorch: weights, gradients and moments stay on the device.

use burn::tensor::Tensor;
use olmo_ops::device::{self, DeviceFlat, DeviceSettings, Element, Losses, Place, Training};

use super::batch::{Batch, LossOptions};
use super::model::{Model, Weights, terms};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::parameters::Parameters;

impl Model {
    /// Creates a model for training on `place` with activations of type `element`, from weights and
    /// the optimizer's two `moments`.
    ///
    /// # Errors
    /// The config is invalid or has a width that the kernels do not support, the parameters belong
    /// to another config, or the kernels are unavailable.
    pub fn on_gpu(
        place: Place,
        element: Element,
        config: &ModelConfig,
        parameters: &Parameters,
        moments: [&[f32]; 2],
    ) -> Result<Model, ModelError> {
        config.validate()?;
        if parameters.len() != crate::layout::weights(config) || moments.iter().any(|all| all.len() != parameters.len())
        {
            return Err(ModelError::Input("the parameters are those of another model config".into()));
        }
        let block = config.block(0);
        if let Some(why) = device::unsupported(&block) {
            return Err(ModelError::Backend(why));
        }
        let settings = DeviceSettings { place, element, vector: device::vector(&block) };
        let training = Training::new(settings, parameters.flat(), moments)
            .map_err(|error| ModelError::Backend(error.to_string()))?;
        Model::build_around(config, true, Weights::Gpu(Box::new(training)))
    }

    /// The training state on the GPU, if this model is there.
    pub fn on_gpu_mut(&mut self) -> Option<&mut Training> {
        match &mut self.weights {
            Weights::Gpu(training) => Some(training),
            _ => None,
        }
    }

    /// Copies the gradients of the last step to the host, if this model is on a GPU.
    pub fn gradients_on_gpu(&self) -> Option<Vec<f32>> {
        match &self.weights {
            Weights::Gpu(training) => Some(training.gradients()),
            _ => None,
        }
    }

    /// Computes the losses of a batch and accumulates its gradients on the device. Does not wait
    /// for the device.
    ///
    /// # Errors
    /// The batch does not fit the model, or the model is not on a GPU.
    pub fn accumulate(&self, batch: &Batch, loss: &LossOptions) -> Result<Losses, ModelError> {
        let Weights::Gpu(training) = &self.weights else {
            return Err(ModelError::Input("this model is not on a GPU".into()));
        };
        self.check_batch(batch, loss)?;
        let flat = training.flat();
        let (embedded, hidden) = self.hidden_on_gpu(flat, batch);
        let (loss, losses) = device::head_loss_device(hidden, flat, &self.ranges().head, &batch.targets(), terms(loss));
        let mut made = loss.backward();
        let gradient = embedded
            .grad_remove(&mut made)
            .ok_or_else(|| ModelError::Backend("no gradient reached the embedding".into()))?;
        let width = self.config().d_model;
        device::embed_backward_device(flat, &self.ranges().embedding, width, &batch.input_ids, gradient);
        Ok(losses)
    }

    /// The losses of a batch, without gradients.
    pub(crate) fn losses_on_gpu(&self, flat: &DeviceFlat, batch: &Batch, loss: &LossOptions) -> Losses {
        let flat = flat.plain();
        let (_, hidden) = self.hidden_on_gpu(&flat, batch);
        device::head_loss_device(hidden, &flat, &self.ranges().head, &batch.targets(), terms(loss)).1
    }

    /// Like [`Model::hidden`].
    pub(crate) fn hidden_on_gpu(&self, flat: &DeviceFlat, batch: &Batch) -> (Tensor<3>, Tensor<3>) {
        let (placed, d) = (self.placed(batch), self.config().d_model);
        let shape = [batch.batch, batch.sequence];
        let embedded = device::embed_device(flat, &self.ranges().embedding, d, &batch.input_ids, shape);
        let mut hidden = embedded.clone();
        for (layer, weights) in self.ranges().blocks.iter().enumerate() {
            let keep = self.keep(layer);
            hidden = device::block_device(&self.block_config(layer), &placed, hidden, flat, weights, keep);
        }
        (embedded, device::norm_device(self.norm(), hidden, flat, self.ranges().final_norm.as_ref()))
    }
}
