//! Generation: runs a block token by token over a cache of keys and values. Inference only, on f32
//! slices.
//!
//! Each cache belongs to one sequence, so a result cannot depend on other sequences that are
//! generated at the same time.

use std::sync::Arc;

use rayon::prelude::*;

use crate::body::block::Block;
use crate::config::{BlockConfig, BlockWeights, Keep, Norm};
use crate::cpu::norm::{normalise, row_stats};
use crate::cpu::{Cpu, dot, exp, maximum, multiversion, prepare_row, sum};
use crate::device::Device as _;
use crate::linear::{Linear, Weight};
use crate::rope::{Placed, Rope};

/// Keys (rotated to their positions) and values of one block for one sequence, `[positions, kv]`
/// each.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    positions: usize,
}

impl KvCache {
    /// Number of tokens seen so far.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Appends rows of `[queries, keys, values]`.
    fn extend(&mut self, config: &BlockConfig, heads: &[f32]) {
        for row in heads.chunks_exact(config.qkv_width()) {
            let (keys, values) = row[config.query_width()..].split_at(config.kv_width());
            self.keys.extend_from_slice(keys);
            self.values.extend_from_slice(values);
            self.positions += 1;
        }
    }
}

/// Runs the block over a whole prompt `x [tokens, d]` and fills the cache, which must be empty.
/// `rope` must cover the prompt's length.
pub fn prefill(
    device: &Cpu,
    config: &BlockConfig,
    rope: &Arc<Rope>,
    x: Vec<f32>,
    weights: &BlockWeights<Linear, Weight>,
    cache: &mut KvCache,
) -> Vec<f32> {
    assert_eq!(cache.positions, 0, "a prompt begins a sequence");
    let placed = Placed { rope: rope.clone(), documents: None };
    let positions = device.positions(&placed, [1, x.len() / config.d_model]);
    let (y, saved) = Block { device, config, weights, positions: &positions }.forward(&x.into(), Some(Keep::All));
    if let Some(saved) = saved {
        cache.extend(config, saved.heads.as_ref().expect("everything is kept"));
    }
    y.into_vec()
}

/// Runs the block over one more token `x [d]`; `rope` must extend beyond `cache.positions()`.
pub fn step(
    config: &BlockConfig,
    rope: &Rope,
    x: &[f32],
    weights: &BlockWeights<&[f32]>,
    cache: &mut KvCache,
) -> Vec<f32> {
    let raw = linear(&sublayer_input(config, x, weights.attn_norm), weights.att_proj);
    let mut heads = vec![0f32; raw.len()];
    let norms = weights.q_norm.zip(weights.k_norm).map(|(q, k)| [q, k]);
    prepare_row(config, rope, cache.positions, &raw, norms, &mut heads);
    cache.extend(config, &heads);
    let mut attended = vec![0f32; config.query_width()];
    let hidden = config.sees_from(cache.positions - 1, 0) * config.kv_width();
    attend(config, &heads, &cache.keys[hidden..], &cache.values[hidden..], &mut attended);
    let middle = add_sublayer(config, x, linear(&attended, weights.attn_out), weights.attn_norm);

    let up_gate = linear(&sublayer_input(config, &middle, weights.ff_norm), weights.ff_proj);
    let (up, gate) = up_gate.split_at(config.mlp_width);
    let activation: Vec<f32> = up.iter().zip(gate).map(|(up, gate)| gate / (1.0 + exp(-gate)) * up).collect();
    add_sublayer(config, &middle, linear(&activation, weights.ff_out), weights.ff_norm)
}

fn sublayer_input(config: &BlockConfig, x: &[f32], weight: Option<&[f32]>) -> Vec<f32> {
    if config.norm_after { x.to_vec() } else { norm_row(config.norm, x, weight) }
}

fn add_sublayer(config: &BlockConfig, residual: &[f32], output: Vec<f32>, weight: Option<&[f32]>) -> Vec<f32> {
    let mut sum = if config.norm_after { norm_row(config.norm, &output, weight) } else { output };
    for (sum, residual) in sum.iter_mut().zip(residual) {
        *sum += residual;
    }
    sum
}

/// One normed row.
pub fn norm_row(norm: Norm, x: &[f32], weight: Option<&[f32]>) -> Vec<f32> {
    let (mean, r) = row_stats(norm, x);
    let mut y = vec![0f32; x.len()];
    normalise(x, mean, r, weight, &mut y);
    y
}

/// Rows of a weight per task.
const ROWS: usize = 512;

/// `weight [out, in]` times one vector.
pub fn linear(x: &[f32], weight: &[f32]) -> Vec<f32> {
    let mut y = vec![0f32; weight.len() / x.len()];
    y.par_chunks_mut(ROWS).zip(weight.par_chunks(ROWS * x.len())).for_each(|(y, weight)| multiply_rows(x, weight, y));
    y
}

multiversion! {
    fn multiply_rows(x: &[f32], weight: &[f32], y: &mut [f32]) {
        for (y, row) in y.iter_mut().zip(weight.chunks_exact(x.len())) {
            *y = dot(row, x);
        }
    }
}

multiversion! {
    /// Attention of one token's queries over all cached positions.
    fn attend(config: &BlockConfig, queries: &[f32], keys: &[f32], values: &[f32], output: &mut [f32]) {
        let (head, kv) = (config.head_dim, config.kv_width());
        let (group, scale) = (config.n_heads / config.n_kv_heads, 1.0 / (head as f32).sqrt());
        let mut scores = vec![0f32; keys.len() / kv];
        for (index, (output, query)) in output.chunks_exact_mut(head).zip(queries.chunks_exact(head)).enumerate() {
            let place = index / group * head..(index / group + 1) * head;
            for (score, keys) in scores.iter_mut().zip(keys.chunks_exact(kv)) {
                *score = dot(query, &keys[place.clone()]);
            }
            let largest = maximum(&scores);
            for score in &mut scores {
                *score = exp((*score - largest) * scale);
            }
            let reciprocal = 1.0 / sum(&scores);
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
