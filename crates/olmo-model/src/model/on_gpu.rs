//! Training on a GPU with libtorch: weights, gradients and moments stay on the device.

use olmo_ops::Trained;
use olmo_ops::cuda::{self, DeviceSettings, Element, Losses, Training};

use super::batch::{Batch, LossOptions};
use super::model::{Model, Place};
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
        place: cuda::Place,
        element: Element,
        config: &ModelConfig,
        parameters: &Parameters,
        moments: [&[f32]; 2],
    ) -> Result<Model, ModelError> {
        config.validate()?;
        let trained = crate::layout::trained(config, |_| false);
        Model::on_gpu_with(place, element, config, parameters, moments, trained)
    }

    /// Like [`Model::on_gpu`], with only the `trained` weights trained: the others have no gradient,
    /// moments or, in bf16, f32 copy on the GPU. `moments` are those of the trained weights.
    ///
    /// # Errors
    /// See [`Model::on_gpu`].
    pub fn on_gpu_with(
        place: cuda::Place,
        element: Element,
        config: &ModelConfig,
        parameters: &Parameters,
        moments: [&[f32]; 2],
        trained: Trained,
    ) -> Result<Model, ModelError> {
        config.validate()?;
        if parameters.len() != crate::layout::weights(config) || moments.iter().any(|all| all.len() != trained.len()) {
            return Err(ModelError::Input("the parameters are those of another model config".into()));
        }
        let block = config.block(0);
        if let Some(why) = cuda::unsupported(&block) {
            return Err(ModelError::Backend(why));
        }
        let settings = DeviceSettings { place, element, vector: cuda::vector(&block) };
        let vectors = parameters.tensors().iter().filter(|spec| spec.shape.len() == 1).map(|spec| spec.range.clone());
        let vectors: Vec<_> = vectors.collect();
        let training = Training::new(settings, parameters.flat(), moments, &trained, &vectors)
            .map_err(|error| ModelError::Backend(error.to_string()))?;
        Model::build_around(config, trained, Place::Gpu(Box::new(training)))
    }

    /// The training state on the GPU, if this model is there.
    pub fn on_gpu_mut(&mut self) -> Option<&mut Training> {
        match &mut self.place {
            Place::Gpu(training) => Some(training),
            _ => None,
        }
    }

    /// Copies the gradients of the last step to the host, if this model is on a GPU.
    pub fn gradients_on_gpu(&self) -> Option<Vec<f32>> {
        match &self.place {
            Place::Gpu(training) => Some(training.gradients()),
            _ => None,
        }
    }

    /// Computes the losses of a batch and accumulates its gradients on the device. Does not wait
    /// for the device.
    ///
    /// # Errors
    /// The batch does not fit the model, or the model is not on a GPU.
    pub fn accumulate(&self, batch: &Batch, loss: &LossOptions) -> Result<Losses, ModelError> {
        let Place::Gpu(training) = &self.place else {
            return Err(ModelError::Input("this model is not on a GPU".into()));
        };
        self.check_batch(batch, loss)?;
        self.backward_on(training.device(), batch, loss)
    }
}
