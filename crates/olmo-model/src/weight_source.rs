//! [`WeightSource`]: weights that are read piece by piece, in memory or in files.

use std::ops::Range;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::{TensorSpec, layout};
use crate::parameters::Parameters;
use crate::weight_type::WeightType;

/// Number of weights that are read at a time.
const AT_ONCE: usize = 1 << 18;

/// The weights of a model in the order of the flat array.
pub trait WeightSource {
    /// Name, shape and range of every tensor, in order.
    fn tensors(&self) -> &[TensorSpec];

    /// Reads the weights from `start` on into `target`. Calls in order are fastest.
    ///
    /// # Errors
    /// A file cannot be read, or its elements cannot be weights.
    ///
    /// # Panics
    /// There are not so many weights.
    fn read_into(&self, start: usize, target: &mut [f32]) -> Result<(), ModelError>;
}

impl WeightSource for Parameters {
    fn tensors(&self) -> &[TensorSpec] {
        self.tensors()
    }

    fn read_into(&self, start: usize, target: &mut [f32]) -> Result<(), ModelError> {
        target.copy_from_slice(&self.flat()[start..start + target.len()]);
        Ok(())
    }
}

/// Checks that `source` has the weights of a valid `config`.
///
/// # Errors
/// They are those of another config, or it is invalid.
pub(crate) fn check_fit(source: &dyn WeightSource, config: &ModelConfig) -> Result<(), ModelError> {
    config.validate()?;
    if source.tensors() != layout(config) {
        return Err(ModelError::Input("the parameters are those of another model config".into()));
    }
    Ok(())
}

/// Calls `take` with the weights in `range`, in order, in pieces.
///
/// # Errors
/// See [`WeightSource::read_into`].
fn for_each_piece(
    source: &dyn WeightSource,
    range: &Range<usize>,
    mut take: impl FnMut(usize, &[f32]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut piece = vec![0.0; range.len().min(AT_ONCE)];
    for start in range.clone().step_by(AT_ONCE) {
        let piece = &mut piece[..AT_ONCE.min(range.end - start)];
        source.read_into(start, piece)?;
        take(start, piece)?;
    }
    Ok(())
}

/// The weights in `range` as bytes of type `dtype`, little endian.
///
/// # Errors
/// See [`WeightSource::read_into`]; also a weight that `dtype` cannot hold.
pub(crate) fn read_encoded(
    source: &dyn WeightSource,
    range: &Range<usize>,
    dtype: WeightType,
) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::with_capacity(range.len() * dtype.size());
    for_each_piece(source, range, |start, piece| {
        if let Some(index) = piece.iter().position(|value| !dtype.round(*value).is_finite()) {
            let name = source.tensors().iter().find(|spec| spec.range.contains(&(start + index)));
            let name = name.map_or("a tensor", |spec| spec.name.as_str());
            let what = format!("`{name}` holds {}, which {} cannot hold", piece[index], dtype.as_str());
            return Err(ModelError::Input(format!("{what}; export as float32 or bfloat16")));
        }
        dtype.encode(piece, &mut bytes);
        Ok(())
    })?;
    Ok(bytes)
}

/// The names of the tensors in which `after` differs from `before`, rounded to `dtype`. Both are read
/// piece by piece.
///
/// # Errors
/// See [`WeightSource::read_into`]; also if the two have other tensors.
pub fn differing_tensors(
    before: &dyn WeightSource,
    after: &dyn WeightSource,
    dtype: WeightType,
) -> Result<Vec<String>, ModelError> {
    if before.tensors() != after.tensors() {
        return Err(ModelError::Input("the two models have other tensors".into()));
    }
    let mut names = Vec::new();
    let mut other = vec![0.0; AT_ONCE];
    for spec in before.tensors() {
        let mut differs = false;
        for_each_piece(before, &spec.range, |start, piece| {
            if differs {
                return Ok(());
            }
            let other = &mut other[..piece.len()];
            after.read_into(start, other)?;
            differs = piece.iter().zip(&*other).any(|(a, b)| dtype.round(*a).to_bits() != b.to_bits());
            Ok(())
        })?;
        if differs {
            names.push(spec.name.clone());
        }
    }
    Ok(names)
}

/// A model with other rows of embedding and head than its source: the first ones of the source, then
/// zeros.
pub struct ResizedVocabulary<'s> {
    source: &'s dyn WeightSource,
    tensors: Vec<TensorSpec>,
}

impl<'s> ResizedVocabulary<'s> {
    /// The weights of `source` for `config`, which differs from the source's in its embedding rows
    /// alone.
    ///
    /// # Errors
    /// It differs in something else.
    pub fn new(source: &'s dyn WeightSource, config: &ModelConfig) -> Result<Self, ModelError> {
        config.validate()?;
        let tensors = layout(config);
        let same = |(a, b): (&TensorSpec, &TensorSpec)| {
            a.name == b.name && a.shape[1..] == b.shape[1..] && (a.shape == b.shape || a.has_vocabulary_rows())
        };
        if tensors.len() != source.tensors().len() || !source.tensors().iter().zip(&tensors).all(same) {
            return Err(ModelError::Input("the parameters are those of another model config".into()));
        }
        Ok(Self { source, tensors })
    }
}

impl WeightSource for ResizedVocabulary<'_> {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn read_into(&self, mut start: usize, mut target: &mut [f32]) -> Result<(), ModelError> {
        while !target.is_empty() {
            let index = self.tensors.partition_point(|spec| spec.range.end <= start);
            let (spec, from) = (&self.tensors[index], &self.source.tensors()[index].range);
            let length = target.len().min(spec.range.end - start);
            let (part, rest) = std::mem::take(&mut target).split_at_mut(length);
            let offset = start - spec.range.start;
            let (present, added) = part.split_at_mut(part.len().min(from.len().saturating_sub(offset)));
            if !present.is_empty() {
                self.source.read_into(from.start + offset, present)?;
            }
            added.fill(0.0);
            start += present.len() + added.len();
            target = rest;
        }
        Ok(())
    }
}

/// Weights after rounding to a type.
pub struct Rounded<'s> {
    source: &'s dyn WeightSource,
    dtype: WeightType,
}

impl<'s> Rounded<'s> {
    /// The weights of `source`, rounded to `dtype`.
    pub fn new(source: &'s dyn WeightSource, dtype: WeightType) -> Self {
        Self { source, dtype }
    }
}

impl WeightSource for Rounded<'_> {
    fn tensors(&self) -> &[TensorSpec] {
        self.source.tensors()
    }

    fn read_into(&self, start: usize, target: &mut [f32]) -> Result<(), ModelError> {
        self.source.read_into(start, target)?;
        for value in target {
            *value = self.dtype.round(*value);
        }
        Ok(())
    }
}
