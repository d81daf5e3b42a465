//! The model itself: embedding, blocks, final norm, head and loss over the operations of `olmo-ops`.

use std::sync::{Arc, Mutex};

use burn::tensor::{Device, Tensor, TensorData};
use olmo_ops::{BlockConfig, BlockTensors, BlockWeights, HostSlice, IGNORED, LossTerms, Norm, NormKind, Rope};

use crate::config::{LayerNormType, ModelConfig};
use crate::error::ModelError;
use crate::layout::{self, TensorSpec};
use crate::parameters::Parameters;

/// Rows of equal length with the labels to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `batch` x `sequence` token ids, row after row.
    pub input_ids: Vec<u32>,
    /// Whether a token counts as a target (same order); `None`: all do. The first of a row never does: nothing stands before it.
    pub label_mask: Option<Vec<bool>>,
    /// Number of rows.
    pub batch: usize,
    /// Tokens in each row.
    pub sequence: usize,
}

impl Batch {
    /// What the model has to say at each place: the next token where that counts, else [`IGNORED`].
    fn targets(&self) -> Vec<u32> {
        let mut targets = vec![IGNORED; self.input_ids.len()];
        for row in 0..self.batch {
            for place in row * self.sequence + 1..(row + 1) * self.sequence {
                if self.label_mask.as_ref().is_none_or(|mask| mask[place]) {
                    targets[place - 1] = self.input_ids[place];
                }
            }
        }
        targets
    }

    /// Number of targets; the sum over all micro-batches and ranks is the usual denominator of the loss.
    pub fn labels(&self) -> u64 {
        let counts = |place: usize| {
            !place.is_multiple_of(self.sequence)
                && self.label_mask.as_ref().is_none_or(|mask| mask.get(place) == Some(&true))
        };
        (0..self.input_ids.len()).filter(|&place| counts(place)).count() as u64
    }
}

/// How a loss is made of the losses of tokens: `(sum of nll + z_loss * sum of lse^2) / denominator`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossOptions {
    /// What the sum over tokens is divided by (OLMo: batch times sequence; else the number of labels over all micro-batches and ranks).
    pub denominator: f64,
    /// Weight of the square of the log of the partition function; 0: none.
    pub z_loss: f64,
}

/// Sums over the labels of a batch, not yet divided by the denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossOutput {
    /// Sum of negative log-likelihoods.
    pub loss_sum: f64,
    /// Sum of `z_loss` times the squared log partition function.
    pub z_sum: f64,
    /// Number of labels.
    pub labels: u64,
}

/// A model with its weights on the compute device (Burn's flex backend, f32).
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    train: bool,
    specs: Vec<TensorSpec>,
    /// In the order of `specs`.
    weights: Vec<Weight>,
    /// Rotary tables for as many positions as have been asked for.
    rope: Mutex<Arc<Rope>>,
}

#[derive(Clone, Debug)]
enum Weight {
    Matrix(Tensor<2>),
    Vector(Tensor<1>),
}

impl Weight {
    /// A leaf of an autodiff graph that shares this weight's memory.
    fn leaf(&self) -> Weight {
        match self {
            Weight::Matrix(tensor) => Weight::Matrix(tensor.clone().autodiff().require_grad()),
            Weight::Vector(tensor) => Weight::Vector(tensor.clone().autodiff().require_grad()),
        }
    }
}

/// The weights by what they are for, either plain or as leaves.
struct Parts {
    embedding: Tensor<2>,
    blocks: Vec<BlockTensors>,
    final_norm: Option<Tensor<1>>,
    head: Tensor<2>,
}

/// The weights by what they are for, as slices on the host.
pub(crate) struct HostParts {
    pub embedding: HostSlice,
    pub blocks: Vec<BlockWeights<HostSlice>>,
    pub final_norm: Option<HostSlice>,
    pub head: HostSlice,
}

