//! A tensor's elements on the host.

use std::ops::Deref;

use burn::tensor::{DType, Tensor};
use burn_flex::FlexTensor;

use super::{elements, plain, serves};

/// The f32 elements of a tensor, row-major; shares the tensor's memory where the fused bodies serve, else holds a copy.
#[derive(Clone, Debug)]
pub struct HostSlice(Memory);

#[derive(Clone, Debug)]
enum Memory {
    Shared(FlexTensor),
    Copied(Vec<f32>),
}

impl HostSlice {
    /// The elements of `tensor`, whatever its device and precision.
    pub fn new<const D: usize>(tensor: &Tensor<D>) -> HostSlice {
        let tensor = tensor.clone().without_autodiff();
        if serves(&tensor) {
            return HostSlice(Memory::Shared(plain(tensor)));
        }
        HostSlice(Memory::Copied(tensor.cast(DType::F32).into_data().iter::<f32>().collect()))
    }
}

impl Deref for HostSlice {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Memory::Shared(tensor) => elements(tensor),
            Memory::Copied(values) => values,
        }
    }
}
