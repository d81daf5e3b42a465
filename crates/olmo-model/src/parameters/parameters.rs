//! A model's weights as one flat array with names.

use std::ops::Range;
use std::sync::Arc;

use olmo_ops::{Elements, Matrices, Matrix};

use super::init;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::{Role, TensorSpec, layout};
use crate::weight_type::WeightType;

/// All weights of a model in one f32 array: tensors sorted by name, each row-major.
///
/// Gradients and optimizer state use the same layout. A clone shares the array until one of them
/// changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    tensors: Arc<[TensorSpec]>,
    flat: Arc<Vec<f32>>,
}

impl Parameters {
    /// Initialises new weights for `config` on the host; the result depends only on the config and
    /// `seed`.
    ///
    /// # Errors
    /// [`ModelError::Config`] if the config is invalid.
    pub fn init(config: &ModelConfig, seed: u64) -> Result<Parameters, ModelError> {
        let mut parameters = Parameters::zeros(config)?;
        let tensors = parameters.tensors.clone();
        init::fill(config, seed, &tensors, parameters.flat_mut());
        Ok(parameters)
    }

    /// All weights zero.
    ///
    /// # Errors
    /// [`ModelError::Config`] if the config is invalid or its weights do not fit in memory.
    pub fn zeros(config: &ModelConfig) -> Result<Parameters, ModelError> {
        config.validate()?;
        let tensors = layout(config);
        let length = tensors.last().map_or(0, |tensor| tensor.range.end);
        let mut flat = Vec::new();
        flat.try_reserve_exact(length)
            .map_err(|_| ModelError::Config(vec![format!("{length} weights in f32 do not fit into memory")]))?;
        flat.resize(length, 0.0);
        Ok(Parameters { tensors: tensors.into(), flat: Arc::new(flat) })
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.flat.len()
    }

    /// Whether there are no weights (never, for a valid config).
    pub fn is_empty(&self) -> bool {
        self.flat.is_empty()
    }

    /// Name, shape and range of every tensor, in the order of the flat array.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// The elements of one tensor; `None` if the model has no tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        self.range(name).map(|range| &self.flat[range])
    }

    /// The mutable elements of one tensor.
    pub fn tensor_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        self.range(name).map(|range| &mut self.flat_mut()[range])
    }

    /// The shape of one tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The range of one tensor in the flat array.
    pub fn range(&self, name: &str) -> Option<Range<usize>> {
        self.find(name).map(|tensor| tensor.range.clone())
    }

    /// All weights.
    pub fn flat(&self) -> &[f32] {
        &self.flat
    }

    /// These parameters after rounding to `dtype`.
    pub fn rounded(&self, dtype: WeightType) -> Parameters {
        let mut rounded = self.clone();
        rounded.flat_mut().iter_mut().for_each(|value| *value = dtype.round(*value));
        rounded
    }

    /// All weights, mutable.
    pub fn flat_mut(&mut self) -> &mut [f32] {
        Arc::<Vec<f32>>::make_mut(&mut self.flat)
    }

    /// Replaces the values of all weights.
    ///
    /// # Panics
    /// The number of values differs.
    pub fn replace(&mut self, flat: Vec<f32>) {
        assert_eq!(flat.len(), self.flat.len(), "a weight for each weight");
        self.flat = Arc::new(flat);
    }

    /// Checks that these are parameters of a valid `config`.
    ///
    /// # Errors
    /// They are those of another config, or it is invalid.
    pub fn check_fit(&self, config: &ModelConfig) -> Result<(), ModelError> {
        config.validate()?;
        if *self.tensors != *layout(config) {
            return Err(ModelError::Input("the parameters are those of another model config".into()));
        }
        Ok(())
    }

    /// The tensors as matrices, which share the array.
    pub fn matrices(&self) -> Matrices {
        let part = |spec: &TensorSpec| {
            let elements = Elements::shared(self.flat.clone(), spec.range.clone());
            (spec.range.clone(), Matrix::F32(elements))
        };
        Matrices::new(self.tensors.iter().map(part))
    }

    /// The array, shared.
    pub(crate) fn share(&self) -> Arc<Vec<f32>> {
        self.flat.clone()
    }

    /// Ranges of the flat array and whether weight decay applies to them, by OLMo's rule: always to
    /// projections and an untied head; to norms and the embedding (including a tied head) as
    /// requested. The ranges cover the array in order, and neighbours differ.
    pub fn weight_decay_groups(&self, decay_norm_and_bias: bool, decay_embeddings: bool) -> Vec<(Range<usize>, bool)> {
        let mut groups: Vec<(Range<usize>, bool)> = Vec::new();
        for tensor in &*self.tensors {
            let decays = match tensor.role {
                Role::Projection(_) | Role::Head => true,
                Role::Norm => decay_norm_and_bias,
                Role::Embedding => decay_embeddings,
            };
            match groups.last_mut() {
                Some((range, same)) if *same == decays => range.end = tensor.range.end,
                _ => groups.push((tensor.range.clone(), decays)),
            }
        }
        groups
    }

    fn find(&self, name: &str) -> Option<&TensorSpec> {
        let index = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[index])
    }
}
