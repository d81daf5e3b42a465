//! The operations on Burn tensors: each is one autodiff node around its fused body where that is
//! supported, otherwise its reference body.

// Burn 0.22 is the last version with libtorch, and deprecates every use (docs/decisions.md).
#![cfg_attr(feature = "libtorch", allow(deprecated))]

mod block;
mod embedding;
mod flat;
mod head;
pub(crate) mod host;
#[cfg(feature = "libtorch")]
pub(crate) mod libtorch;
mod norm;

pub use block::{BlockTensors, Placed, block};
pub use embedding::embedding;
pub use flat::{Flat, block_flat, embed, embed_backward, head_logits_flat, head_loss_flat, norm_flat};
pub use head::{HeadLoss, head_logits, head_loss};
pub use host::{Compute, HostSlice};
pub use norm::norm;
