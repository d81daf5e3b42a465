//! The operations of an OLMo-family model: embedding, transformer block, norm, head with loss, and
//! the optimizer step.
//!
//! Each operation on tensors has two bodies. The *reference* body ([`mod@reference`]) is plain
//! Burn, runs on every backend in every precision, and serves to test the other. The *fused* body
//! ([`fused`]) works on f32 slices with hand-written forward and backward passes, and joins Burn's
//! autodiff as one node per call; it is used for f32 on the flex backend.
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
pub mod reference;
mod rope;
mod tensors;

pub use config::{BlockConfig, BlockWeights, IGNORED, Keep, LossTerms, Norm, NormKind};
pub use fused::head::Sums;
pub use global_norm::{clip_coefficient, global_norm};
pub use nodes::{
    Compute, Flat, HostSlice, block, block_flat, embed, embed_backward, embedding, head_logits, head_logits_flat,
    head_loss, head_loss_flat, norm, norm_flat,
};
pub use reference::{
    block as block_reference, embedding as embedding_reference, head_loss as head_loss_reference,
    norm as norm_reference,
};
pub use rope::{Placed, Places, Rope};
pub use tensors::{BlockTensors, HeadLoss};
