//! Blocks without gradients: whole rows, prompts that fill a cache, and single tokens after it.

use crate::body::block::Block;
use crate::config::{BlockConfig, BlockWeights};
use crate::decoder::Decoder;
pub use crate::decoder::Score;
use crate::linear::{Linear, Weight};

/// The block's output for rows `x [tokens, d_model]`.
pub fn forward<D: Decoder>(
    device: &D,
    config: &BlockConfig,
    weights: &BlockWeights<Linear, Weight>,
    positions: &D::Positions,
    x: &D::Array,
) -> D::Array {
    Block { device, config, weights, positions }.forward(x, None).0
}

/// Like [`forward`], for prompts that begin sequences: fills `cache`, which must be empty, with the
/// first `lengths[row]` tokens of each row.
pub fn prefill<D: Decoder>(
    device: &D,
    config: &BlockConfig,
    weights: &BlockWeights<Linear, Weight>,
    positions: &D::Positions,
    x: &D::Array,
    lengths: &[usize],
    cache: &mut D::KvCache,
) -> D::Array {
    Block { device, config, weights, positions }.prefill(x, lengths, cache)
}

/// The block's output for the next token `x [sequences, d_model]` of each sequence in `cache`,
/// which is extended by it. `positions` are those of [`Decoder::next_positions`].
pub fn step<D: Decoder>(
    device: &D,
    config: &BlockConfig,
    weights: &BlockWeights<Linear, Weight>,
    positions: &D::Positions,
    x: &D::Array,
    cache: &mut D::KvCache,
) -> D::Array {
    Block { device, config, weights, positions }.step(x, cache)
}
