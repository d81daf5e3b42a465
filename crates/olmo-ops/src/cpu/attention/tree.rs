//! Attention over a [`TokenTree`], forward only: one task per segment and head.
//!
//! A token's result has the bits of attention over its whole sequence alone. Blocks of query rows
//! begin at the same positions as there, and the products over columns run in the same chains.

use rayon::prelude::*;

use super::place::{PRODUCT, Place, ROWS, softmax_row};
use crate::config::BlockConfig;
use crate::cpu::buffer::Buffer;
use crate::cpu::math::multiversion;
use crate::cpu::matmul::{CHAIN, Write};
use crate::cpu::shared::SharedSlice;
use crate::tree::{Segment, TokenTree};

/// A block of query rows of a segment, and the columns that they see.
#[derive(Clone, Copy)]
struct Block<'a> {
    config: &'a BlockConfig,
    /// Position of the first row.
    start: usize,
    rows: usize,
    /// The first column that a row of the whole block sees, also if that row is in another segment.
    from: usize,
}

impl Block<'_> {
    /// Number of columns, counted from `from`.
    fn columns(&self) -> usize {
        self.start + self.rows - self.from
    }

    /// The columns that row `row` sees, counted from `from`.
    #[inline(always)]
    fn seen(&self, row: usize) -> (usize, usize) {
        let place = self.start + row;
        (self.config.sees_from(place, 0) - self.from, place + 1 - self.from)
    }
}

/// `output [tokens, queries]` from `heads [tokens, qkv]`.
pub(crate) fn forward(config: &BlockConfig, tree: &TokenTree, heads: &[f32], output: &mut [f32]) {
    let place = Place::of(config);
    let tokens = tree.ids().len();
    assert_eq!(heads.len(), tokens * place.stride, "every token has its heads");
    assert_eq!(output.len(), tokens * place.queries, "every token has a result");
    let output = SharedSlice::new(output);
    let tasks = (0..tree.segments().len() * config.n_heads).into_par_iter();
    tasks.for_each(|task| {
        let (segment, head) = (task / config.n_heads, task % config.n_heads);
        let mut path: Vec<Segment> = tree.path(segment).collect();
        path.reverse();
        segment_forward(config, place, &path, head, heads, output);
    });
}

/// The results of the last segment of `path`, of one head.
fn segment_forward(
    config: &BlockConfig,
    place: Place,
    path: &[Segment],
    head: usize,
    heads: &[f32],
    output: SharedSlice<'_>,
) {
    let Some(segment) = path.last() else { return };
    let end = segment.position + segment.count;
    let kv_head = head / place.group;
    let mut scores = Buffer::new(ROWS.min(segment.count) * end);
    let mut start = segment.position;
    while start < end {
        let begin = start / ROWS * ROWS;
        let rows = (begin + ROWS).min(end) - start;
        let block = Block { config, start, rows, from: config.sees_from(begin, 0) };
        let columns = block.columns();
        let first_row = segment.row + (start - segment.position);
        for piece in pieces(path, block.from, columns) {
            // SAFETY: rows of the path lie within `heads`, whose size the caller has checked, and the
            // piece's columns lie within those of the block.
            unsafe {
                let query = (heads.as_ptr().add(place.query(first_row, head)), [place.stride, 1]);
                let key = (heads.as_ptr().add(place.key(piece.row, kv_head)), [1, place.stride]);
                let target = (scores.as_mut_ptr().add(piece.column), columns);
                PRODUCT.gemm([rows, piece.count, place.head], query, key, Write::New, target);
            }
        }
        softmax_rows(&mut scores[..rows * columns], block, place.scale);
        let mut gathered = Buffer::new(CHAIN.min(columns) * place.head);
        for top in (0..columns).step_by(CHAIN) {
            let count = CHAIN.min(columns - top);
            let values = chain(path, place, kv_head, block.from + top, count, heads, &mut gathered);
            // SAFETY: as above; each task writes its own head of its segment's rows.
            unsafe {
                let weights = (scores.as_ptr().add(top), [columns, 1]);
                let write = if top == 0 { Write::New } else { Write::Add };
                let target = (output.at(place.output(first_row, head)), place.queries);
                PRODUCT.gemm([rows, place.head, count], weights, values, write, target);
            }
        }
        start += rows;
    }
}

/// Some columns of a block in consecutive rows of the batch.
struct Piece {
    /// Counted from the block's first column.
    column: usize,
    row: usize,
    count: usize,
}

