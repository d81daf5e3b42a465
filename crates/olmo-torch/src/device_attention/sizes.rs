//! [`DeviceAttention`]: the sizes and restrictions of an attention, and its tensors in the layouts of
//! the kernels.

use std::fmt;

use tch::{Device, Kind, Tensor};

use crate::device::upload_beside;
use crate::shim::Cut;

/// Attention of a batch: causal, optionally restricted to a window or to documents.
#[derive(Clone, Debug)]
pub struct DeviceAttention {
    /// Number of rows.
    pub batch: usize,
    /// Row length in tokens.
    pub sequence: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Maximum number of tokens that a token attends to: itself and those before it.
    pub window: Option<usize>,
    /// Restricts attention to each token's own document.
    pub documents: Option<Documents>,
}

/// Boundaries of documents in the flattened tokens of a batch.
pub struct Documents {
    /// `[documents + 1]`, i32: the first token of each document in the flattened batch, then the
    /// number of tokens.
    ends: Tensor,
    /// Length of the longest document in tokens.
    longest: usize,
    /// `[batch, sequence]`, i64: for each token, the position in its row where its document begins.
    starts: Tensor,
}

/// Without the tensors' values: a report of a GPU's failure must not access the GPU.
impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of at most {} tokens", self.count(), self.longest)
    }
}

impl Clone for Documents {
    fn clone(&self) -> Documents {
        let Documents { ends, longest, starts } = self;
        Documents { ends: ends.shallow_clone(), longest: *longest, starts: starts.shallow_clone() }
    }
}

impl Documents {
    /// `starts`: for each token, the position in its row where its document begins, row by row. The
    /// end of a row ends a document.
    ///
    /// # Panics
    /// There are not `batch * sequence` entries, or a document begins after one of its tokens.
    pub fn new(starts: &[u32], batch: usize, sequence: usize, device: Device) -> Documents {
        assert_eq!(starts.len(), batch * sequence, "a place for each token");
        let mut ends: Vec<i32> = Vec::new();
        for (token, &start) in starts.iter().enumerate() {
            let place = token % sequence;
            assert!(start as usize <= place, "the document of token {place} of a row begins at {start}");
            if start as usize == place {
                ends.push(token as i32);
            }
        }
        ends.push(starts.len() as i32);
        let longest = ends.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
        let starts: Vec<i64> = starts.iter().map(|&start| i64::from(start)).collect();
        let starts = Tensor::from_slice(&starts).reshape([batch as i64, sequence as i64]);
        Documents {
            ends: upload_beside(Tensor::from_slice(&ends), device),
            longest,
            starts: upload_beside(starts, device),
        }
    }

    /// Length of the longest document in tokens.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Number of documents.
    pub fn count(&self) -> usize {
        self.ends.numel() - 1
    }
}

impl DeviceAttention {
    pub(super) fn tokens(&self) -> usize {
        self.batch * self.sequence
    }

    pub(super) fn scale(&self) -> f64 {
        1.0 / (self.head as f64).sqrt()
    }

    /// The window, if it restricts more than causality; `None` if no row is longer than it.
    pub(super) fn narrowing(&self) -> Option<usize> {
        self.window.filter(|&window| window < self.sequence)
    }

    /// `[tokens, heads, head]` as `[batch, sequence, heads, head]`.
    fn rows(&self, part: &Tensor) -> Tensor {
        let [batch, sequence, head] = [self.batch, self.sequence, self.head].map(|n| n as i64);
        part.view([batch, sequence, -1, head])
    }

    /// `[tokens, heads, head]` as `[batch, heads, sequence, head]`.
    pub(super) fn heads_first(&self, part: &Tensor) -> Tensor {
        self.rows(part).transpose(1, 2)
    }

    /// `[batch, heads, sequence, head]` as `[tokens, heads, head]`, with a last stride of 1.
    pub(super) fn tokens_first(&self, part: &Tensor, heads: usize) -> Tensor {
        let [tokens, heads, head] = [self.tokens(), heads, self.head].map(|n| n as i64);
        part.transpose(1, 2).reshape([tokens, heads, head])
    }

    /// `[tokens, heads, head]` with any strides as the contiguous `[tokens, heads * head]`.
    pub(super) fn flat(&self, output: &Tensor) -> Tensor {
        output.reshape([self.tokens() as i64, (self.heads * self.head) as i64]).contiguous()
    }

    /// Repeats shared key heads once per query head; `[batch, heads, sequence, head]`.
    pub(super) fn repeated(&self, part: Tensor) -> Tensor {
        let group = (self.heads / self.kv_heads) as i64;
        if group == 1 { part } else { part.repeat_interleave_self_int(group, 1, None) }
    }

