//! What olmo-pipe takes from libtorch, as functions over f32 memory: matrix products, attention, and what there is to compute on.
//!
//! The names of `tch` end here and in the nodes of `olmo-ops`: whoever replaces the library replaces these two. Everything runs in
//! the thread that calls it ([`keep_to_one_thread`]); `olmo-ops` divides the work itself, in the same pieces every time.

mod attention;
mod device;
mod device_attention;
mod devices;
mod kernels;
mod shim;

pub use attention::{AttentionShape, attention_backward, attention_forward};
pub use device::{add_product, download, download_doubles, empty, upload, upload_integers};
pub use device_attention::{
    AttentionKept, AttentionKernel, DeviceAttention, Documents, cudnn_refusal, device_attention_backward,
    device_attention_forward, device_attention_forward_by,
};
pub use devices::{Cuda, cuda, emulated};
pub use kernels::{Argument, Element, KernelError, KernelFolders, Kernels, compile, compiler, cubin_name, memory};
pub use shim::{allow_tf32, tf32_allowed};
pub use tch::{Device as Place, Device, Kind, Tensor};

/// The version that this was built and tested with.
pub const VERSION: &str = "2.11.0";

/// A matrix in f32 memory.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Its first element.
    pub start: *const f32,
    /// Rows and columns.
    pub size: [usize; 2],
    /// Elements from one row, and from one column, to the next.
    pub strides: [usize; 2],
}

impl Matrix {
    /// # Safety
    /// All elements lie in memory that outlives the tensor.
    unsafe fn tensor(self) -> Tensor {
        // SAFETY: the caller's promise.
        unsafe { view(self.start, &self.size.map(|n| n as i64), &self.strides.map(|n| n as i64)) }
    }
}

/// # Safety
/// All elements lie in memory that outlives the tensor.
unsafe fn view(start: *const f32, size: &[i64], strides: &[i64]) -> Tensor {
    // SAFETY: the caller's promise.
    unsafe { Tensor::from_blob(start.cast(), size, strides, Kind::Float, Device::Cpu) }
}

/// `c = a b`, or `c += a b` with `add`; `c` is row-major with `c_stride` elements from one row to the next.
///
/// # Safety
/// The matrices lie in memory that may be read (`c`: written), and `c` overlaps nothing that is in use.
///
/// # Panics
/// Sizes do not fit, or libtorch runs out of memory.
pub unsafe fn gemm(a: Matrix, b: Matrix, c: *mut f32, c_stride: usize, add: bool) {
    // SAFETY: the caller's promise; the tensors end with this call.
    let (a, b, mut c) = unsafe {
        let size = [a.size[0] as i64, b.size[1] as i64];
        (a.tensor(), b.tensor(), view(c, &size, &[c_stride as i64, 1]))
    };
    let _ = if add { c.addmm_(&a, &b) } else { a.mm_out(&c, &b) };
}

/// A tensor on the CPU around a copy of `values`.
///
/// # Panics
/// Their number is not that of `shape`.
pub fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    Tensor::from_slice(values).reshape(&shape)
}

/// A contiguous f32 version of a tensor, unless it is that itself.
pub fn as_contiguous_f32(tensor: &Tensor) -> Option<Tensor> {
    let is_one = tensor.kind() == Kind::Float && tensor.is_contiguous();
    (!is_one).then(|| tensor.to_kind(Kind::Float).contiguous())
}

/// The elements of a contiguous tensor of f32 on the CPU; `None` if it is not one.
pub fn elements(tensor: &Tensor) -> Option<&[f32]> {
    if tensor.kind() != Kind::Float || !tensor.is_contiguous() || tensor.device() != Device::Cpu {
        return None;
    }
    if tensor.numel() == 0 {
        return Some(&[]);
    }
    // SAFETY: such a tensor has so many f32 behind its pointer, for as long as it lives.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast_const().cast(), tensor.numel()) })
}

/// Lets libtorch use the calling thread alone, for good: its own threads and those of this program would be in each other's way.
pub fn keep_to_one_thread() {
    tch::set_num_threads(1);
}
