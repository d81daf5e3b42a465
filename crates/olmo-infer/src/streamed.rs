//! [`streamed_logits`]: logits of a model that does not fit in memory.

use std::ops::Range;
use std::sync::Arc;

use olmo_model::{Compute, ModelConfig, ModelError, ModelWeights, Ropes, WeightSource};
use olmo_ops::{Cpu, Device as _, Life, Matrices, Matrix, Placed, inference};

/// Logits of `batch` x `sequence` tokens on the CPU: `[batch, sequence, embedding rows]`, row-major.
/// Holds the weights of one block at a time, or those of the embedding or the head.
///
/// # Errors
/// A token is not in the vocabulary, the number of tokens is not `batch * sequence`, or the weights
/// cannot be read.
pub fn streamed_logits(
    config: &ModelConfig,
    source: &dyn WeightSource,
    input_ids: &[u32],
    [batch, sequence]: [usize; 2],
    compute: Compute,
) -> Result<Vec<f32>, ModelError> {
    config.check_ids(input_ids, batch, sequence)?;
    let weights = ModelWeights::frozen(config);
    let device = |ranges: Vec<&Range<usize>>| -> Result<Cpu, ModelError> {
        let read = |range: &Range<usize>| {
            let mut values = vec![0.0; range.len()];
            source.read_into(range.start, &mut values)?;
            Ok((range.clone(), Matrix::F32(values.into())))
        };
        let parts = ranges.into_iter().map(read).collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Cpu::of_matrices(compute, Arc::new(Matrices::new(parts))))
    };
    let mut hidden = device(vec![&weights.embedding.weight.values])?.embed(&weights.embedding, input_ids);
    let ropes = Ropes::default();
    for (layer, block) in weights.blocks.iter().enumerate() {
        let matrices = [&block.att_proj, &block.attn_out, &block.ff_proj, &block.ff_out].map(|linear| &linear.weight);
        let norms = [&block.attn_norm, &block.ff_norm, &block.q_norm, &block.k_norm];
        let parts = matrices.into_iter().chain(norms.into_iter().flatten()).map(|weight| &weight.values);
        let device = device(parts.collect())?;
        let block_config = config.block(layer);
        let placed = Placed { rope: ropes.of(&block_config, sequence), documents: None };
        let positions = device.positions(&placed, [batch, sequence]);
        hidden = inference::forward(&device, &block_config, block, &positions, &hidden);
    }
    let parts = weights.final_norm.iter().chain([&weights.head.weight]).map(|weight| &weight.values);
    let device = device(parts.collect())?;
    let norm = weights.final_norm.as_ref();
    let normed = device.norm(config.norm(), &hidden, None, norm, config.d_model, Life::Scratch).0;
    Ok(device.logits(&normed, &weights.head))
}
