//! [`Documents`]: tokenized documents, one after the other, without an allocation for each.

use std::ops::Range;

use super::label_runs::{LabelRuns, mask_of};

/// A document's ids. `label_mask[i]` is true if token `i` is a target. Both have the same length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub input_ids: Vec<u32>,
    pub label_mask: Vec<bool>,
}

impl Document {
    /// Drops the tokens after the first `length`; returns their number.
    pub fn truncate(&mut self, length: usize) -> usize {
        let over = self.input_ids.len().saturating_sub(length);
        self.input_ids.truncate(length);
        self.label_mask.truncate(length);
        over
    }

    /// Number of trainable targets: the first token has no context to be predicted from.
    pub fn labels(&self) -> usize {
        self.label_mask.iter().skip(1).filter(|label| **label).count()
    }
}

/// A document that is being encoded. Kept between documents, so that its memory is used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentBuffer {
    pub input_ids: Vec<u32>,
    /// The labels of all ids.
    pub labels: LabelRuns,
}

impl DocumentBuffer {
    pub fn clear(&mut self) {
        self.input_ids.clear();
        self.labels.clear();
    }
}

impl From<DocumentBuffer> for Document {
    fn from(buffer: DocumentBuffer) -> Self {
        let label_mask = mask_of(buffer.labels.as_slice(), buffer.input_ids.len());
        Self { label_mask: label_mask.expect("each id has a label"), input_ids: buffer.input_ids }
    }
}

/// Documents with their ids and the runs of their labels ([`LabelRuns`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    pub(super) input_ids: Vec<u32>,
    pub(super) runs: Vec<u32>,
    /// For each document, the ends of its ids and of its runs.
    ends: Vec<(usize, usize)>,
}

impl Documents {
    /// Number of documents.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Removes all documents and keeps the memory.
    pub fn clear(&mut self) {
        self.input_ids.clear();
        self.runs.clear();
        self.ends.clear();
    }

    /// Makes room for `count` documents of some hundred tokens.
    pub fn reserve(&mut self, count: usize) {
        self.input_ids.reserve(256 * count);
        self.runs.reserve(8 * count);
        self.ends.reserve(count);
    }

    /// Appends a document. `runs` are those of all its labels.
    pub fn push(&mut self, input_ids: &[u32], runs: &LabelRuns) {
        debug_assert_eq!(runs.as_slice().iter().map(|run| *run as usize).sum::<usize>(), input_ids.len());
        self.input_ids.extend_from_slice(input_ids);
        self.runs.extend_from_slice(runs.as_slice());
        self.ends.push((self.input_ids.len(), self.runs.len()));
    }

    /// Where the ids and the runs of each document lie.
    fn places(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let starts = std::iter::once(&(0, 0)).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| (start.0..end.0, start.1..end.1))
    }

    /// The ids and the runs of each document.
    pub fn iter(&self) -> impl Iterator<Item = (&[u32], &[u32])> {
        self.places().map(|(ids, runs)| (&self.input_ids[ids], &self.runs[runs]))
    }
}
