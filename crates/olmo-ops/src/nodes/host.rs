//! Backends whose tensors are in host memory, where the fused bodies read them in place.

use std::ops::Deref;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::ops::NodeGuard;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex};
use burn::tensor::{DType, Device, FloatDType, GradientCheckpointingStrategy, Tensor, TensorData};

use crate::fused::Kernels;

/// Runs an expression with `$backend` as the Burn backend of a [`Compute`].
macro_rules! with_backend {
    ($compute:expr, $backend:ident => $body:expr) => {
        match $compute {
            $crate::nodes::Compute::Flex => {
                type $backend = burn::backend::Flex;
                $body
            }
            #[cfg(feature = "libtorch")]
            $crate::nodes::Compute::LibTorch => {
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
            Compute::LibTorch => super::libtorch::device(),
        }
    }

    /// The backend whose fused bodies serve `tensor`, if any: f32 or bf16 in host memory, without
    /// Burn's own checkpointing.
    pub(super) fn serving<const D: usize>(tensor: &Tensor<D>) -> Option<Compute> {
        let recomputes = tensor.is_autodiff()
            && tensor.gradient_checkpointing_strategy() != Some(GradientCheckpointingStrategy::Disabled);
        if recomputes || !matches!(tensor.dtype(), DType::F32 | DType::BF16) {
            return None;
        }
        let device = tensor.device().without_autodiff();
        Compute::ALL.iter().copied().find(|compute| compute.device() == device)
    }
}

/// The autodiff backend that fused nodes join.
pub(crate) type Tracked<B> = Autodiff<B, NoCheckpointing>;

/// A backend whose tensors are in host memory.
///
/// The conversions to and from [`Tensor`] cannot be written for all backends at once: see
/// `conversions`.
pub(super) trait Host: Backend {
    /// Its matrix-multiply backend.
    const KERNELS: Kernels;

    /// An f32 primitive whose elements [`Host::elements`] can return; no copy if it already is one.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The elements of a contiguous f32 primitive.
    fn elements(tensor: &FloatTensor<Self>) -> &[f32];

    /// Creates a primitive from `values`.
    fn primitive(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self>;

    /// A tensor without autodiff, as a contiguous f32 primitive.
    fn plain<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self>;

    /// A tensor with autodiff, as a contiguous f32 primitive and its node in the graph.
    fn tracked<const D: usize>(tensor: Tensor<D>) -> (FloatTensor<Self>, NodeGuard);

    /// The tensor of a primitive.
    fn tensor<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D>;

    /// The tensor of a primitive in a graph.
    fn tracked_tensor<const D: usize>(primitive: FloatTensor<Tracked<Self>>) -> Tensor<D>;

    /// Creates a primitive of `dtype` from `values`.
    fn of(values: Vec<f32>, shape: &[usize], dtype: DType) -> FloatTensor<Self> {
        let primitive = Self::primitive(values, shape);
        match dtype {
            DType::F32 => primitive,
            other => Self::float_cast(primitive, float(other)),
        }
    }
}

/// The invariant checked by `Compute::serving`.
pub(crate) const SERVED: &str = "all inputs of a fused operation are on one device, all with autodiff or all without";

fn float(dtype: DType) -> FloatDType {
    if dtype == DType::BF16 { FloatDType::BF16 } else { FloatDType::F32 }
}

/// The parts of [`Host`] that differ per backend: conversions between primitives and tensors.
macro_rules! conversions {
    () => {
        fn plain<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self> {
            Self::contiguous(tensor.try_into_primitive::<Self>().expect($crate::nodes::host::SERVED))
        }

        fn tracked<const D: usize>(tensor: Tensor<D>) -> (FloatTensor<Self>, NodeGuard) {
            let tensor = tensor.try_into_primitive::<$crate::nodes::host::Tracked<Self>>();
            let (primitive, node) = tensor.expect($crate::nodes::host::SERVED).into_parts();
            (Self::contiguous(primitive), node)
        }

        fn tensor<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D> {
            Tensor::from_primitive::<Self>(primitive)
        }

        fn tracked_tensor<const D: usize>(primitive: FloatTensor<$crate::nodes::host::Tracked<Self>>) -> Tensor<D> {
            Tensor::from_primitive::<$crate::nodes::host::Tracked<Self>>(primitive)
        }
    };
}
#[cfg(feature = "libtorch")]
pub(super) use conversions;

impl Host for Flex {
    const KERNELS: Kernels = Kernels::Rust;

    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let tensor = if tensor.dtype() == DType::F32 { tensor } else { Self::float_cast(tensor, FloatDType::F32) };
        if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
    }

    fn elements(tensor: &FloatTensor<Self>) -> &[f32] {
        tensor.as_slice::<f32>().expect("primitives are made contiguous when they are taken in")
    }

    fn primitive(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self> {
        FloatTensor::<Self>::from_data(TensorData::new(values, shape.to_vec()))
    }

    conversions!();
}

/// The f32 elements of a tensor, row-major. Shares the tensor's memory where the fused bodies serve
/// f32, otherwise holds a copy.
#[derive(Clone, Debug)]
pub struct HostSlice(Memory);

#[derive(Clone, Debug)]
enum Memory {
    Flex(FloatTensor<Flex>),
    #[cfg(feature = "libtorch")]
    LibTorch(FloatTensor<super::libtorch::LibTorch>),
    Copied(Vec<f32>),
}

impl HostSlice {
    /// The elements of `tensor`, for any device and precision.
    pub fn new<const D: usize>(tensor: &Tensor<D>) -> HostSlice {
        let tensor = tensor.clone().without_autodiff();
        HostSlice(match Compute::serving(&tensor) {
            Some(Compute::Flex) => Memory::Flex(Flex::plain(tensor)),
            #[cfg(feature = "libtorch")]
            Some(Compute::LibTorch) => Memory::LibTorch(super::libtorch::LibTorch::plain(tensor)),
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
            Memory::LibTorch(tensor) => super::libtorch::LibTorch::elements(tensor),
            Memory::Copied(values) => values,
        }
    }
}
