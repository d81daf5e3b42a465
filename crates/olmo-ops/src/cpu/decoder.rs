//! [`Cpu`] as a [`Decoder`]. Each sequence has its own cache, and the result of a token depends on
//! no other sequence.

use std::sync::Arc;

use rayon::prelude::*;

use super::array::Array;
use super::buffer::Buffer;
use super::device::{Cpu, Positions};
use super::head::loss_alone;
use super::math::{dot, exponentials, maximum, multiversion};
use super::matmul::Write;
use crate::config::BlockConfig;
use crate::decoder::{Decoder, Score};
use crate::linear::Linear;
use crate::rope::Rope;
use crate::tree::TokenTree;

/// Keys and values of some sequences.
#[derive(Debug, Default)]
pub struct KvCache(Vec<Sequence>);

/// Keys and values of a sequence, `[positions, kv]` each.
#[derive(Debug, Default)]
struct Sequence {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Sequence {
    /// Appends rows of `[queries, keys, values]`.
    fn extend(&mut self, config: &BlockConfig, heads: &[f32]) {
        for row in heads.chunks_exact(config.qkv_width()) {
            let (keys, values) = row[config.query_width()..].split_at(config.kv_width());
            self.keys.extend_from_slice(keys);
            self.values.extend_from_slice(values);
        }
    }
}

/// Maximum number of logits that exist at a time while tokens are scored.
const MOST_LOGITS: usize = 1 << 24;

/// Multiplications of a task of attention, at least.
const LEAST_WORK: usize = 1 << 15;

impl Decoder for Cpu {
    type KvCache = KvCache;
    const PADS: bool = false;

    fn stepwise(&self) -> Cpu {
        let mut device = self.clone();
        device.stepwise = true;
        device
    }

    fn next_positions(&self, rope: &Arc<Rope>, positions: &[usize]) -> Positions {
        assert!(
            positions.iter().all(|&position| position < rope.positions()),
            "the rotary tables reach every position"
        );
        Positions::Each { rope: rope.clone(), positions: positions.to_vec() }
    }

    fn tree_positions(&self, rope: &Arc<Rope>, tree: &Arc<TokenTree>) -> Option<Positions> {
        assert!(tree.longest() <= rope.positions(), "the rotary tables reach every position");
        Some(Positions::Tree { rope: rope.clone(), tree: tree.clone(), positions: tree.positions() })
    }

    fn rows(&self, array: &Array, width: usize, rows: &[usize]) -> Array {
        let mut taken = Array::scratch(rows.len() * width);
        for (to, &from) in taken.chunks_exact_mut(width).zip(rows) {
            to.copy_from_slice(&array[from * width..(from + 1) * width]);
        }
        taken
    }

    fn score(&self, hidden: &Array, weight: &Linear, targets: &[u32]) -> Vec<Score> {
        let (width, vocabulary) = (weight.inputs, weight.outputs());
        let size = (MOST_LOGITS / vocabulary.max(1)).max(1);
        let mut scores = Vec::with_capacity(targets.len());
        for (hidden, targets) in hidden.chunks(size * width).zip(targets.chunks(size)) {
            let mut logits = Buffer::new(targets.len() * vocabulary);
            self.product(hidden, weight, &mut logits, Write::New);
            let score = |(logits, target): (&mut [f32], &u32)| {
                let target = *target as usize;
                let aim = logits[target];
                let is_greedy = aim >= maximum(logits) && logits[..target].iter().all(|logit| *logit < aim);
                Score { log_probability: -loss_alone(logits, target)[0], is_greedy }
            };
            scores.par_extend(logits.par_chunks_mut(vocabulary).zip(targets).map(score));
        }
        scores
    }

    fn kv_cache(&self, _: &BlockConfig) -> KvCache {
        KvCache::default()
    }

    fn kv_fill(&self, config: &BlockConfig, cache: &mut KvCache, heads: &Array, lengths: &[usize]) {
        assert!(cache.0.is_empty(), "prompts begin sequences");
        let row = heads.len() / lengths.len().max(1);
        for (heads, length) in heads.chunks(row.max(1)).zip(lengths) {
            let mut sequence = Sequence::default();
            sequence.extend(config, &heads[..length * config.qkv_width()]);
            cache.0.push(sequence);
        }
    }

    fn kv_join(&self, _: &BlockConfig, cache: &mut KvCache, other: KvCache) {
        cache.0.extend(other.0);
    }

    fn kv_keep(&self, cache: &mut KvCache, sequences: &[usize]) {
        let mut all: Vec<Option<Sequence>> = cache.0.drain(..).map(Some).collect();
        cache.0 = sequences.iter().map(|&index| all[index].take().expect("a sequence is kept once")).collect();
    }

    fn attention_next(&self, config: &BlockConfig, positions: &Positions, cache: &mut KvCache, heads: &Array) -> Array {
        let Positions::Each { positions, .. } = positions else {
            unreachable!("a step has one token of each sequence")
        };
        for ((sequence, heads), position) in cache.0.iter_mut().zip(heads.chunks(config.qkv_width())).zip(positions) {
            sequence.extend(config, heads);
            assert_eq!(sequence.keys.len(), (position + 1) * config.kv_width(), "a cache holds every earlier token");
        }
        let (group, groups) = (config.n_heads / config.n_kv_heads * config.head_dim, config.n_kv_heads);
        let longest = positions.iter().max().map_or(0, |last| last + 1);
        let mut output = Array::scratch(positions.len() * config.query_width());
        let tasks =
            output.par_chunks_mut(group).enumerate().with_min_len(LEAST_WORK / (2 * group * longest).max(1) + 1);
        tasks.for_each(|(index, output)| {
            let (sequence, kv_head) = (index / groups, index % groups);
            let queries = &heads[sequence * config.qkv_width() + kv_head * group..][..group];
            let hidden = config.sees_from(positions[sequence], 0) * config.kv_width();
            let Sequence { keys, values } = &cache.0[sequence];
            attend(config, kv_head, queries, &keys[hidden..], &values[hidden..], output);
        });
        output
    }
}

multiversion! {
    /// Attention of one token's queries that share a key head over the positions that they see.
    fn attend(config: &BlockConfig, kv_head: usize, queries: &[f32], keys: &[f32], values: &[f32], output: &mut [f32]) {
        let (head, kv) = (config.head_dim, config.kv_width());
        let (place, scale) = (kv_head * head..(kv_head + 1) * head, 1.0 / (head as f32).sqrt());
        let mut scores = vec![0f32; keys.len() / kv];
        for (output, query) in output.chunks_exact_mut(head).zip(queries.chunks_exact(head)) {
            for (score, keys) in scores.iter_mut().zip(keys.chunks_exact(kv)) {
                *score = dot(query, &keys[place.clone()]);
            }
            let reciprocal = 1.0 / exponentials(&mut scores, scale).1;
            output.fill(0.0);
            for (score, values) in scores.iter().zip(values.chunks_exact(kv)) {
                let weight = score * reciprocal;
                for (output, value) in output.iter_mut().zip(&values[place.clone()]) {
                    *output += weight * value;
                }
            }
        }
    }
}
