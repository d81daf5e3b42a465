//! [`HostSlice`]: the elements of any tensor, read in place if they are in host memory.

use std::ops::Deref;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor};

use super::compute::Compute;
use super::host::Host as _;
#[cfg(feature = "libtorch")]
use super::libtorch::LibTorch;

/// The f32 elements of a tensor, row-major. Shares the tensor's memory where the fused bodies serve
/// f32, otherwise holds a copy.
#[derive(Clone, Debug)]
pub struct HostSlice(Memory);

#[derive(Clone, Debug)]
enum Memory {
    Flex(FloatTensor<Flex>),
    #[cfg(feature = "libtorch")]
    LibTorch(FloatTensor<LibTorch>),
    Copied(Vec<f32>),
}

impl HostSlice {
    /// The elements of `tensor`, for any device and precision.
    pub fn new<const D: usize>(tensor: &Tensor<D>) -> HostSlice {
        let tensor = tensor.clone().without_autodiff();
        HostSlice(match Compute::serving(&tensor) {
            Some(Compute::Flex) => Memory::Flex(Flex::plain(tensor)),
            #[cfg(feature = "libtorch")]
            Some(Compute::LibTorch) => Memory::LibTorch(LibTorch::plain(tensor)),
            None => Memory::Copied(tensor.cast(DType::F32).into_data().iter::<f32>().collect()),
        })
    }
}

impl Deref for HostSlice {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Memory::Flex(tensor) => Flex::elements(tensor),
            #[cfg(feature = "libtorch")]
            Memory::LibTorch(tensor) => LibTorch::elements(tensor),
            Memory::Copied(values) => values,
        }
    }
}
