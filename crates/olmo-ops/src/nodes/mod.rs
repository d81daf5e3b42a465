//! The operations on Burn tensors: each is one autodiff node around its fused body where that is
//! supported, otherwise its reference body.

// Burn 0.22 is the last version with libtorch, and deprecates every use (docs/decisions.md).
#![cfg_attr(feature = "libtorch", allow(deprecated))]

mod block;
mod compute;
mod embedding;
mod flat;
mod head;
pub(crate) mod host;
mod host_slice;
#[cfg(feature = "libtorch")]
pub(crate) mod libtorch;
mod norm;

pub use block::block;
pub use compute::Compute;
pub use embedding::embedding;
pub use flat::{Flat, block_flat, embed, embed_backward, head_logits_flat, head_loss_flat, norm_flat};
pub use head::{head_logits, head_loss};
pub use host_slice::HostSlice;
pub use norm::norm;
