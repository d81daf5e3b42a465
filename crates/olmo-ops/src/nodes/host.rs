//! Backends whose tensors lie in the host's memory, where the fused bodies read them in place.

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

/// Where operations compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// The CPU, in pure Rust; Burn's flex holds the tensors.
    #[default]
    Flex,
    /// The CPU, with products and attention by libtorch, which holds the tensors too.
    #[cfg(feature = "libtorch")]
    LibTorch,
}

impl Compute {
    /// All that this build has.
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

    /// The one with this name, if this build has it.
    pub fn named(name: &str) -> Option<Compute> {
        Compute::ALL.iter().copied().find(|compute| compute.name() == name)
    }

    /// To be called before the first operation: settles what libtorch may use of the machine.
    pub fn prepare(self) {
        #[cfg(feature = "libtorch")]
        if self == Compute::LibTorch {
            olmo_torch::keep_to_one_thread();
        }
    }

    /// Who multiplies there.
    pub fn kernels(self) -> Kernels {
        with_backend!(self, B => B::KERNELS)
    }

    /// Burn's device for it, without autodiff.
    pub fn device(self) -> Device {
        match self {
            Compute::Flex => Device::flex(),
            #[cfg(feature = "libtorch")]
            Compute::LibTorch => super::libtorch::device(),
        }
    }

    /// Where the fused bodies serve `tensor`, if they do: f32 or bf16 in the host's memory, without Burn's own recomputation.
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

/// A backend whose tensors lie in the host's memory.
///
/// The two conversions to and from [`Tensor`] cannot be written for all backends at once: see `conversions`.
pub(super) trait Host: Backend {
    /// Who multiplies for it.
    const KERNELS: Kernels;

    /// A primitive of f32 whose elements [`Host::elements`] can give; no copy if it already is one.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The elements of a contiguous primitive of f32.
    fn elements(tensor: &FloatTensor<Self>) -> &[f32];

    /// A primitive around `values`.
    fn primitive(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self>;

    /// A tensor without autodiff as a contiguous primitive of f32.
    fn plain<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self>;

    /// A tensor with autodiff as a contiguous primitive of f32, and its place in the graph.
    fn tracked<const D: usize>(tensor: Tensor<D>) -> (FloatTensor<Self>, NodeGuard);

    /// The tensor of a primitive.
    fn tensor<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D>;

    /// The tensor of a primitive in a graph.
    fn tracked_tensor<const D: usize>(primitive: FloatTensor<Tracked<Self>>) -> Tensor<D>;

    /// A primitive of `dtype` around `values`.
    fn of(values: Vec<f32>, shape: &[usize], dtype: DType) -> FloatTensor<Self> {
        let primitive = Self::primitive(values, shape);
        match dtype {
            DType::F32 => primitive,
            other => Self::float_cast(primitive, float(other)),
        }
    }
}

/// What `Compute::serving` has established.
pub(crate) const SERVED: &str = "all inputs of a fused operation are on one device, all with autodiff or all without";

fn float(dtype: DType) -> FloatDType {
    if dtype == DType::BF16 { FloatDType::BF16 } else { FloatDType::F32 }
}

/// What a [`Host`] cannot say for all backends: how its primitives become tensors and back.
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

/// The f32 elements of a tensor, row-major; shares the tensor's memory where the fused bodies serve f32, else holds a copy.
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
    /// The elements of `tensor`, whatever its device and precision.
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
