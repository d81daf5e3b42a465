//! Attention by its definition, always in f32: products and softmax for a piece of the queries at a
//! time, so that scores never exceed `[heads, PIECE, keys]`. Additions follow the order of the
//! library's products, which is the same in every run.

use tch::{Kind, Tensor};

use super::sizes::DeviceAttention;

/// Number of queries at a time.
const PIECE: usize = 512;

/// A piece of a row: its queries and the keys that they may see.
struct Piece {
    row: usize,
    queries: [usize; 2],
    keys: [usize; 2],
}

fn pieces(attention: &DeviceAttention) -> impl Iterator<Item = Piece> {
    let (sequence, window) = (attention.sequence, attention.narrowing());
    (0..attention.batch).flat_map(move |row| {
        (0..sequence).step_by(PIECE).map(move |first| {
            let end = (first + PIECE).min(sequence);
            let oldest = window.map_or(0, |window| (first + 1).saturating_sub(window));
            Piece { row, queries: [first, end], keys: [oldest, end] }
        })
    })
}

impl Piece {
    /// Tokens of `part [tokens, heads, head]` as `[kv_heads, group * tokens, head]`, f32. Query
    /// heads that share keys are adjacent.
    fn of(&self, attention: &DeviceAttention, part: &Tensor, [first, end]: [usize; 2]) -> Tensor {
        let at = self.row * attention.sequence + first;
        let [count, kv_heads, head] = [end - first, attention.kv_heads, attention.head].map(|n| n as i64);
        let tokens = part.narrow(0, at as i64, count).to_kind(Kind::Float);
        tokens.reshape([count, kv_heads, -1, head]).permute([1, 2, 0, 3]).reshape([kv_heads, -1, head])
    }

    /// Adds `[kv_heads, group * tokens, head]` to these tokens of `to [tokens, heads, head]`.
    fn add(&self, attention: &DeviceAttention, to: &Tensor, values: &Tensor, [first, end]: [usize; 2]) {
        let at = self.row * attention.sequence + first;
        let [count, kv_heads, head] = [end - first, attention.kv_heads, attention.head].map(|n| n as i64);
        let values = values.view([kv_heads, -1, count, head]).permute([2, 0, 1, 3]).reshape([count, -1, head]);
        let mut to = to.narrow(0, at as i64, count);
        let _ = to.g_add_(&values);
    }

    /// `[kv_heads, group * queries, keys]`: scores, -inf where a query does not see a key.
    fn scores(&self, attention: &DeviceAttention, q: &Tensor, k: &Tensor) -> Tensor {
        let [[first, end], [oldest, newest]] = [self.queries, self.keys];
        let place = |from: usize, to: usize| Tensor::arange_start(from as i64, to as i64, (Kind::Int64, q.device()));
        let seen = attention.seen(&place(first, end), &place(oldest, newest), Some(self.row));
        let scores = q.bmm(&k.transpose(1, 2)) * attention.scale();
        let size = scores.size();
        let [kv_heads, queries, keys] = [size[0], (end - first) as i64, size[2]];
        let scores = scores.view([kv_heads, -1, queries, keys]);
        scores.masked_fill(&seen.logical_not(), f64::NEG_INFINITY).view(size.as_slice())
    }

    /// Its part of `[batch, kv_heads, group, sequence]`, as `[kv_heads, group, queries]`.
    fn sums(&self, sums: &Tensor) -> Tensor {
        let [first, end] = self.queries;
        sums.get(self.row as i64).narrow(2, first as i64, (end - first) as i64)
    }
}

/// Computes `[tokens, heads, head]`, and the log of each softmax's sum,
/// `[batch, kv_heads, group, sequence]` in f32.
pub(super) fn forward(attention: &DeviceAttention, [q, k, v]: [&Tensor; 3]) -> (Tensor, Tensor) {
    let options = (Kind::Float, q.device());
    let output = Tensor::zeros(q.size(), options);
    let group = attention.heads / attention.kv_heads;
    let size = [attention.batch, attention.kv_heads, group, attention.sequence].map(|n| n as i64);
    let sums = Tensor::zeros(size, options);
    for piece in pieces(attention) {
        let part = piece.of(attention, q, piece.queries);
        let [keys, values] = [k, v].map(|part| piece.of(attention, part, piece.keys));
        let scores = piece.scores(attention, &part, &keys);
        let sum = scores.logsumexp([-1i64].as_slice(), true);
        let weights = (&scores - &sum).exp();
        piece.add(attention, &output, &weights.bmm(&values), piece.queries);
        let mut target = piece.sums(&sums);
        target.copy_(&sum.view_as(&target));
    }
    (output.to_kind(q.kind()), sums)
}

/// The gradients of queries, keys and values.
pub(super) fn backward(
    attention: &DeviceAttention,
    [q, k, v]: [&Tensor; 3],
    output: &Tensor,
    sums: &Tensor,
    doutput: &Tensor,
) -> [Tensor; 3] {
    let gradients = [q, k, v].map(|part| Tensor::zeros(part.size(), (Kind::Float, part.device())));
    for piece in pieces(attention) {
        let [part, output, doutput] = [q, output, doutput].map(|part| piece.of(attention, part, piece.queries));
        let [keys, values] = [k, v].map(|part| piece.of(attention, part, piece.keys));
        let sum = piece.sums(sums).reshape([keys.size()[0], -1, 1]);
        let weights = (piece.scores(attention, &part, &keys) - sum).exp();
        let product = (&doutput * output).sum_dim_intlist([-1i64].as_slice(), true, None);
        let dscores = &weights * (doutput.bmm(&values.transpose(1, 2)) - product) * attention.scale();
        piece.add(attention, &gradients[0], &dscores.bmm(&keys), piece.queries);
        piece.add(attention, &gradients[1], &dscores.transpose(1, 2).bmm(&part), piece.keys);
        piece.add(attention, &gradients[2], &weights.transpose(1, 2).bmm(&doutput), piece.keys);
    }
    gradients.map(|gradient| gradient.to_kind(q.kind()))
}
