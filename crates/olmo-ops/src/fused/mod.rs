//! The fused bodies: hand-written forward and backward passes over f32 slices, with row-major
//! matrices.

mod attention;
pub mod block;
mod buffer;
pub mod embedding;
pub mod head;
mod math;
mod matmul;
pub mod norm;
mod qkv;
mod shared;
mod swiglu;

pub use buffer::release_buffers;
pub(crate) use math::{dot, exp, maximum, multiversion, sum};
pub use matmul::Kernels;
pub(crate) use qkv::prepare_row;
