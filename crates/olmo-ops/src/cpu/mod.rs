//! [`Cpu`]: hand-written forward and backward passes over f32 slices, with row-major matrices.

mod array;
mod attention;
mod buffer;
mod decoder;
mod device;
mod embedding;
mod head;
mod math;
mod matmul;
pub(crate) mod norm;
mod qkv;
mod shared;
mod swiglu;

pub use buffer::release_buffers;
pub use device::Cpu;
#[cfg(target_arch = "x86_64")]
pub(crate) use math::Vectors;
pub(crate) use math::multiversion;
pub use matmul::Compute;
