//! [`Host`]: backends whose tensors are in host memory, where the fused bodies read them in place.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::ops::NodeGuard;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex};
use burn::tensor::{Tensor, TensorData};

use crate::fused::Kernels;

/// The autodiff backend that fused nodes join.
pub(crate) type Tracked<B> = Autodiff<B, NoCheckpointing>;

/// A backend whose tensors are in host memory.
///
/// The conversions to and from [`Tensor`] cannot be written for all backends at once: see
/// `conversions`.
pub(super) trait Host: Backend {
    /// Its matrix-multiply backend.
    const KERNELS: Kernels;

    /// A primitive whose elements [`Host::elements`] can return; no copy if it already is one.
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
}

/// What the conversions require.
pub(crate) const SERVED: &str = "the input is on the device of the weights, with autodiff if gradients are needed";

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
        if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
    }

    fn elements(tensor: &FloatTensor<Self>) -> &[f32] {
        tensor.as_slice::<f32>().expect("f32, and made contiguous when taken in")
    }

    fn primitive(values: Vec<f32>, shape: &[usize]) -> FloatTensor<Self> {
        FloatTensor::<Self>::from_data(TensorData::new(values, shape.to_vec()))
    }

    conversions!();
}
