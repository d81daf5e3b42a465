//! [`Carrier`]: the Burn backends whose tensors carry activations.

// Burn 0.22 is the last version with libtorch, and deprecates every use (docs/decisions.md).
#![cfg_attr(feature = "libtorch", allow(deprecated))]

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::ops::NodeGuard;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex};
use burn::tensor::Tensor;

/// The autodiff backend that nodes join.
pub(crate) type Tracked<B> = Autodiff<B, NoCheckpointing>;

/// A Burn backend whose tensors carry activations. Burn offers these conversions only for concrete
/// backends.
pub trait Carrier: Backend {
    /// The primitive of a tensor, which leaves its graph.
    fn plain<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self>;

    /// The primitive of a tensor with autodiff, and its node in the graph.
    fn tracked<const D: usize>(tensor: Tensor<D>) -> (FloatTensor<Self>, NodeGuard);

    /// The tensor of a primitive.
    fn tensor<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D>;

    /// The tensor of a primitive in a graph.
    fn tracked_tensor<const D: usize>(primitive: FloatTensor<Autodiff<Self, NoCheckpointing>>) -> Tensor<D>;
}

const SAME_DEVICE: &str = "the input is on the device of the weights, with autodiff if they train";

macro_rules! carrier {
    ($backend:ty) => {
        impl Carrier for $backend {
            fn plain<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Self> {
                tensor.without_autodiff().try_into_primitive::<Self>().expect(SAME_DEVICE)
            }

            fn tracked<const D: usize>(tensor: Tensor<D>) -> (FloatTensor<Self>, NodeGuard) {
                tensor.try_into_primitive::<Tracked<Self>>().expect(SAME_DEVICE).into_parts()
            }

            fn tensor<const D: usize>(primitive: FloatTensor<Self>) -> Tensor<D> {
                Tensor::from_primitive::<Self>(primitive)
            }

            fn tracked_tensor<const D: usize>(primitive: FloatTensor<Tracked<Self>>) -> Tensor<D> {
                Tensor::from_primitive::<Tracked<Self>>(primitive)
            }
        }
    };
}

carrier!(Flex);
#[cfg(feature = "libtorch")]
carrier!(burn::backend::LibTorch);
