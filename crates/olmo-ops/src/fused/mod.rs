//! The fused bodies: hand-written forward and backward passes over f32 slices, with row-major
//! matrices.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod block;
mod buffer;
pub mod embedding;
mod gemm;
pub mod head;
mod kernels;
mod math;
mod matrix;
pub mod norm;
mod qkv;
mod shared;
mod swiglu;

pub use buffer::release_buffers;
pub use kernels::Kernels;
pub(crate) use math::{dot, exp, maximum, multiversion, sum};
pub(crate) use qkv::prepare_row;
