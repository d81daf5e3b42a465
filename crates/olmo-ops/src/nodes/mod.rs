//! The operations on Burn tensors: each is one autodiff node around its fused body.

// Burn 0.22 is the last version with libtorch, and deprecates every use (docs/decisions.md).
#![cfg_attr(feature = "libtorch", allow(deprecated))]

mod compute;
mod flat;
pub(crate) mod host;
mod host_slice;
#[cfg(feature = "libtorch")]
pub(crate) mod libtorch;

pub use compute::Compute;
pub use flat::{Flat, block_flat, embed, embed_backward, head_logits_flat, head_loss_flat, norm_flat};
pub use host_slice::HostSlice;
