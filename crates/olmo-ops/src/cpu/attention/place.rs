//! What both kinds of attention share: where the parts of a head are, and the softmax of a row.

use crate::config::BlockConfig;
use crate::cpu::math::exponentials;
use crate::cpu::matmul::{Compute, Strided};

/// Products here are too small to benefit from a BLAS.
pub(super) const PRODUCT: Compute = Compute::Flex;

/// Number of query rows in a block.
pub(super) const ROWS: usize = 64;

/// The transposed matrix.
pub(super) fn turned((start, [row, column]): Strided) -> Strided {
    (start, [column, row])
}

/// Position of the parts of one head in rows of `[queries, keys, values]`.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Number of query heads that share a key head.
    pub group: usize,
    pub head: usize,
    /// Width of all queries of a token.
    pub queries: usize,
    kv: usize,
    /// Elements between consecutive tokens.
    pub stride: usize,
    pub scale: f32,
}

impl Place {
    pub(super) fn of(config: &BlockConfig) -> Place {
        let head = config.head_dim;
        Place {
            group: config.n_heads / config.n_kv_heads,
            head,
            queries: config.query_width(),
            kv: config.kv_width(),
            stride: config.qkv_width(),
            scale: 1.0 / (head as f32).sqrt(),
        }
    }

    pub(super) fn query(&self, token: usize, head: usize) -> usize {
        token * self.stride + head * self.head
    }

    pub(super) fn key(&self, token: usize, kv_head: usize) -> usize {
        token * self.stride + self.queries + kv_head * self.head
    }

    pub(super) fn value(&self, token: usize, kv_head: usize) -> usize {
        self.key(token, kv_head) + self.kv
    }

    pub(super) fn output(&self, token: usize, head: usize) -> usize {
        token * self.queries + head * self.head
    }
}

/// In-place softmax of a row of scaled scores over the columns `first..end` that it sees; the others
/// become 0. Returns the log of the sum.
#[inline(always)]
pub(super) fn softmax_row(scores: &mut [f32], (first, end): (usize, usize), scale: f32) -> f32 {
    scores[..first].fill(0.0);
    scores[end..].fill(0.0);
    let seen = &mut scores[first..end];
    let (largest, total) = exponentials(seen, scale);
    let reciprocal = 1.0 / total;
    for score in seen.iter_mut() {
        *score *= reciprocal;
    }
    largest * scale + total.ln()
}
