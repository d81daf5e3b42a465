//! Tensors on a device: creation, transfer, and products with f32 sums.

use tch::{Device, Kind, Tensor};

use crate::shim;

fn sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&n| n as i64).collect()
}

/// Uninitialised memory.
///
/// # Panics
/// The device is out of memory; the message is libtorch's.
pub fn empty(shape: &[usize], kind: Kind, device: Device) -> Tensor {
    Tensor::empty(sizes(shape), (kind, device))
}

/// Copies `values` to a device as f32; waits for a GPU.
pub fn upload(values: &[f32], device: Device) -> Tensor {
    Tensor::from_slice(values).to_device(device)
}

/// Copies the bits of bf16 elements to a device; waits for a GPU.
pub fn upload_bf16(bits: &[u16], device: Device) -> Tensor {
    // SAFETY: a view of the slice, which outlives it; on a CPU it is copied.
    let host =
        unsafe { Tensor::from_blob(bits.as_ptr().cast(), &[bits.len() as i64], &[], Kind::BFloat16, Device::Cpu) };
    if device.is_cuda() { host.to_device(device) } else { host.copy() }
}

/// Copies integers to a device, like [`upload_beside`].
pub fn upload_integers(values: &[i64], device: Device) -> Tensor {
    upload_beside(Tensor::from_slice(values), device)
}

/// Copies a host tensor to a device. On a GPU, the copy is asynchronous, from pinned memory.
pub(crate) fn upload_beside(host: Tensor, device: Device) -> Tensor {
    if !device.is_cuda() || host.numel() == 0 {
        return host.to_device(device);
    }
    let kind = host.kind();
    let pinned = shim::pinned(&host).unwrap_or_else(|words| panic!("libtorch does not pin memory: {words}"));
    // libtorch keeps the pinned memory until the copy is complete.
    pinned.to_device_(device, kind, true, false)
}

/// The elements of a tensor; waits for the device.
///
/// # Panics
/// The tensor is of another kind.
pub fn download<T: Copy + tch::kind::Element>(tensor: &Tensor) -> Vec<T> {
    assert_eq!(tensor.kind(), T::KIND, "the tensor holds what is read");
    let mut values = vec![T::ZERO; tensor.numel()];
    if values.is_empty() {
        return values;
    }
    // SAFETY: a view of the vector, which outlives it; the copy is complete when it returns.
    let mut host = unsafe { Tensor::from_blob(values.as_mut_ptr().cast(), &tensor.size(), &[], T::KIND, Device::Cpu) };
    host.copy_(tensor);
    drop(host);
    values
}

/// `sum = left right`, or `sum += left right` with `add`; `sum` is always f32, so that small terms
/// are not lost.
pub fn add_product(sum: &Tensor, left: &Tensor, right: &Tensor, add: bool) {
    let wide = |x: &Tensor| x.to_kind(Kind::Float);
    // libtorch multiplies bf16 into f32 only on GPUs.
    let (left, right) =
        if sum.device().is_cuda() { (left.shallow_clone(), right.shallow_clone()) } else { (wide(left), wide(right)) };
    let _ = match (left.kind(), add) {
        (Kind::Float, true) => sum.addmm_out(sum, &left, &right),
        (Kind::Float, false) => left.mm_out(sum, &right),
        (_, true) => sum.addmm_dtype_out(sum, &left, &right, Kind::Float),
        (_, false) => left.mm_dtype_out(sum, &right, Kind::Float),
    };
}
