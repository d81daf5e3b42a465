//! [`GgufRounded`]: weights as a GGUF file holds them.

use olmo_ops::{BLOCK, BlockType};
use olmo_pickle::DType;

use super::architecture::Architecture;
use super::writer::GgufType;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::parts::Part;
use crate::formats::tensors::Encoding;
use crate::layout::TensorSpec;
use crate::weight_source::WeightSource;
use crate::weight_type::WeightType;

/// Weights after rounding to the types of a GGUF file.
pub struct GgufRounded<'s> {
    source: &'s dyn WeightSource,
    /// In the order of the flat array.
    parts: Vec<(Part, Encoding)>,
}

impl<'s> GgufRounded<'s> {
    /// The weights of `source`, rounded as [`super::save_gguf`] rounds them.
    ///
    /// # Errors
    /// No architecture of llama.cpp can express the config.
    pub fn new(source: &'s dyn WeightSource, config: &ModelConfig, to: GgufType) -> Result<Self, ModelError> {
        let mut parts = Architecture::of(config)?.parts(config);
        parts.sort_by_key(|part| part.range.start);
        let encoding = |part: &Part| to.of_tensor(&part.name, &part.shape, config.weight_tying);
        let parts = parts.into_iter().map(|part| (encoding(&part), part)).map(|(encoding, part)| (part, encoding));
        Ok(Self { source, parts: parts.collect() })
    }

    /// Rounds whole blocks.
    fn round_blocks(&self, kind: BlockType, start: usize, target: &mut [f32]) -> Result<(), ModelError> {
        let mut blocks = Vec::new();
        self.source.read_into(start, target)?;
        kind.encode(target, &mut blocks);
        kind.decode(&blocks, target);
        Ok(())
    }
}

impl WeightSource for GgufRounded<'_> {
    fn tensors(&self) -> &[TensorSpec] {
        self.source.tensors()
    }

    fn read_into(&self, mut start: usize, mut target: &mut [f32]) -> Result<(), ModelError> {
        while !target.is_empty() {
            let index = self.parts.partition_point(|(part, _)| part.range.end <= start);
            let (part, encoding) = &self.parts[index];
            let length = target.len().min(part.range.end - start);
            let (piece, rest) = std::mem::take(&mut target).split_at_mut(length);
            match *encoding {
                Encoding::Blocks(kind) => {
                    let first = part.range.start + (start - part.range.start) / BLOCK * BLOCK;
                    let whole = (start + length - first).next_multiple_of(BLOCK);
                    let mut values = vec![0.0; whole];
                    self.round_blocks(kind, first, &mut values)?;
                    piece.copy_from_slice(&values[start - first..][..length]);
                }
                Encoding::Plain(dtype) => {
                    self.source.read_into(start, piece)?;
                    let to = match dtype {
                        DType::Float16 => WeightType::Float16,
                        DType::Bfloat16 => WeightType::Bfloat16,
                        _ => WeightType::Float32,
                    };
                    for value in &mut *piece {
                        *value = to.round(*value);
                    }
                }
            }
            start += length;
            target = rest;
        }
        Ok(())
    }
}
