//! The operations of an OLMo-family model, and nothing else: embedding, transformer block, norm, head with loss, and the optimizer's step.
//!
//! Each operation on tensors has two bodies. The *reference* body ([`mod@reference`]) is plain Burn, runs on every backend and in every
//! precision, and is what the other is tested against. The *fused* body ([`fused`]) works on f32 slices with forward and backward by
//! hand, and joins Burn's autodiff as one node for each call; it is used for f32 on the flex backend.
//!
//! In the fused bodies the order of every sum follows from the shapes alone, never from the number of threads: results are
//! bit-identical for any thread count on one machine. [`decode`], [`adamw`] and [`global_norm()`] work on slices too and hold to the same rule.

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

pub use config::{BlockConfig, BlockWeights, IGNORED, Keep, LossTerms, Norm, NormKind};
pub use fused::head::Sums;
pub use global_norm::{clip_coefficient, global_norm};
pub use nodes::{
    BlockTensors, Compute, Flat, HeadLoss, HostSlice, Placed, block, block_flat, embed, embed_backward, embedding,
    head_logits, head_logits_flat, head_loss, head_loss_flat, norm, norm_flat,
};
pub use reference::{
    block as block_reference, embedding as embedding_reference, head_loss as head_loss_reference,
    norm as norm_reference,
};
pub use rope::{Places, Rope};
