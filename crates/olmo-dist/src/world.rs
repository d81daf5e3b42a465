//! [`World`]: which of how many ranks this process is.

/// The place of this process among the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// This rank, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub size: usize,
    /// Number of this rank among the ranks of this host, from 0.
    pub local_rank: usize,
    /// Number of ranks on this host.
    pub local_size: usize,
}
