//! The operations of an OLMo-family model: embedding, transformer block, norm, head with loss, and
//! the optimizer step.
//!
//! The *fused* bodies ([`fused`]) work on f32 slices with hand-written forward and backward passes,
//! and join Burn's autodiff as one node per call. The tests compare them with reference bodies in
//! plain Burn.
//!
//! In the fused bodies, the order of every sum depends only on the shapes, never on the number of
//! threads: results are bit-identical for any thread count on one machine. [`decode`], [`adamw`]
//! and [`global_norm()`] also work on slices and follow the same rule.

pub mod adamw;
mod config;
pub mod decode;
#[cfg(feature = "libtorch")]
pub mod device;
pub mod fused;
mod global_norm;
mod nodes;
mod rope;

pub use config::{BlockConfig, BlockWeights, IGNORED, Keep, LossTerms, Norm, NormKind};
pub use fused::head::Sums;
pub use global_norm::{clip_coefficient, global_norm};
pub use nodes::{
    Compute, Flat, HostSlice, block_flat, embed, embed_backward, head_logits_flat, head_loss_flat, norm_flat,
};
pub use rope::{Placed, Places, Rope};
