//! Processes that exchange arrays.
//!
//! Every process of a run is a *rank*. [`Launch`] finds out which rank this process is, and
//! [`ProcessGroup::join`] connects all ranks and checks that they belong together. A process group
//! is a [`Collective`]: every rank calls the same operations in the same order. [`exact`] sums
//! arrays so that the bits depend on neither the number of ranks nor the division of the work.
//!
//! If a rank fails, dies, or stays away, every operation of every other rank fails with an error
//! that names it. `docs/design/ranks.md` explains the protocol.
//!
//! The crate knows nothing about models or training, and has no tensors: callers pass slices.

mod collective;
pub mod conformance;
mod error;
pub mod exact;
mod group;
mod launch;
mod node_sums;
mod rendezvous;
mod tree_sum;
mod values;
mod world;

pub use collective::{Alone, Collective, all_gather_bytes, part_of};
pub use error::{DistError, Failure};
pub use group::{Pending, ProcessGroup};
pub use launch::{Launch, Launcher};
pub use node_sums::{NodeSums, held_sums};
pub use rendezvous::{Join, Limits, Rendezvous, Secret};
pub use tree_sum::{TreeNode, TreeSum, nodes_of};
pub use values::{Values, ValuesRef};
pub use world::World;
