//! [`Decoder`]: what a device offers for inference, beyond the operations of a [`Device`].

use std::sync::Arc;

use crate::config::BlockConfig;
use crate::device::Device;
use crate::linear::Linear;
use crate::rope::Rope;
use crate::tree::TokenTree;

/// The probability of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Its natural logarithm.
    pub log_probability: f32,
    /// Whether the token is the most likely one (the lowest id if several are equally likely).
    pub is_greedy: bool,
}

/// A device that continues sequences, with a cache of their keys and values.
pub trait Decoder: Device {
    /// Keys (rotated to their positions) and values of the tokens so far of some sequences, in one
    /// block.
    type KvCache: Send;

    /// Whether rows of different lengths are computed together, padded at their ends. Otherwise each
    /// row is computed alone, and its result depends on no other row.
    const PADS: bool;

    /// The same weights, for steps of generation: the result of a row does not depend on the number
    /// of rows, unless the device pads.
    #[must_use]
    fn stepwise(&self) -> Self;

    /// Positions of one token of each of some sequences.
    fn next_positions(&self, rope: &Arc<Rope>, positions: &[usize]) -> Self::Positions;

    /// Positions of the tokens of a tree. A token's result depends only on the tokens before it in
    /// its sequences. `None`: the device computes whole rows only.
    fn tree_positions(&self, rope: &Arc<Rope>, tree: &Arc<TokenTree>) -> Option<Self::Positions>;

    /// The rows of `array` with these indices.
    fn rows(&self, array: &Self::Array, width: usize, rows: &[usize]) -> Self::Array;

    /// The probabilities of `targets`, one for each row of `hidden`, with the head `weight`.
    fn score(&self, hidden: &Self::Array, weight: &Linear, targets: &[u32]) -> Vec<Score>;

    /// A cache of no sequences.
    fn kv_cache(&self, config: &BlockConfig) -> Self::KvCache;

    /// Adds sequences to a cache without any: the keys and values in `heads`, rows of equally many
    /// tokens, of which the first `lengths[row]` are the sequence.
    fn kv_fill(&self, config: &BlockConfig, cache: &mut Self::KvCache, heads: &Self::Array, lengths: &[usize]);

    /// Adds the sequences of `other` after those of `cache`.
    fn kv_join(&self, config: &BlockConfig, cache: &mut Self::KvCache, other: Self::KvCache);

    /// Keeps only the sequences with these indices, in this order. One whose index appears several
    /// times is copied.
    fn kv_keep(&self, cache: &mut Self::KvCache, sequences: &[usize]);

    /// Adds the next token of each sequence to the cache, and computes its attention. `heads` are
    /// its queries, keys and values, `[sequences, qkv]`.
    fn attention_next(
        &self,
        config: &BlockConfig,
        positions: &Self::Positions,
        cache: &mut Self::KvCache,
        heads: &Self::Array,
    ) -> Self::Array;
}
