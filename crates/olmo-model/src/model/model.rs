//! The model: embedding, blocks, final norm, head and loss, built from the operations of
//! `olmo-ops`.

use std::sync::{Arc, Mutex};

use burn::tensor::Tensor;
use olmo_ops::{BlockConfig, Compute, Flat, LossTerms, Norm, Placed, Rope, Sums};

use super::batch::{Batch, LossOptions, LossOutput};
use crate::checkpointing::ActivationCheckpointing;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::{self, Ranges, TensorSpec};
use crate::parameters::Parameters;

/// A model with its weights on the compute device.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    train: bool,
    checkpointing: ActivationCheckpointing,
    specs: Arc<[TensorSpec]>,
    ranges: Ranges,
    pub(crate) weights: Weights,
    /// Rotary tables for the positions requested so far.
    rope: Mutex<Arc<Rope>>,
}

/// Location of the weights.
#[derive(Debug)]
pub(crate) enum Weights {
    /// On the host, in the parameters' own array: nodes read it and add to flat gradients.
    Flat(Compute, Arc<Vec<f32>>),
    /// On a GPU, as one array with gradients and moments.
    #[cfg(feature = "libtorch")]
    Gpu(Box<olmo_ops::device::Training>),
}

impl Model {
    /// Creates a model from `parameters` on the default backend (flex, f32). Gradients are
    /// available only if `train` is set.
    ///
    /// # Errors
    /// The config is invalid, or the parameters belong to another config.
    pub fn new(config: &ModelConfig, parameters: &Parameters, train: bool) -> Result<Model, ModelError> {
        Model::on(Compute::default(), config, parameters, train)
    }

    /// Like [`Model::new`], on backend `compute`.
    ///
    /// # Errors
    /// See [`Model::new`].
    pub fn on(
        compute: Compute,
        config: &ModelConfig,
        parameters: &Parameters,
        train: bool,
    ) -> Result<Model, ModelError> {
        compute.prepare();
        Model::build(config, parameters, train, Weights::Flat(compute, Arc::default()))
    }

    fn build(
        config: &ModelConfig,
        parameters: &Parameters,
        train: bool,
        weights: Weights,
    ) -> Result<Model, ModelError> {
        let mut model = Model::build_around(config, train, weights)?;
        model.set_parameters(parameters)?;
        Ok(model)
    }

    /// Creates a model whose weights already have their values, or get them next.
    pub(crate) fn build_around(config: &ModelConfig, train: bool, weights: Weights) -> Result<Model, ModelError> {
        config.validate()?;
        let specs: Arc<[TensorSpec]> = layout::layout(config).into();
        Ok(Model {
            config: config.clone(),
            train,
            checkpointing: ActivationCheckpointing::default(),
            ranges: Ranges::of(config, &specs),
            specs,
            weights,
            rope: Mutex::new(Arc::new(Rope::new(config.head_width(), config.rope_theta, 0))),
        })
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
        match &mut self.weights {
            Weights::Flat(_, weights) => *weights = parameters.share(),
            #[cfg(feature = "libtorch")]
            Weights::Gpu(training) => training.flat().set(parameters.flat()),
        }
        Ok(())
    }

    /// Applies `change` (an optimizer step) to `parameters` and uses the new values. Works in place
    /// unless the array is shared, for example with a checkpoint being written.
    ///
    /// # Errors
    /// The parameters belong to another config.
    pub fn update(&mut self, parameters: &mut Parameters, change: impl FnOnce(&mut [f32])) -> Result<(), ModelError> {
        match &mut self.weights {
            Weights::Flat(_, weights) => *weights = Arc::default(),
            #[cfg(feature = "libtorch")]
            Weights::Gpu(_) => {}
        }
        change(parameters.flat_mut());
        self.set_parameters(parameters)
    }

    /// The config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Logits of `batch` x `sequence` tokens: `[batch, sequence, embedding rows]`, row-major.
    ///
    /// # Errors
    /// An id is not below `vocab_size`, or the number of ids is not `batch * sequence`.
    pub fn logits(&self, input_ids: &[u32], batch: usize, sequence: usize) -> Result<Vec<f32>, ModelError> {
        self.check_ids(input_ids, batch, sequence)?;
        let batch = Batch { input_ids: input_ids.to_vec(), label_mask: None, documents: None, batch, sequence };
        match &self.weights {
            Weights::Flat(compute, weights) => {
                let flat = Flat::new(*compute, weights.clone());
                let (_, hidden) = self.hidden(&flat, &batch);
                Ok(olmo_ops::head_logits_flat(hidden, &flat, &self.ranges.head))
            }
            #[cfg(feature = "libtorch")]
            Weights::Gpu(training) => {
                let (_, hidden) = self.hidden_on_gpu(&training.flat().plain(), &batch);
                Ok(olmo_ops::device::head_logits_device(hidden, training.flat(), &self.ranges.head))
            }
        }
    }