impl Model {
    /// Copies `parameters` to the device. Only with `train` are gradients to be had.
    ///
    /// # Errors
    /// The config is not valid, or the parameters are those of another config.
    pub fn new(config: &ModelConfig, parameters: &Parameters, train: bool) -> Result<Model, ModelError> {
        config.validate()?;
        let rope = Mutex::new(Arc::new(Rope::new(config.head_width(), config.rope_theta, 0)));
        let mut model =
            Model { config: config.clone(), train, specs: layout::layout(config), weights: Vec::new(), rope };
        model.set_parameters(parameters)?;
        Ok(model)
    }

    /// Takes over new values of the weights, after an optimizer step for example.
    ///
    /// # Errors
    /// The parameters are those of another config.
    pub fn set_parameters(&mut self, parameters: &Parameters) -> Result<(), ModelError> {
        if parameters.tensors() != self.specs {
            return Err(ModelError::Input("the parameters are those of another model config".into()));
        }
        let device = Device::flex();
        let weight = |spec: &TensorSpec| {
            let data = TensorData::new(parameters.flat()[spec.range.clone()].to_vec(), spec.shape.clone());
            match spec.shape.len() {
                1 => Weight::Vector(Tensor::from_data(data, &device)),
                _ => Weight::Matrix(Tensor::from_data(data, &device)),
            }
        };
        self.weights = self.specs.iter().map(weight).collect();
        Ok(())
    }

    /// The config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Logits of `batch` x `sequence` tokens: `[batch, sequence, embedding rows]`, row-major.
    ///
    /// # Errors
    /// An id at or beyond `vocab_size`, or a number of ids that is not `batch * sequence`.
    pub fn logits(&self, input_ids: &[u32], batch: usize, sequence: usize) -> Result<Vec<f32>, ModelError> {
        self.check_ids(input_ids, batch, sequence)?;
        let parts = self.parts(&self.weights);
        let hidden = self.hidden(&parts, input_ids, [batch, sequence]);
        let logits = olmo_ops::head_logits(hidden, parts.head);
        logits.into_data().try_into_vec::<f32>().map_err(|error| ModelError::Backend(format!("{error:?}")))
    }

    /// The loss of a batch, and its gradients ADDED to `gradients` (laid out as [`Parameters::flat`]).
    ///
    /// # Errors
    /// The batch does not fit the model, `gradients` has another length, or the model was not made for training.
    pub fn loss_and_gradients(
        &self,
        batch: &Batch,
        loss: &LossOptions,
        gradients: &mut [f32],
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
        let leaves: Vec<Weight> = self.weights.iter().map(Weight::leaf).collect();
        let result = self.head_loss(&self.parts(&leaves), batch, loss);
        let mut made = result.loss.backward();
        for (leaf, spec) in leaves.iter().zip(&self.specs) {
            let gradient = match leaf {
                Weight::Matrix(tensor) => tensor.grad_remove(&mut made).map(|gradient| HostSlice::new(&gradient)),
                Weight::Vector(tensor) => tensor.grad_remove(&mut made).map(|gradient| HostSlice::new(&gradient)),
            };
            let gradient =
                gradient.ok_or_else(|| ModelError::Backend(format!("no gradient reached `{}`", spec.name)))?;
            for (sum, value) in gradients[spec.range.clone()].iter_mut().zip(gradient.iter()) {
                *sum += value;
            }
        }
        Ok(output(&result))
    }

    /// The loss of a batch.
    ///
    /// # Errors
    /// The batch does not fit the model.
    pub fn loss(&self, batch: &Batch, loss: &LossOptions) -> Result<LossOutput, ModelError> {
        self.check_batch(batch, loss)?;
        Ok(output(&self.head_loss(&self.parts(&self.weights), batch, loss)))
    }

    fn head_loss(&self, parts: &Parts, batch: &Batch, loss: &LossOptions) -> olmo_ops::HeadLoss {
        let hidden = self.hidden(parts, &batch.input_ids, [batch.batch, batch.sequence]);
        let terms = LossTerms { denominator: loss.denominator, z_loss: loss.z_loss };
        olmo_ops::head_loss(hidden, parts.head.clone(), &batch.targets(), terms)
    }

