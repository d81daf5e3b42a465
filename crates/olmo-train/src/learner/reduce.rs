//! [`Reduce`]: how gradients are summed over ranks.

/// How the gradients of micro-batches are summed over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// In the order of a fixed binary tree over their positions in the global batch: the bits are
    /// those of a single rank.
    Exact,
    /// In the order of the ranks, with less to exchange: the bits depend on the number of ranks.
    Fast,
}