    /// Computes the loss of a batch and ADDS its gradients to `gradients`, laid out like
    /// [`Parameters::flat`].
    ///
    /// # Errors
    /// The batch does not fit the model, `gradients` has another length, or the model was not
    /// created for training.
    pub fn loss_and_gradients(
        &self,
        batch: &Batch,
        loss: &LossOptions,
        gradients: &mut Vec<f32>,
    ) -> Result<LossOutput, ModelError> {
        if !self.train {
            return Err(ModelError::Input("this model was made without training: it has no gradients".into()));
        }
        let length = self.specs.last().map_or(0, |spec| spec.range.end);
        if gradients.len() != length {
            return Err(ModelError::Input(format!(
                "the gradients hold {} numbers, the model has {length} weights",
                gradients.len()
            )));
        }
        self.check_batch(batch, loss)?;
        let sums = match &self.weights {
            Weights::Flat(compute, weights) => {
                let flat = Flat::with_gradients(*compute, weights.clone(), std::mem::take(gradients));
                let sums = self.flat_gradients(&flat, batch, loss);
                *gradients = flat.into_gradients();
                sums?
            }
            #[cfg(feature = "libtorch")]
            Weights::Gpu(training) => {
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

    fn flat_gradients(&self, flat: &Flat, batch: &Batch, loss: &LossOptions) -> Result<Sums, ModelError> {
        let (embedded, hidden) = self.hidden(flat, batch);
        let (loss, sums) = olmo_ops::head_loss_flat(hidden, flat, &self.ranges.head, &batch.targets(), terms(loss));
        let mut made = loss.backward();
        let gradient = embedded
            .grad_remove(&mut made)
            .ok_or_else(|| ModelError::Backend("no gradient reached the embedding".into()))?;
        olmo_ops::embed_backward(flat, &self.ranges.embedding, self.config.d_model, &batch.input_ids, gradient);
        Ok(sums)
    }

    /// The loss of a batch.
    ///
    /// # Errors
    /// The batch does not fit the model.
    pub fn loss(&self, batch: &Batch, loss: &LossOptions) -> Result<LossOutput, ModelError> {
        self.check_batch(batch, loss)?;
        let targets = batch.targets();
        let sums = match &self.weights {
            Weights::Flat(compute, weights) => {
                let flat = Flat::new(*compute, weights.clone());
                let (_, hidden) = self.hidden(&flat, batch);
                olmo_ops::head_loss_flat(hidden, &flat, &self.ranges.head, &targets, terms(loss)).1
            }
            #[cfg(feature = "libtorch")]
            Weights::Gpu(training) => self.losses_on_gpu(training.flat(), batch, loss).sums(),
        };
        Ok(output(&sums))
    }

    /// The embedded tokens, and the residual stream after all blocks and the final norm.
    fn hidden(&self, flat: &Flat, batch: &Batch) -> (Tensor<3>, Tensor<3>) {
        let (placed, d) = (self.placed(batch), self.config.d_model);
        let shape = [batch.batch, batch.sequence];
        let embedded = olmo_ops::embed(flat, &self.ranges.embedding, d, &batch.input_ids, shape);
        let mut hidden = embedded.clone();
        for (layer, weights) in self.ranges.blocks.iter().enumerate() {
            let keep = self.checkpointing.keep(layer);
            hidden = olmo_ops::block_flat(&self.block_config(layer), &placed, hidden, flat, weights, keep);
        }
        (embedded, olmo_ops::norm_flat(self.norm(), hidden, flat, self.ranges.final_norm.as_ref()))
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
        let (flat, placed) = (Flat::new(self.compute(), weights), self.placed(batch));
        let shape = [batch.batch, batch.sequence];
        let all_finite = |hidden: &Tensor<3>| finite(&olmo_ops::HostSlice::new(hidden));
        let mut hidden = olmo_ops::embed(&flat, &self.ranges.embedding, self.config.d_model, &batch.input_ids, shape);
        for (layer, weights) in self.ranges.blocks.iter().enumerate() {
            let keep = self.checkpointing.keep(layer);
            hidden = olmo_ops::block_flat(&self.block_config(layer), &placed, hidden, &flat, weights, keep);
            if !all_finite(&hidden) {
                return Ok(Some(format!("the output of `transformer.blocks.{layer}`")));
            }
        }
        let hidden = olmo_ops::norm_flat(self.norm(), hidden, &flat, self.ranges.final_norm.as_ref());
        if !all_finite(&hidden) {
            return Ok(Some(format!("the output of the final norm (`{}`)", layout::final_norm())));
        }
        let targets = batch.targets();
        let (_, sums) = olmo_ops::head_loss_flat(hidden, &flat, &self.ranges.head, &targets, terms(loss));
        Ok((!(sums.nll + sums.z).is_finite()).then(|| "the loss, from finite hidden states".to_owned()))
    }

    /// The name of the first tensor with a value in `flat` that is not finite. `flat` is laid out
    /// like the weights.
    pub fn first_tensor_not_finite(&self, flat: &[f32]) -> Option<&str> {
        let broken = |spec: &&TensorSpec| flat[spec.range.clone()].iter().any(|value| !value.is_finite());
        self.specs.iter().find(broken).map(|spec| spec.name.as_str())
    }

    /// Rotary tables for at least `positions` positions.
    pub(crate) fn rope(&self, positions: usize) -> Arc<Rope> {
        let mut rope = self.rope.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if rope.positions() < positions {
            *rope = Arc::new(Rope::new(self.config.head_width(), self.config.rope_theta, positions));
        }
        rope.clone()
    }

    pub(crate) fn placed(&self, batch: &Batch) -> Placed {
        Placed { rope: self.rope(batch.sequence), documents: batch.documents.clone() }
    }

    pub(crate) fn norm(&self) -> Norm {
        self.config.norm()
    }

    pub(crate) fn block_config(&self, layer: usize) -> BlockConfig {
        self.config.block(layer)
    }

    /// What block `layer` keeps for its backward pass.
    #[cfg(feature = "libtorch")]
    pub(crate) fn keep(&self, layer: usize) -> olmo_ops::Keep {
        self.checkpointing.keep(layer)
    }

    pub(crate) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The backend of the flat operations.
    fn compute(&self) -> Compute {
        match &self.weights {
            Weights::Flat(compute, _) => *compute,
            #[cfg(feature = "libtorch")]
            Weights::Gpu(_) => Compute::default(),
        }
    }

    /// The weights on the host; no copy if they are already there.
    pub(crate) fn host_weights(&self) -> Arc<Vec<f32>> {
        match &self.weights {
            Weights::Flat(_, weights) => weights.clone(),
            #[cfg(feature = "libtorch")]
            Weights::Gpu(training) => Arc::new(olmo_ops::device::weights_on_host(training.flat())),
        }
    }

    pub(crate) fn check_batch(&self, batch: &Batch, loss: &LossOptions) -> Result<(), ModelError> {
        self.check_ids(&batch.input_ids, batch.batch, batch.sequence)?;
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

    pub(crate) fn check_ids(&self, ids: &[u32], batch: usize, sequence: usize) -> Result<(), ModelError> {
        if batch.checked_mul(sequence) != Some(ids.len()) {
            return Err(ModelError::Input(format!("{} token ids do not make {batch} rows of {sequence}", ids.len())));
        }
        if ids.is_empty() {
            return Err(ModelError::Input("there are no tokens".into()));
        }
        let vocab_size = self.config.vocab_size;
        match ids.iter().position(|&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(place) => Err(ModelError::Input(format!(
                "token id {} (row {}, place {}) is beyond the model's vocabulary of {vocab_size}: the data was made with another tokenizer",
                ids[place],
                place / sequence,
                place % sequence
            ))),
        }
    }
}

pub(crate) fn terms(loss: &LossOptions) -> LossTerms {
    LossTerms { denominator: loss.denominator, z_loss: loss.z_loss }
}

fn output(sums: &Sums) -> LossOutput {
    LossOutput { loss_sum: sums.nll, z_sum: sums.z, labels: sums.labels }
}
