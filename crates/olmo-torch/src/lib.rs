//! The functions that olmo-pipe uses from libtorch, over f32 memory: matrix products, attention,
//! and device queries.
//!
//! `tch` is used only here and in the nodes of `olmo-ops`, so replacing the library means replacing
//! these two. Everything runs in the calling thread ([`keep_to_one_thread`]); `olmo-ops` divides
//! the work itself, always into the same pieces.

mod device;
mod device_attention;
mod devices;
mod host_tensors;
mod kernels;
mod shim;

pub use device::{add_product, download, empty, upload, upload_bf16, upload_integers};
pub use device_attention::{
    AttentionKept, AttentionKernel, DeviceAttention, Documents, attention_backward, attention_forward, cudnn_refusal,
    device_attention_backward, device_attention_forward, device_attention_forward_by,
};
pub use devices::{Cuda, cuda, emulated};
pub use host_tensors::{Matrix, gemm};
pub use kernels::{Argument, Element, KernelError, KernelFolders, Kernels, compile, compiler, cubin_name, memory};
pub use shim::{allow_tf32, tf32_allowed};
pub use tch::{Device as Place, Device, Kind, Tensor};

/// The libtorch version used for building and testing.
pub const VERSION: &str = "2.11.0";

/// Restricts libtorch to the calling thread permanently: its own threads would compete with those
/// of this program.
pub fn keep_to_one_thread() {
    tch::set_num_threads(1);
}