    /// The residual stream after all blocks and the final norm.
    fn hidden(&self, parts: &Parts, ids: &[u32], shape: [usize; 2]) -> Tensor<3> {
        let config = self.block_config();
        let rope = self.rope(shape[1]);
        let mut hidden = olmo_ops::embedding(parts.embedding.clone(), ids, shape);
        for weights in &parts.blocks {
            hidden = olmo_ops::block(&config, &rope, hidden, weights);
        }
        olmo_ops::norm(config.norm, hidden, parts.final_norm.clone())
    }

    /// Rotary tables for at least `positions` positions.
    pub(crate) fn rope(&self, positions: usize) -> Arc<Rope> {
        let mut rope = self.rope.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if rope.positions() < positions {
            *rope = Arc::new(Rope::new(self.config.head_width(), self.config.rope_theta, positions));
        }
        rope.clone()
    }

    pub(crate) fn block_config(&self) -> BlockConfig {
        let kind = match self.config.layer_norm_type {
            LayerNormType::Default => NormKind::Layer,
            LayerNormType::Rms => NormKind::Rms,
        };
        BlockConfig {
            d_model: self.config.d_model,
            n_heads: self.config.n_heads,
            n_kv_heads: self.config.kv_heads(),
            mlp_width: self.config.mlp_width(),
            clip_qkv: self.config.clip_qkv.map(|clip| clip as f32),
            norm: Norm { kind, eps: self.config.layer_norm_eps as f32 },
            norm_after: self.config.norm_after,
            qk_norm: self.config.attention_layer_norm,
        }
    }

    fn parts(&self, weights: &[Weight]) -> Parts {
        let find = |name: &str| {
            let index = self.specs.binary_search_by(|spec| spec.name.as_str().cmp(name)).ok()?;
            Some(&weights[index])
        };
        let matrix = |name: String| match find(&name) {
            Some(Weight::Matrix(tensor)) => tensor.clone(),
            _ => unreachable!("the layout of a valid config has the matrix {name}"),
        };
        let vector = |name: String| match find(&name) {
            Some(Weight::Vector(tensor)) => Some(tensor.clone()),
            _ => None,
        };
        let block = |layer: usize| BlockTensors {
            att_proj: matrix(layout::block(layer, "att_proj")),
            attn_out: matrix(layout::block(layer, "attn_out")),
            ff_proj: matrix(layout::block(layer, "ff_proj")),
            ff_out: matrix(layout::block(layer, "ff_out")),
            attn_norm: vector(layout::block(layer, "attn_norm")),
            ff_norm: vector(layout::block(layer, "ff_norm")),
            q_norm: vector(layout::block(layer, "q_norm")),
            k_norm: vector(layout::block(layer, "k_norm")),
        };
        Parts {
            embedding: matrix(layout::wte()),
            blocks: (0..self.config.n_layers).map(block).collect(),
            final_norm: vector(layout::final_norm()),
            head: matrix(if self.config.weight_tying { layout::wte() } else { layout::head() }),
        }
    }

    /// The weights as slices; no copy.
    pub(crate) fn host_parts(&self) -> HostParts {
        let Parts { embedding, blocks, final_norm, head } = self.parts(&self.weights);
        let block = |block: BlockTensors| BlockWeights {
            att_proj: HostSlice::new(&block.att_proj),
            attn_out: HostSlice::new(&block.attn_out),
            ff_proj: HostSlice::new(&block.ff_proj),
            ff_out: HostSlice::new(&block.ff_out),
            attn_norm: block.attn_norm.as_ref().map(HostSlice::new),
            ff_norm: block.ff_norm.as_ref().map(HostSlice::new),
            q_norm: block.q_norm.as_ref().map(HostSlice::new),
            k_norm: block.k_norm.as_ref().map(HostSlice::new),
        };
        HostParts {
            embedding: HostSlice::new(&embedding),
            blocks: blocks.into_iter().map(block).collect(),
            final_norm: final_norm.as_ref().map(HostSlice::new),
            head: HostSlice::new(&head),
        }
    }

    fn check_batch(&self, batch: &Batch, loss: &LossOptions) -> Result<(), ModelError> {
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

fn output(result: &olmo_ops::HeadLoss) -> LossOutput {
    LossOutput { loss_sum: result.sums.nll, z_sum: result.sums.z, labels: result.sums.labels }
}
