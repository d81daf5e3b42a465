//! [`Compute`]: the backend of an operation.

use burn::tensor::{DType, Device, Tensor};

use super::host::Host as _;
#[cfg(feature = "libtorch")]
use super::libtorch;
use crate::fused::Kernels;

/// Runs an expression with `$backend` as the Burn backend of a [`Compute`].
macro_rules! with_backend {
    ($compute:expr, $backend:ident => $body:expr) => {
        match $compute {
            $crate::nodes::compute::Compute::Flex => {
                type $backend = burn::backend::Flex;
                $body
            }
            #[cfg(feature = "libtorch")]
            $crate::nodes::compute::Compute::LibTorch => {
                type $backend = $crate::nodes::libtorch::LibTorch;
                $body
            }
        }
    };
}
pub(super) use with_backend;

/// The backend of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// The CPU, in pure Rust; Burn's flex holds the tensors.
    #[default]
    Flex,
    /// The CPU, with products and attention by libtorch, which also holds the tensors.
    #[cfg(feature = "libtorch")]
    LibTorch,
}

impl Compute {
    /// All backends of this build.
    pub const ALL: &[Compute] = &[
        Compute::Flex,
        #[cfg(feature = "libtorch")]
        Compute::LibTorch,
    ];

    /// Its name in params and records.
    pub fn name(self) -> &'static str {
        match self {
            Compute::Flex => "flex",
            #[cfg(feature = "libtorch")]
            Compute::LibTorch => "libtorch",
        }
    }

    /// The backend with this name, if this build has it.
    pub fn named(name: &str) -> Option<Compute> {
        Compute::ALL.iter().copied().find(|compute| compute.name() == name)
    }

    /// Must be called before the first operation: configures libtorch's use of threads.
    pub fn prepare(self) {
        #[cfg(feature = "libtorch")]
        if self == Compute::LibTorch {
            olmo_torch::keep_to_one_thread();
        }
    }

    /// Its matrix-multiply backend.
    pub fn kernels(self) -> Kernels {
        with_backend!(self, B => B::KERNELS)
    }

    /// Its Burn device, without autodiff.
    pub fn device(self) -> Device {
        match self {
            Compute::Flex => Device::flex(),
            #[cfg(feature = "libtorch")]
            Compute::LibTorch => libtorch::device(),
        }
    }

    /// The backend that serves `tensor`, if any: f32 in host memory.
    pub(super) fn serving<const D: usize>(tensor: &Tensor<D>) -> Option<Compute> {
        let device = tensor.device().without_autodiff();
        Compute::ALL.iter().copied().find(|compute| tensor.dtype() == DType::F32 && compute.device() == device)
    }
}