/// The pieces of the `columns` positions of a path that begin at `from`.
fn pieces(path: &[Segment], from: usize, columns: usize) -> impl Iterator<Item = Piece> + '_ {
    path.iter().filter_map(move |segment| {
        let first = segment.position.max(from);
        let end = (segment.position + segment.count).min(from + columns);
        (first < end).then(|| Piece {
            column: first - from,
            row: segment.row + (first - segment.position),
            count: end - first,
        })
    })
}

/// The values of `count` positions of a path from `from` on, `[count, head]`: in place if they are in
/// one segment, otherwise copied to `gathered`.
fn chain(
    path: &[Segment],
    place: Place,
    kv_head: usize,
    from: usize,
    count: usize,
    heads: &[f32],
    gathered: &mut [f32],
) -> (*const f32, [usize; 2]) {
    for piece in pieces(path, from, count) {
        let value = |index: usize| &heads[place.value(piece.row + index, kv_head)..][..place.head];
        if piece.count == count {
            return (value(0).as_ptr(), [place.stride, 1]);
        }
        let to = gathered[piece.column * place.head..].chunks_exact_mut(place.head);
        for (index, to) in to.take(piece.count).enumerate() {
            to.copy_from_slice(value(index));
        }
    }
    (gathered.as_ptr(), [place.head, 1])
}

multiversion! {
    /// In-place softmax of the scores of a block, each row over the columns that it sees.
    fn softmax_rows(scores: &mut [f32], block: Block<'_>, scale: f32) {
        for (row, scores) in scores.chunks_exact_mut(block.columns()).enumerate() {
            softmax_row(scores, block.seen(row), scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Norm, NormKind};
    use crate::cpu::attention;
    use crate::cpu::matmul::Compute;
    use crate::rope::{Places, Rope, RopeConfig};

    fn config(window: Option<usize>) -> BlockConfig {
        let rope = RopeConfig::new(10_000.0);
        let norm = Norm { kind: NormKind::Rms, eps: 1e-6 };
        BlockConfig {
            d_model: 24,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 6,
            mlp_width: 8,
            norm,
            norm_after: true,
            clip_qkv: None,
            rope,
            qk_norm: false,
            window,
        }
    }

    /// The heads of a token depend only on the token and its position.
    fn heads(config: &BlockConfig, id: u32, position: usize) -> Vec<f32> {
        let value = |index: usize| ((id as usize * 7919 + position * 104_729 + index * 31) % 1013) as f32 / 307.0 - 1.6;
        (0..config.qkv_width()).map(value).collect()
    }

    #[test]
    fn every_token_has_the_bits_of_its_sequence_alone() {
        let text = |length: usize, seed: u32| (0..length as u32).map(|i| i * i % 11 + seed).collect::<Vec<u32>>();
        let mut sequences = vec![text(700, 0), text(130, 3)];
        for (shared, length) in [(600, 640), (600, 601), (300, 420), (257, 300), (63, 65), (64, 129), (1, 80)] {
            let mut sequence = sequences[0][..shared].to_vec();
            sequence.extend(text(length - shared, length as u32 + 50));
            sequences.push(sequence);
        }
        sequences.sort();
        let refs: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let tree = TokenTree::new(&refs);
        for window in [None, Some(20), Some(300)] {
            let config = config(window);
            let all: Vec<f32> =
                tree.ids().iter().zip(tree.positions()).flat_map(|(id, place)| heads(&config, *id, place)).collect();
            let mut got = vec![f32::NAN; tree.ids().len() * config.query_width()];
            forward(&config, &tree, &all, &mut got);
            for (index, sequence) in refs.iter().enumerate() {
                let alone: Vec<f32> =
                    sequence.iter().enumerate().flat_map(|(place, id)| heads(&config, *id, place)).collect();
                let rope = Rope::new(config.rope, config.head_dim, sequence.len());
                let mut want = vec![f32::NAN; sequence.len() * config.query_width()];
                let mut lse = vec![0.0; sequence.len() * config.n_heads];
                let places = Places::rows(&rope, sequence.len());
                attention::forward(Compute::Flex, &config, &places, &alone, &mut want, &mut lse);
                for (place, row) in tree.rows_from(index, 0).into_iter().enumerate() {
                    let width = config.query_width();
                    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
                    assert_eq!(
                        bits(&got[row * width..(row + 1) * width]),
                        bits(&want[place * width..(place + 1) * width]),
                        "window {window:?}, sequence {index}, position {place}"
                    );
                }
            }
        }
    }
}
