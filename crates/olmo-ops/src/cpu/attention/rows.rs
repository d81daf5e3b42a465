//! Causal attention over whole rows of tokens: one task per batch row and key head, with query rows
//! in blocks. Each block computes only the columns that one of its rows can see (none that is
//! later, in another document or outside the window).

#[cfg(feature = "libtorch")]
use olmo_torch::DeviceAttention;
use rayon::prelude::*;

use super::place::{PRODUCT, Place, ROWS, softmax_row, turned};
use crate::config::BlockConfig;
use crate::cpu::buffer::Buffer;
use crate::cpu::math::{dot, exp, multiversion};
use crate::cpu::matmul::{Compute, Write};
use crate::cpu::shared::SharedSlice;
use crate::rope::Places;

/// The columns that a block of query rows sees.
#[derive(Clone, Copy)]
struct Seen<'a> {
    config: &'a BlockConfig,
    places: &'a Places<'a>,
    /// Index of the batch row.
    row: usize,
    /// Position of the first query row, in tokens of the batch row.
    start: usize,
    /// The first column that any of them sees.
    from: usize,
}

impl<'a> Seen<'a> {
    fn new(config: &'a BlockConfig, places: &'a Places<'a>, row: usize, start: usize) -> Seen<'a> {
        // Documents and windows only move forward, so the first row sees the furthest back.
        let from = config.sees_from(start, places.document(row, start));
        Seen { config, places, row, start, from }
    }

    /// The columns seen by query row `index` of the block, counted from `from`.
    #[inline(always)]
    fn columns(&self, index: usize) -> (usize, usize) {
        let place = self.start + index;
        let first = self.config.sees_from(place, self.places.document(self.row, place));
        (first - self.from, place + 1 - self.from)
    }
}

/// `output [batch * sequence, queries]` from `heads [batch * sequence, qkv]`;
/// `lse [batch, heads, sequence]` is the log of each row's sum.
pub(crate) fn forward(
    #[cfg_attr(not(feature = "libtorch"), expect(unused_variables))] compute: Compute,
    config: &BlockConfig,
    places: &Places<'_>,
    heads: &[f32],
    output: &mut [f32],
    lse: &mut [f32],
) {
    let sequence = places.sequence;
    let place = Place::of(config);
    let tokens = heads.len() / place.stride;
    let batch = tokens / sequence;
    assert!(heads.len() == tokens * place.stride && tokens == batch * sequence, "rows of tokens are whole");
    assert!(output.len() >= tokens * place.queries && lse.len() >= tokens * config.n_heads, "results have their sizes");
    #[cfg(feature = "libtorch")]
    if let Some(shape) = in_libtorch(compute, config, places) {
        let rows = output.par_chunks_mut(sequence * place.queries).zip(lse.par_chunks_mut(sequence * config.n_heads));
        rows.zip(heads.par_chunks(sequence * place.stride))
            .for_each(|((output, lse), heads)| olmo_torch::attention_forward(&shape(), heads, output, lse));
        return;
    }
    let (output, lse) = (SharedSlice::new(output), SharedSlice::new(lse));
    (0..batch * config.n_heads).into_par_iter().for_each(|task| {
        let (row, head) = (task / config.n_heads, task % config.n_heads);
        let (first, kv_head) = (row * sequence, head / place.group);
        // SAFETY: each task has its own rows of lse.
        let lse = unsafe { lse.part(task * sequence, sequence) };
        let mut scores = Buffer::new(ROWS.min(sequence) * sequence);
        for start in (0..sequence).step_by(ROWS) {
            let rows = ROWS.min(sequence - start);
            let seen = Seen::new(config, places, row, start);
            let columns = start + rows - seen.from;
            // SAFETY: indices stay within the row's tokens, whose sizes are asserted above; each
            // task writes its own head of output.
            unsafe {
                let query = (heads.as_ptr().add(place.query(first + start, head)), [place.stride, 1]);
                let key = (heads.as_ptr().add(place.key(first + seen.from, kv_head)), [place.stride, 1]);
                let value = (heads.as_ptr().add(place.value(first + seen.from, kv_head)), [place.stride, 1]);
                let target = (output.at(place.output(first + start, head)), place.queries);
                let products = (scores.as_mut_ptr(), sequence);
                PRODUCT.gemm([rows, columns, place.head], query, turned(key), Write::New, products);
                softmax_rows(&mut scores, columns, sequence, seen, place.scale, &mut lse[start..start + rows]);
                let weights = (scores.as_ptr(), [sequence, 1]);
                PRODUCT.gemm([rows, place.head, columns], weights, value, Write::New, target);
            }
        }
    });
}

/// Makes the shape of a batch row for libtorch's kernel, if that can be used: it supports neither
/// documents nor windows.
#[cfg(feature = "libtorch")]
fn in_libtorch(
    compute: Compute,
    config: &BlockConfig,
    places: &Places<'_>,
) -> Option<impl Fn() -> DeviceAttention + Sync> {
    let plain = compute == Compute::LibTorch && places.documents.is_none() && config.window.is_none();
    let BlockConfig { n_heads: heads, n_kv_heads: kv_heads, head_dim: head, .. } = *config;
    let (batch, sequence) = (1, places.sequence);
    plain.then_some(move || DeviceAttention { batch, sequence, heads, kv_heads, head, window: None, documents: None })
}

multiversion! {
    /// In-place softmax of the scaled scores, each row over the columns that it sees; the rest of
    /// its `columns` becomes 0.
    fn softmax_rows(scores: &mut [f32], columns: usize, stride: usize, seen: Seen<'_>, scale: f32, lse: &mut [f32]) {
        for (row, (scores, lse)) in scores.chunks_mut(stride).zip(lse).enumerate() {
            *lse = softmax_row(&mut scores[..columns], seen.columns(row), scale);
        }
    }
}

/// Computes `dheads`, the gradient of `heads`, from the incoming `doutput` and the results of the
/// forward pass.
#[expect(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
pub(crate) fn backward(
    #[cfg_attr(not(feature = "libtorch"), expect(unused_variables))] compute: Compute,
    config: &BlockConfig,
    places: &Places<'_>,
    heads: &[f32],
    output: &[f32],
    lse: &[f32],
    doutput: &[f32],
    dheads: &mut [f32],
) {
    let sequence = places.sequence;
    let place = Place::of(config);
    let tokens = heads.len() / place.stride;
    let batch = tokens / sequence;
    assert!(heads.len() == tokens * place.stride && tokens == batch * sequence, "rows of tokens are whole");
    assert!(
        output.len() == tokens * place.queries && doutput.len() == tokens * place.queries,
        "gradients have their sizes"
    );
    assert!(lse.len() == tokens * config.n_heads && dheads.len() == heads.len(), "gradients have their sizes");
    #[cfg(feature = "libtorch")]
    if let Some(shape) = in_libtorch(compute, config, places) {
        let (of_heads, of_output, of_lse) =
            (sequence * place.stride, sequence * place.queries, sequence * config.n_heads);
        let made = heads.par_chunks(of_heads).zip(output.par_chunks(of_output)).zip(lse.par_chunks(of_lse));
        dheads.par_chunks_mut(of_heads).zip(doutput.par_chunks(of_output)).zip(made).for_each(
            |((dheads, doutput), ((heads, output), lse))| {
                olmo_torch::attention_backward(&shape(), heads, output, lse, doutput, dheads);
            },
        );
        return;
    }
    let dheads = SharedSlice::new(dheads);
    (0..batch * config.n_kv_heads).into_par_iter().for_each(|task| {
        let (row, kv_head) = (task / config.n_kv_heads, task % config.n_kv_heads);
        let first = row * sequence;
        for token in first..first + sequence {
            for start in [place.key(token, kv_head), place.value(token, kv_head)] {
                // SAFETY: each task has its own key head, and the query heads of its group, of its
                // row's tokens.
                unsafe { dheads.part(start, place.head) }.fill(0.0);
            }
        }
        let size = ROWS.min(sequence) * sequence;
        let (mut weights, mut dweights) = (Buffer::new(size), Buffer::new(size));
        for head in kv_head * place.group..(kv_head + 1) * place.group {
            let lse_start = (first * config.n_heads) + head * sequence;
            for start in (0..sequence).step_by(ROWS) {
                let rows = ROWS.min(sequence - start);
                let seen = Seen::new(config, places, row, start);
                let columns = start + rows - seen.from;
                let query_at = place.query(first + start, head);
                let key_at = place.key(first + seen.from, kv_head);
                let value_at = place.value(first + seen.from, kv_head);
                let output_at = place.output(first + start, head);
                // SAFETY: indices stay within the row's tokens, whose sizes are asserted above;
                // writes are disjoint as above.
                unsafe {
                    let query = (heads.as_ptr().add(query_at), [place.stride, 1]);
                    let key = (heads.as_ptr().add(key_at), [place.stride, 1]);
                    let value = (heads.as_ptr().add(value_at), [place.stride, 1]);
                    let incoming = (doutput.as_ptr().add(output_at), [place.queries, 1]);
                    let size = [rows, columns, place.head];
                    PRODUCT.gemm(size, query, turned(key), Write::New, (weights.as_mut_ptr(), sequence));
                    PRODUCT.gemm(size, incoming, turned(value), Write::New, (dweights.as_mut_ptr(), sequence));
                    let lse = &lse[lse_start + start..lse_start + start + rows];
                    let (output, doutput) = (&output[output_at..], &doutput[output_at..]);
                    softmax_backward_rows(&mut weights, &mut dweights, columns, seen, place, lse, output, doutput);
                    let weights = (weights.as_ptr(), [sequence, 1]);
                    let dscores = (dweights.as_ptr(), [sequence, 1]);
                    let [dquery, dkey, dvalue] = [query_at, key_at, value_at].map(|at| (dheads.at(at), place.stride));
                    PRODUCT.gemm([rows, place.head, columns], dscores, key, Write::New, dquery);
                    PRODUCT.gemm([columns, place.head, rows], turned(dscores), query, Write::Add, dkey);
                    PRODUCT.gemm([columns, place.head, rows], turned(weights), incoming, Write::Add, dvalue);
                }
            }
        }
    });
}

multiversion! {
    /// Turns scores into weights, and gradients of weights into gradients of scores (scaled), both
    /// in place.
    fn softmax_backward_rows(
        scores: &mut [f32], dweights: &mut [f32], columns: usize, seen: Seen<'_>, place: Place, lse: &[f32], output: &[f32], doutput: &[f32],
    ) {
        let stride = seen.places.sequence;
        for (row, lse) in lse.iter().enumerate() {
            let (first, end) = seen.columns(row);
            let part = row * stride..row * stride + columns;
            let (scores, dweights) = (&mut scores[part.clone()], &mut dweights[part]);
            for hidden in [&mut *scores, &mut *dweights] {
                hidden[..first].fill(0.0);
                hidden[end..].fill(0.0);
            }
            let at = row * place.queries..row * place.queries + place.head;
            let mean = dot(&output[at.clone()], &doutput[at]);
            for (score, dweight) in scores[first..end].iter_mut().zip(&mut dweights[first..end]) {
                *score = exp(*score * place.scale - lse);
                *dweight = *score * (*dweight - mean) * place.scale;
            }
        }
    }
}
