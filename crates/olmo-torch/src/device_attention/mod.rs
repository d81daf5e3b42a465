//! Causal attention over whole batches on a device, forward and backward, without a score matrix
//! where a kernel avoids it.
//!
//! | device and type, shapes | kernel |
//! |---|---|
//! | CUDA bf16, whole causal rows, as many key heads as query heads, head width a multiple of 8 up to 128, at least 128 tokens | cuDNN |
//! | CUDA bf16 otherwise, head width up to 256 | flash, with cumulative lengths for documents; supports grouped heads and windows |
//! | CUDA f32, and wider heads | products and softmax in f32, for several queries at a time |
//! | CPU (tests) | ATen's flash kernel for CPUs |
//!
//! For trials, `OLMO_PIPE_ATTENTION=flash|cudnn|math` overrides the choice where the kernel
//! supports the shape. On CUDA, the backward passes of cuDNN and flash add in no fixed order: two
//! runs differ in the last bits.

mod dispatch;
mod host;
mod math;
mod sizes;

pub use dispatch::{
    AttentionKept, AttentionKernel, cudnn_refusal, device_attention_backward, device_attention_forward,
    device_attention_forward_by,
};
pub use host::{attention_backward, attention_forward};
pub use sizes::{DeviceAttention, Documents};
