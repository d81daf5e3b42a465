//! Tensors of libtorch on the CPU: they are in host memory, so the fused bodies work on them in
//! place.

use burn::backend::autodiff::ops::NodeGuard;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Device, Tensor};
use burn_tch::TchTensor;

use super::host::{Host, conversions};
use crate::fused::Kernels;

pub(crate) use burn::backend::LibTorch;

/// Its Burn device.
pub(super) fn device() -> Device {
    Device::libtorch()
}

impl Host for LibTorch {
    const KERNELS: Kernels = Kernels::LibTorch;

    fn contiguous(tensor: TchTensor) -> TchTensor {
        match olmo_torch::as_contiguous_f32(&tensor.tensor) {
            None => tensor,
            Some(made) => TchTensor::new(made),
        }
    }

    fn elements(tensor: &TchTensor) -> &[f32] {
        // All holders share the tensor: Burn writes in place only to a tensor with one owner.
        olmo_torch::elements(&tensor.tensor).expect("primitives are made contiguous when they are taken in")
    }

    fn primitive(values: Vec<f32>, shape: &[usize]) -> TchTensor {
        TchTensor::new(olmo_torch::tensor(&values, shape))
    }

    conversions!();
}
