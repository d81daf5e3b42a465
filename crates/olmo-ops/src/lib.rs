//! The operations of an OLMo-family model: embedding, transformer block, norm, head with loss, and
//! the optimizer step.
//!
//! A [`Device`] offers the parts of the operations, with hand-written forward and backward passes:
//! [`Cpu`] on f32 slices, `Cuda` on a GPU. The bodies are written once over them, and each operation
//! joins Burn's autodiff as one node per call. The tests compare them with reference bodies in plain
//! Burn.
//!
//! On the host, the order of every sum depends only on the shapes, never on the number of
//! threads: results are bit-identical for any thread count on one machine. [`adamw`] and
//! [`global_norm()`] also work on slices and follow the same rule.
//!
//! [`inference`] runs blocks without gradients on a [`Decoder`], over weights that may be mapped
//! files ([`Matrices`]).

pub mod adamw;
mod autodiff;
mod body;
mod carrier;
mod config;
mod cpu;
#[cfg(feature = "libtorch")]
pub mod cuda;
mod decoder;
mod device;
mod global_norm;
pub mod inference;
mod linear;
mod matrix;
mod quantized;
mod rope;
mod tree;

pub use autodiff::{block, embed, embed_backward, head_loss, norm};
pub use carrier::Carrier;
pub use config::{BlockConfig, BlockWeights, IGNORED, Keep, LossTerms, Norm, NormKind, Sums};
pub use cpu::{Compute, Cpu, release_buffers};
pub use decoder::Decoder;
pub use device::{Device, HeadOutput, Life, QkNorms};
pub use global_norm::{NORM_CHUNK, clip_coefficient, global_norm, norm_of, square_sums};
pub use linear::{Linear, Trained, Weight};
pub use matrix::{Elements, MappedBytes, Matrices, Matrix, Plain, RowScaled};
pub use quantized::{BLOCK, BlockType};
pub use rope::{Placed, Places, Rope, RopeConfig, RopeScaling, Yarn};
pub use tree::TokenTree;
