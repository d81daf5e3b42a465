//! [`StoredModel`]: a model whose weights are in files, in any format.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use olmo_ops::{Matrices, Matrix};
use rayon::prelude::*;

use super::files::ModelFiles;
use super::parts::{Judge, Part, check_tensors};
use super::tensors::{OpenTensor, Tensor, Tensors};
use crate::config::ModelConfig;
use crate::error::{ModelError, shortened};
use crate::layout::{TensorSpec, layout};
use crate::parameters::Parameters;
use crate::weight_source::WeightSource;

/// Lists the tensors of a model's files.
pub(super) type OpenTensors<'o> = &'o dyn Fn(&Arc<ModelFiles>) -> Result<Tensors, ModelError>;

/// A model in files. Its config is read and its tensors are known to fit; weights are read on request.
pub struct StoredModel {
    config: ModelConfig,
    tensors: Vec<TensorSpec>,
    /// The parts with their tensors, in the order of the flat array.
    parts: Vec<(Part, Tensor)>,
    /// The file or folder, as messages call it.
    shown: PathBuf,
    /// The part that was read last.
    opened: Mutex<Option<(usize, Arc<OpenTensor>)>>,
}

impl StoredModel {
    /// The model of a valid config whose `parts` are among `tensors`.
    ///
    /// # Errors
    /// All tensors that are missing, misshapen or unknown.
    pub(super) fn new(
        shown: &Path,
        config: ModelConfig,
        parts: Vec<Part>,
        mut tensors: Tensors,
        judge: Judge<'_>,
    ) -> Result<Self, ModelError> {
        check_tensors(&parts, &tensors, judge).map_err(|problems| refuse(shown, problems))?;
        let mut parts: Vec<(Part, Tensor)> =
            parts.into_iter().filter_map(|part| tensors.remove(&part.name).map(|tensor| (part, tensor))).collect();
        parts.sort_by_key(|(part, _)| part.range.start);
        let tensors = layout(&config);
        Ok(Self { config, tensors, parts, shown: shown.to_owned(), opened: Mutex::default() })
    }

    /// The config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// All weights, in memory as f32.
    ///
    /// # Errors
    /// A file is damaged, or elements cannot be weights.
    pub fn parameters(&self) -> Result<Parameters, ModelError> {
        // The shapes fit the config, so it asks for no more memory than the files have.
        let mut parameters = Parameters::zeros(&self.config)?;
        let flat = parameters.flat_mut();
        let mut problems = Vec::new();
        for (part, tensor) in &self.parts {
            let read = tensor.open().and_then(|tensor| tensor.read(0, &mut flat[part.range.clone()]));
            problems.extend(read.err().map(|reason| problem(part, tensor, &reason)));
        }
        if problems.is_empty() { Ok(parameters) } else { Err(refuse(&self.shown, problems)) }
    }

    /// All weights as matrices, without a copy of those that are f32 or bf16 and aligned in a file of
    /// their own. The weights of norms are copied. Mapped elements are looked at only if `checks` is set:
    /// otherwise nothing shows that they are finite, but opening a model reads none of them.
    ///
    /// # Errors
    /// See [`StoredModel::parameters`].
    pub fn matrices(&self, checks: bool) -> Result<Matrices, ModelError> {
        let matrices: Vec<Result<(Range<usize>, Matrix), String>> = self
            .parts
            .par_iter()
            .map(|(part, tensor)| {
                let matrix = tensor.matrix(part.shape.len() > 1, checks);
                let matrix = matrix.map_err(|reason| problem(part, tensor, &reason))?;
                Ok((part.range.clone(), matrix))
            })
            .collect();
        let mut problems = Vec::new();
        let sound = matrices.into_iter().filter_map(|part| part.map_err(|why| problems.push(why)).ok());
        let matrices = Matrices::new(sound);
        if problems.is_empty() { Ok(matrices) } else { Err(refuse(&self.shown, problems)) }
    }

    /// The tensor of part `index`, opened. The last one stays open, because a tensor of a pickle is
    /// read as a whole.
    fn open(&self, index: usize) -> Result<Arc<OpenTensor>, String> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match &*opened {
            Some((last, tensor)) if *last == index => Ok(tensor.clone()),
            _ => {
                // The memory of the last one is free before the next is read.
                *opened = None;
                let tensor = Arc::new(self.parts[index].1.open()?);
                *opened = Some((index, tensor.clone()));
                Ok(tensor)
            }
        }
    }
}

impl WeightSource for StoredModel {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn read_into(&self, mut start: usize, mut target: &mut [f32]) -> Result<(), ModelError> {
        while !target.is_empty() {
            let index = self.parts.partition_point(|(part, _)| part.range.end <= start);
            let (part, tensor) = &self.parts[index];
            let length = target.len().min(part.range.end - start);
            let (piece, rest) = std::mem::take(&mut target).split_at_mut(length);
            let read = self.open(index).and_then(|tensor| tensor.read(start - part.range.start, piece));
            read.map_err(|reason| refuse(&self.shown, vec![problem(part, tensor, &reason)]))?;
            start += length;
            target = rest;
        }
        Ok(())
    }
}

fn problem(part: &Part, tensor: &Tensor, reason: &str) -> String {
    format!("`{}` in {} {reason}", part.name, tensor.path.display())
}

fn refuse(shown: &Path, problems: Vec<String>) -> ModelError {
    ModelError::Tensors { path: shown.to_owned(), problems: shortened(problems) }
}
