//! [`Parts`]: the micro-batches of a step, and which of them this rank computes.

use std::ops::Range;

use crate::ranks::Ranks;
use crate::setup::Setup;

/// The micro-batches of a step.
pub(super) struct Parts {
    /// The rows of each.
    rows: Vec<Range<usize>>,
    /// The range of those that this rank computes.
    own: Range<usize>,
}

impl Parts {
    pub(super) fn new(setup: &Setup, ranks: &Ranks) -> Self {
        let (rows, batch) = (setup.microbatch, setup.global_batch);
        let rows: Vec<_> = (0..batch).step_by(rows).map(|from| from..batch.min(from + rows)).collect();
        Self { own: ranks.share(rows.len()), rows }
    }

    /// Number of micro-batches on all ranks.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// The rows of each micro-batch of this rank.
    pub(super) fn own(&self) -> &[Range<usize>] {
        &self.rows[self.own.clone()]
    }

    /// All rows of this rank.
    pub(super) fn own_rows(&self) -> Range<usize> {
        match self.own() {
            [] => 0..0,
            [first, ..] => first.start..self.rows[self.own.end - 1].end,
        }
    }

    /// The positions of the micro-batches of this rank.
    pub(super) fn positions(&self) -> Range<u64> {
        self.own.start as u64..self.own.end as u64
    }
}
