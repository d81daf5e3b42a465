//! [`Quantization`]: rounds a model's weights when it is opened.

use std::ops::Range;

use olmo_model::{BlockType, Matrices, Matrix, ModelConfig, ModelWeights};
use olmo_ops::{BLOCK, Linear, RowScaled};
use rayon::prelude::*;

/// How the matrices of a model are rounded when it is opened. Norms stay f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// 8 bits in blocks of 32, all matrices: llama.cpp's q8_0.
    Q8_0,
    /// 4 bits in blocks of 32; the head has 8: llama.cpp's q4_0.
    Q4_0,
    /// 8 bits with a scale for each row, without embedding and head: LLM.int8()'s weights.
    Int8,
}

impl Quantization {
    /// All kinds.
    pub const ALL: [Quantization; 3] = [Quantization::Q8_0, Quantization::Q4_0, Quantization::Int8];

    /// Its name in options and params.
    pub fn name(self) -> &'static str {
        match self {
            Quantization::Q8_0 => "q8_0",
            Quantization::Q4_0 => "q4_0",
            Quantization::Int8 => "int8",
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Quantization> {
        Quantization::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Rounds the matrices of a model. A matrix that is rounded already, or whose rows are no whole
    /// blocks, stays as it is.
    pub fn apply(self, config: &ModelConfig, matrices: &Matrices) -> Matrices {
        let weights = ModelWeights::frozen(config);
        let block =
            weights.blocks.iter().flat_map(|block| [&block.att_proj, &block.attn_out, &block.ff_proj, &block.ff_out]);
        let ends = [&weights.embedding, &weights.head];
        // Row widths by range, and whether it is a matrix at the model's ends.
        let linears: Vec<(&Linear, End)> = block
            .map(|linear| (linear, End::Neither))
            .chain([(ends[0], End::Embedding), (ends[1], End::Head)])
            .collect();
        let round = |(start, matrix): (usize, &Matrix)| -> (Range<usize>, Matrix) {
            let range = start..start + matrix.len();
            // The head comes last, so that a tied embedding counts as one.
            let found = linears.iter().rev().find(|(linear, _)| linear.weight.values.contains(&start));
            let rounded = found.and_then(|(linear, end)| self.round(matrix, linear.inputs, *end));
            (range, rounded.unwrap_or_else(|| matrix.clone()))
        };
        let all: Vec<(usize, &Matrix)> = matrices.iter().collect();
        Matrices::new(all.into_par_iter().map(round).collect::<Vec<_>>())
    }

    /// `None`: the matrix stays as it is.
    fn round(self, matrix: &Matrix, width: usize, end: End) -> Option<Matrix> {
        if matches!(matrix, Matrix::Blocks(..) | Matrix::Int8(_)) {
            return None;
        }
        let kind = match (self, end) {
            (Quantization::Int8, End::Neither) => {
                return Some(Matrix::Int8(RowScaled::of_rows(&matrix.to_f32(), width)));
            }
            (Quantization::Int8, _) => return None,
            (Quantization::Q8_0, _) | (Quantization::Q4_0, End::Head) => BlockType::Q8_0,
            (Quantization::Q4_0, _) => BlockType::Q4_0,
        };
        if !width.is_multiple_of(BLOCK) {
            return None;
        }
        let mut blocks = Vec::with_capacity(matrix.len() / BLOCK * kind.size());
        kind.encode(&matrix.to_f32(), &mut blocks);
        Some(Matrix::Blocks(kind, blocks.into()))
    }
}

/// A matrix at an end of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Neither,
    Embedding,
    Head,
}