    /// The gradient of [`DeviceAttention::repeated`].
    pub(super) fn shared(&self, gradient: Tensor) -> Tensor {
        let group = self.heads / self.kv_heads;
        if group == 1 {
            return gradient;
        }
        let size = [self.batch, self.kv_heads, group, self.sequence, self.head].map(|n| n as i64);
        gradient.reshape(size).sum_dim_intlist([2i64].as_slice(), false, None)
    }

    /// The bias added to scores, 0 or -inf; `None` if causality is enough.
    /// `[1 or batch, 1, sequence, sequence]`.
    pub(super) fn bias(&self, kind: Kind, device: Device) -> Option<Tensor> {
        if self.narrowing().is_none() && self.documents.is_none() {
            return None;
        }
        let sequence = self.sequence as i64;
        let places = Tensor::arange(sequence, (Kind::Int64, device));
        let seen = self.seen(&places, &places, None);
        let bias = Tensor::zeros(seen.size(), (kind, device)).masked_fill(&seen.logical_not(), f64::NEG_INFINITY);
        Some(bias.unsqueeze(1))
    }

    /// Whether queries at some positions of a row see keys at others:
    /// `[1 or batch, queries, keys]`, or for one `row` only.
    pub(super) fn seen(&self, queries: &Tensor, keys: &Tensor, row: Option<usize>) -> Tensor {
        let (queries, keys) = (queries.view([1, -1, 1]), keys.view([1, 1, -1]));
        let mut seen = keys.le_tensor(&queries);
        if let Some(window) = self.narrowing() {
            seen = seen.logical_and(&keys.gt_tensor(&(&queries - window as i64)));
        }
        if let Some(documents) = &self.documents {
            let starts = match row {
                Some(row) => documents.starts.narrow(0, row as i64, 1),
                None => documents.starts.shallow_clone(),
            };
            let starts = starts.index_select(1, &queries.flatten(0, -1)).unsqueeze(-1);
            seen = seen.logical_and(&keys.ge_tensor(&starts));
        }
        seen
    }

    pub(super) fn check(&self, [q, k, v]: [&Tensor; 3]) {
        let [tokens, heads, kv_heads, head] = [self.tokens(), self.heads, self.kv_heads, self.head].map(|n| n as i64);
        assert_eq!(q.size(), [tokens, heads, head], "queries are [tokens, heads, head]");
        assert_eq!(k.size(), [tokens, kv_heads, head], "keys are [tokens, kv_heads, head]");
        assert_eq!(v.size(), [tokens, kv_heads, head], "values are [tokens, kv_heads, head]");
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "key heads divide query heads");
        assert!(self.window != Some(0), "a token sees at least itself");
        if let Some(documents) = &self.documents {
            let expected = [self.batch as i64, self.sequence as i64];
            assert_eq!(documents.starts.size(), expected, "the documents are of this batch");
        }
    }

    /// The sequence boundaries for a flash kernel, and the tensors in its layout with heads padded
    /// to a multiple of 8.
    pub(super) fn flash_parts(&self, parts: [&Tensor; 3]) -> (Cut<'_>, [Tensor; 3]) {
        let ends = self.documents.as_ref().map(|documents| &documents.ends);
        let longest = self.documents.as_ref().map_or(self.sequence, |documents| documents.longest);
        let cut = Cut { ends, longest, window: self.narrowing() };
        (cut, parts.map(|part| self.flash_layout(part)))
    }

    pub(super) fn flash_layout(&self, part: &Tensor) -> Tensor {
        let missing = self.head.next_multiple_of(8) - self.head;
        let part = if missing == 0 { aligned(part) } else { part.constant_pad_nd([0, missing as i64]) };
        if self.documents.is_some() {
            return part;
        }
        let [batch, sequence] = [self.batch, self.sequence].map(|n| n as i64);
        part.view([batch, sequence, part.size()[1], part.size()[2]])
    }

    /// The inverse of [`DeviceAttention::flash_layout`].
    pub(super) fn out_of_flash(&self, part: &Tensor) -> Tensor {
        let size = part.size();
        let [heads, head] = [size[size.len() - 2], size[size.len() - 1]];
        part.reshape([self.tokens() as i64, heads, head]).narrow(2, 0, self.head as i64)
    }
}

/// `[tokens, heads, head]`, aligned for kernels that move 16 bytes at a time: the tensor itself, or
/// a copy if it is not aligned.
pub(super) fn aligned(part: &Tensor) -> Tensor {
    let lies = (part.data_ptr() as usize).is_multiple_of(16) && part.stride()[..2].iter().all(|stride| stride % 8 == 0);
    if lies { part.shallow_clone() } else { part.contiguous().copy() }
}
