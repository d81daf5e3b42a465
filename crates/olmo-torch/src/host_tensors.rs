//! Matrices in the host's memory, in f32.

use tch::{Device, Kind, Tensor};

/// A matrix in f32 memory.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Its first element.
    pub start: *const f32,
    /// Rows and columns.
    pub size: [usize; 2],
    /// Row stride and column stride, in elements.
    pub strides: [usize; 2],
}

impl Matrix {
    /// # Safety
    /// All elements are in memory that outlives the tensor.
    unsafe fn tensor(self) -> Tensor {
        // SAFETY: guaranteed by the caller.
        unsafe { view(self.start, &self.size.map(|n| n as i64), &self.strides.map(|n| n as i64)) }
    }
}

/// # Safety
/// All elements are in memory that outlives the tensor.
pub(crate) unsafe fn view(start: *const f32, size: &[i64], strides: &[i64]) -> Tensor {
    // SAFETY: guaranteed by the caller.
    unsafe { Tensor::from_blob(start.cast(), size, strides, Kind::Float, Device::Cpu) }
}

/// `c = a b`, or `c += a b` with `add`; `c` is row-major with a row stride of `c_stride`.
///
/// # Safety
/// The matrices are in readable memory (`c`: writable), and `c` does not overlap anything in use.
///
/// # Panics
/// Sizes do not match, or libtorch runs out of memory.
pub unsafe fn gemm(a: Matrix, b: Matrix, c: *mut f32, c_stride: usize, add: bool) {
    // SAFETY: guaranteed by the caller; the tensors do not outlive this call.
    let (a, b, mut c) = unsafe {
        let size = [a.size[0] as i64, b.size[1] as i64];
        (a.tensor(), b.tensor(), view(c, &size, &[c_stride as i64, 1]))
    };
    let _ = if add { c.addmm_(&a, &b) } else { a.mm_out(&c, &b) };
}
