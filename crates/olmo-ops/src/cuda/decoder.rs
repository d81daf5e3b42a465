//! [`Cuda`] as a [`Decoder`]: sequences are padded to the longest and computed together.

use std::sync::Arc;

use olmo_torch::{Kind, Tensor};

use super::weights::{Cuda, Tables, sizes};
use crate::config::BlockConfig;
use crate::decoder::{Decoder, Score};
use crate::linear::Linear;
use crate::rope::Rope;
use crate::tree::TokenTree;

/// Keys and values, `[sequences, room, kv]` each. Places that a sequence has not reached hold
/// arbitrary values.
#[derive(Debug)]
pub struct KvCache {
    keys: Tensor,
    values: Tensor,
}

/// Room grows by this number of tokens at least.
const ROOM: i64 = 128;

/// Maximum number of logits that exist at a time while tokens are scored.
const MOST_LOGITS: usize = 1 << 28;

impl KvCache {
    fn both(&mut self, change: impl Fn(&Tensor) -> Tensor) {
        (self.keys, self.values) = (change(&self.keys), change(&self.values));
    }

    fn room(&self) -> i64 {
        self.keys.size()[1]
    }

    /// Makes room for `tokens` tokens.
    fn reserve(&mut self, tokens: i64) {
        if self.room() < tokens {
            let more = (tokens - self.room()).max(ROOM).max(self.room() / 2);
            self.both(|all| all.constant_pad_nd([0, 0, 0, more]));
        }
    }
}

impl Decoder for Cuda {
    type KvCache = KvCache;
    const PADS: bool = true;

    fn stepwise(&self) -> Cuda {
        self.clone()
    }

    fn next_positions(&self, rope: &Arc<Rope>, positions: &[usize]) -> Tables {
        self.next_tables(rope, positions)
    }

    fn tree_positions(&self, _: &Arc<Rope>, _: &Arc<TokenTree>) -> Option<Tables> {
        None
    }

    fn rows(&self, array: &Tensor, _: usize, rows: &[usize]) -> Tensor {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        array.index_select(0, &self.integers(&rows))
    }

    fn score(&self, hidden: &Tensor, weight: &Linear, targets: &[u32]) -> Vec<Score> {
        let matrix = self.matrix(weight);
        let size = (MOST_LOGITS / sizes(&matrix)[0].max(1)).max(1);
        let mut scores = Vec::with_capacity(targets.len());
        for (index, targets) in targets.chunks(size).enumerate() {
            let hidden = hidden.narrow(0, (index * size) as i64, targets.len() as i64);
            let logits = hidden.matmul(&matrix.tr()).to_kind(Kind::Float);
            let ids: Vec<i64> = targets.iter().map(|&target| i64::from(target)).collect();
            let aims = logits.gather(1, &self.integers(&ids).unsqueeze(1), false).squeeze_dim(1);
            let logs = olmo_torch::download::<f32>(&(&aims - logits.logsumexp([1i64].as_slice(), false)));
            let best = olmo_torch::download::<i64>(&logits.argmax(1, false));
            let score = |((log_probability, best), target): ((f32, i64), i64)| Score {
                log_probability,
                is_greedy: best == target,
            };
            scores.extend(logs.into_iter().zip(best).zip(ids).map(score));
        }
        scores
    }

    fn kv_cache(&self, config: &BlockConfig) -> KvCache {
        let none = || self.empty(&[0, 0, config.kv_width()]);
        KvCache { keys: none(), values: none() }
    }

    fn kv_fill(&self, config: &BlockConfig, cache: &mut KvCache, heads: &Tensor, lengths: &[usize]) {
        assert_eq!(cache.keys.size()[0], 0, "prompts begin sequences");
        let (queries, kv) = (config.query_width() as i64, config.kv_width() as i64);
        let part = |start: i64| heads.narrow(1, start, kv).reshape([lengths.len() as i64, -1, kv]);
        *cache = KvCache { keys: part(queries), values: part(queries + kv) };
    }

    fn kv_join(&self, _: &BlockConfig, cache: &mut KvCache, mut other: KvCache) {
        if cache.keys.size()[0] == 0 {
            *cache = other;
            return;
        }
        cache.reserve(other.room());
        let room = cache.room();
        other.both(|all| all.constant_pad_nd([0, 0, 0, room - all.size()[1]]));
        cache.keys = Tensor::cat(&[&cache.keys, &other.keys], 0);
        cache.values = Tensor::cat(&[&cache.values, &other.values], 0);
    }

    fn kv_keep(&self, cache: &mut KvCache, sequences: &[usize]) {
        let sequences: Vec<i64> = sequences.iter().map(|&sequence| sequence as i64).collect();
        let kept = self.integers(&sequences);
        cache.both(|all| all.index_select(0, &kept));
    }

    fn attention_next(&self, config: &BlockConfig, tables: &Tables, cache: &mut KvCache, heads: &Tensor) -> Tensor {
        let next = tables.next.as_ref().expect("a step has the positions of its tokens");
        let (count, kv) = (sizes(heads)[0] as i64, config.kv_width() as i64);
        let (head, kv_heads) = (config.head_dim as i64, config.n_kv_heads as i64);
        let (group, longest) = (config.n_heads as i64 / kv_heads, next.longest as i64);
        cache.reserve(longest);
        // Row of each new token among all places.
        let starts = Tensor::arange(count, (Kind::Int64, heads.device())) * cache.room();
        let places = starts + &next.positions;
        let queries = config.query_width() as i64;
        for (all, start) in [(&cache.keys, queries), (&cache.values, queries + kv)] {
            let _ = all.view([-1, kv]).index_copy_(0, &places, &heads.narrow(1, start, kv));
        }
        let of_heads = |all: &Tensor| all.narrow(1, 0, longest).unflatten(2, [kv_heads, head]).transpose(1, 2);
        let (keys, values) = (of_heads(&cache.keys), of_heads(&cache.values));
        let query = heads.narrow(1, 0, queries).reshape([count, kv_heads, group, head]);
        let scores = query.matmul(&keys.transpose(2, 3)).to_kind(Kind::Float) * (1.0 / f64::from(head as i32).sqrt());
        let place = Tensor::arange(longest, (Kind::Int64, heads.device())).unsqueeze(0);
        let own = next.positions.unsqueeze(1);
        let mut hidden = place.gt_tensor(&own);
        if let Some(window) = config.window {
            hidden = hidden.logical_or(&(place + window as i64).le_tensor(&own));
        }
        let scores = scores.masked_fill(&hidden.view([count, 1, 1, longest]), f64::NEG_INFINITY);
        let weights = scores.softmax(-1, Kind::Float).to_kind(heads.kind());
        weights.matmul(&values).reshape([count, queries])
    }
}
