//! The model: embedding, blocks, final norm, head and loss, built from the operations of
//! `olmo-ops`.

use std::sync::Arc;

use burn::tensor::Tensor;
use olmo_ops::{Compute, Cpu, Device, LossTerms, Placed, Sums, Trained};

use super::batch::{Batch, LossOptions, LossOutput};
use super::ropes::Ropes;
use crate::checkpointing::ActivationCheckpointing;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::{self, ModelWeights, TensorSpec};
use crate::parameters::Parameters;

/// A model with its weights on the compute device.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    checkpointing: ActivationCheckpointing,
    specs: Arc<[TensorSpec]>,
    trained: Trained,
    weights: ModelWeights,
    pub(crate) place: Place,
    ropes: Ropes,
}

/// Location of the weights.
#[derive(Debug)]
pub(crate) enum Place {
    /// On the host, in the parameters' own array: operations read it and add to flat gradients.
    Host(Compute, Arc<Vec<f32>>),
    /// On a GPU, as one array with gradients and moments.
    #[cfg(feature = "libtorch")]
    Gpu(Box<olmo_ops::cuda::Training>),
}

impl Model {
    /// Creates a model from `parameters` on the default backend (flex, f32).
    ///
    /// # Errors
    /// The config is invalid, or the parameters belong to another config.
    pub fn new(config: &ModelConfig, parameters: &Parameters) -> Result<Model, ModelError> {
        Model::on(Compute::default(), config, parameters)
    }

    /// Like [`Model::new`], on backend `compute`.
    ///
    /// # Errors
    /// See [`Model::new`].
    pub fn on(compute: Compute, config: &ModelConfig, parameters: &Parameters) -> Result<Model, ModelError> {
        config.validate()?;
        compute.prepare();
        let trained = layout::trained(config, |_| false);
        let mut model = Model::build_around(config, trained, Place::Host(compute, Arc::default()))?;
        model.set_parameters(parameters)?;
        Ok(model)
    }

    /// Creates a model whose weights already have their values, or get them next.
    pub(crate) fn build_around(config: &ModelConfig, trained: Trained, place: Place) -> Result<Model, ModelError> {
        config.validate()?;
        let specs: Arc<[TensorSpec]> = layout::layout(config).into();
        Ok(Model {
            config: config.clone(),
            checkpointing: ActivationCheckpointing::default(),
            weights: ModelWeights::new(config, &specs, &trained),
            specs,
            trained,
            place,
            ropes: Ropes::default(),
        })
    }

    /// Freezes all weights outside `trained`: they get no gradients. Gradients are then the packed
    /// gradients of the trained weights.
    ///
    /// # Errors
    /// The model is on a GPU, where this is decided when it is created.
    pub fn set_trained(&mut self, trained: Trained) -> Result<(), ModelError> {
        match &self.place {
            Place::Host(..) => {}
            #[cfg(feature = "libtorch")]
            Place::Gpu(_) => return Err(ModelError::Input("the arrays on the GPU already exist".into())),
        }
        self.weights = ModelWeights::new(&self.config, &self.specs, &trained);
        self.trained = trained;
        Ok(())
    }

    /// The trained weights.
    pub fn trained(&self) -> &Trained {
        &self.trained
    }

    /// Sets which blocks recompute their activations in the backward pass. Changes memory and time;
    /// results stay bit-identical.
    pub fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        self.checkpointing = checkpointing;
    }

    /// Replaces the values of the weights; on the default device without a copy.
    ///
    /// # Errors
    /// The parameters belong to another config.
    pub fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), ModelError> {
        if parameters.tensors() != &*self.specs {
            return Err(ModelError::Input("the parameters are those of another model config".into()));
        }
        match &mut self.place {
            Place::Host(_, weights) => *weights = parameters.share(),
            #[cfg(feature = "libtorch")]
            Place::Gpu(training) => training.device().set(parameters.flat()),
        }
        Ok(())
    }

    /// Applies `change` (an optimizer step) to `parameters` and uses the new values. Works in place
    /// unless the array is shared, for example with a checkpoint being written.
    ///
    /// # Errors
    /// The parameters belong to another config.
    pub fn update(&mut self, parameters: &mut Parameters, change: impl FnOnce(&mut [f32])) -> Result<(), ModelError> {
        match &mut self.place {
            Place::Host(_, weights) => *weights = Arc::default(),
            #[cfg(feature = "libtorch")]
            Place::Gpu(_) => {}
        }
        change(parameters.flat_mut());
        self.set_parameters(parameters)
    }

    /// The config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Computes the loss of a batch and ADDS its gradients to `gradients`: those of the trained
    /// weights, by default laid out like [`Parameters::flat`].
    ///
    /// # Errors
    /// The batch does not fit the model, or `gradients` has another length.
    pub fn loss_and_gradients(
        &self,
        batch: &Batch,
        loss: &LossOptions,
        gradients: &mut Vec<f32>,
    ) -> Result<LossOutput, ModelError> {
        let length = self.trained.len();
        if gradients.len() != length {
            return Err(ModelError::Input(format!(
                "the gradients hold {} numbers, the model has {length} trained weights",
                gradients.len()
            )));
        }
        self.check_batch(batch, loss)?;
        let sums = match &self.place {
            Place::Host(compute, weights) => {
                let device = Cpu::with_gradients(*compute, weights.clone(), std::mem::take(gradients));
                let sums = self.backward_on(&device, batch, loss);
                *gradients = device.into_gradients();
                sums?
            }
            #[cfg(feature = "libtorch")]
            Place::Gpu(training) => {
                training.begin();
                let sums = self.accumulate(batch, loss)?.sums();
                for (sum, value) in gradients.iter_mut().zip(training.gradients()) {
                    *sum += value;
                }
                sums
            }
        };
        Ok(output(&sums))
    }

    /// Computes the losses of a batch and adds its gradients to those of `device`.
    pub(crate) fn backward_on<D: Device>(
        &self,
        device: &D,
        batch: &Batch,
        loss: &LossOptions,
    ) -> Result<D::Losses, ModelError> {
        let (embedded, hidden) = self.hidden(device, batch);
        let (loss, losses) = olmo_ops::head_loss(device, hidden, &self.weights.head, &batch.targets(), terms(loss));
        if self.trained.is_empty() {
            return Ok(losses);
        }
        let mut gradients = loss.backward();
        if self.weights.embedding.weight.gradient.is_some() {
            let gradient = embedded
                .grad_remove(&mut gradients)
                .ok_or_else(|| ModelError::Backend("no gradient reached the embedding".into()))?;
            olmo_ops::embed_backward(device, &self.weights.embedding, &batch.input_ids, gradient);
        }
        Ok(losses)
    }

    /// The loss of a batch.
    ///
    /// # Errors
    /// The batch does not fit the model.
    pub fn loss(&self, batch: &Batch, loss: &LossOptions) -> Result<LossOutput, ModelError> {
        self.check_batch(batch, loss)?;
        let sums = match &self.place {
            Place::Host(compute, weights) => self.losses_on(&Cpu::new(*compute, weights.clone()), batch, loss),
            #[cfg(feature = "libtorch")]
            Place::Gpu(training) => self.losses_on(&training.device().plain(), batch, loss).sums(),
        };
        Ok(output(&sums))
    }

    fn losses_on<D: Device>(&self, device: &D, batch: &Batch, loss: &LossOptions) -> D::Losses {
        let (_, hidden) = self.hidden(device, batch);
        olmo_ops::head_loss(device, hidden, &self.weights.head, &batch.targets(), terms(loss)).1
    }

    /// The embedded tokens, and the residual stream after all blocks and the final norm. The graph
    /// begins at the first trained weight: no gradient is computed below it.
    fn hidden<D: Device>(&self, device: &D, batch: &Batch) -> (Tensor<3>, Tensor<3>) {
        let embedded = self.embed(device, batch);
        let ModelWeights { embedding, blocks, final_norm, .. } = &self.weights;
        let mut tracked = !device.trains() || embedding.weight.gradient.is_some();
        let mut begin = |here: bool, x: Tensor<3>| {
            let leaf = here && !tracked;
            tracked |= here;
            if leaf { x.require_grad() } else { x }
        };
        let mut hidden = embedded.clone();
        for (layer, weights) in blocks.iter().enumerate() {
            hidden = self.block(device, batch, layer, begin(weights.is_trained(), hidden));
        }
        let trained = final_norm.as_ref().is_some_and(|weight| weight.gradient.is_some());
        hidden = olmo_ops::norm(device, self.config.norm(), begin(trained, hidden), final_norm.as_ref());
        (embedded, begin(true, hidden))
    }

    fn embed<D: Device>(&self, device: &D, batch: &Batch) -> Tensor<3> {
        let shape = [batch.batch, batch.sequence];
        olmo_ops::embed(device, &self.weights.embedding, &batch.input_ids, shape)
    }

    fn block<D: Device>(&self, device: &D, batch: &Batch, layer: usize, x: Tensor<3>) -> Tensor<3> {
        let (config, keep) = (self.config.block(layer), self.checkpointing.keep(layer));
        let placed = Placed { rope: self.ropes.of(&config, batch.sequence), documents: batch.documents.clone() };
        olmo_ops::block(device, &config, &placed, x, &self.weights.blocks[layer], keep)
    }

    /// Finds the first numbers that are not finite when `batch` passes through the model, from the
    /// weights to the loss; `None` if all are finite.
    ///
    /// # Errors
    /// The batch does not fit the model.
    pub fn first_not_finite(&self, batch: &Batch, loss: &LossOptions) -> Result<Option<String>, ModelError> {
        self.check_batch(batch, loss)?;
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let weights = self.host_weights();
        if let Some(spec) = self.specs.iter().find(|spec| !finite(&weights[spec.range.clone()])) {
            return Ok(Some(format!("the weight `{}`", spec.name)));
        }
        let device = Cpu::new(self.compute(), weights);
        let all_finite = |hidden: &Tensor<3>| hidden.clone().into_data().iter::<f32>().all(f32::is_finite);
        let mut hidden = self.embed(&device, batch);
        for layer in 0..self.weights.blocks.len() {
            hidden = self.block(&device, batch, layer, hidden);
            if !all_finite(&hidden) {
                return Ok(Some(format!("the output of `transformer.blocks.{layer}`")));
            }
        }
        let hidden = olmo_ops::norm(&device, self.config.norm(), hidden, self.weights.final_norm.as_ref());
        if !all_finite(&hidden) {
            return Ok(Some(format!("the output of the final norm (`{}`)", layout::final_norm())));
        }
        let (_, sums) = olmo_ops::head_loss(&device, hidden, &self.weights.head, &batch.targets(), terms(loss));
        Ok((!(sums.nll + sums.z).is_finite()).then(|| "the loss, from finite hidden states".to_owned()))
    }

    /// The name of the first tensor with a value in `flat` that is not finite. `flat` is laid out
    /// like the gradients.
    pub fn first_tensor_not_finite(&self, flat: &[f32]) -> Option<&str> {
        let broken = |spec: &&TensorSpec| {
            let range = self.trained.weight(spec.range.clone()).gradient.unwrap_or_default();
            flat[range].iter().any(|value| !value.is_finite())
        };
        self.specs.iter().find(broken).map(|spec| spec.name.as_str())
    }

    /// The backend of operations on the host.
    fn compute(&self) -> Compute {
        match &self.place {
            Place::Host(compute, _) => *compute,
            #[cfg(feature = "libtorch")]
            Place::Gpu(_) => Compute::default(),
        }
    }

    /// The weights on the host; no copy if they are already there.
    pub(crate) fn host_weights(&self) -> Arc<Vec<f32>> {
        match &self.place {
            Place::Host(_, weights) => weights.clone(),
            #[cfg(feature = "libtorch")]
            Place::Gpu(training) => Arc::new(training.device().weights_on_host()),
        }
    }

    pub(crate) fn check_batch(&self, batch: &Batch, loss: &LossOptions) -> Result<(), ModelError> {
        self.config.check_ids(&batch.input_ids, batch.batch, batch.sequence)?;
        if let Some(mask) = &batch.label_mask
            && mask.len() != batch.input_ids.len()
        {
            return Err(ModelError::Input(format!(
                "the label mask has {} entries for {} tokens",
                mask.len(),
                batch.input_ids.len()
            )));
        }
        if let Some(documents) = &batch.documents {
            self.check_documents(documents, batch)?;
        }
        if !(loss.denominator > 0.0 && loss.denominator.is_finite()) {
            return Err(ModelError::Input(format!(
                "the loss cannot be divided by {}: there are no labels",
                loss.denominator
            )));
        }
        if !(loss.z_loss >= 0.0 && loss.z_loss.is_finite()) {
            return Err(ModelError::Input(format!(
                "the weight of the z-loss is {} and must be 0 or more",
                loss.z_loss
            )));
        }
        Ok(())
    }

    fn check_documents(&self, documents: &[u32], batch: &Batch) -> Result<(), ModelError> {
        let sound = |row: &[u32]| {
            let begins = row.iter().enumerate().all(|(place, &start)| start as usize <= place);
            begins && row.is_sorted()
        };
        if documents.len() == batch.input_ids.len() && documents.chunks(batch.sequence).all(sound) {
            return Ok(());
        }
        Err(ModelError::Input(format!(
            "the documents of {} tokens do not begin at or before each of {} tokens, in order",
            documents.len(),
            batch.input_ids.len()
        )))
    }
}

pub(crate) fn terms(loss: &LossOptions) -> LossTerms {
    LossTerms { denominator: loss.denominator, z_loss: loss.z_loss }
}

fn output(sums: &Sums) -> LossOutput {
    LossOutput { loss_sum: sums.nll, z_sum: sums.z, labels: sums.labels }
}
