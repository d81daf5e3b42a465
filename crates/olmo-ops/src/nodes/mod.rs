//! The operations on Burn tensors: each as one autodiff node around its fused body where that serves, else its reference body.

mod block;
mod embedding;
mod flat;
mod head;
mod host;
mod norm;

use burn::backend::Flex;
use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::ops::NodeGuard;
use burn::tensor::{DType, Device, GradientCheckpointingStrategy, Tensor, TensorData};
use burn_flex::FlexTensor;

pub use block::{BlockTensors, Placed, block};
pub use embedding::embedding;
pub use flat::{Flat, block_flat, embed, embed_backward, head_logits_flat, head_loss_flat, norm_flat};
pub use head::{HeadLoss, head_logits, head_loss};
pub use host::HostSlice;
pub use norm::norm;

/// The autodiff backend that fused nodes join.
type Tracked = Autodiff<Flex, NoCheckpointing>;

/// Whether the fused bodies serve a tensor: f32 on flex, without Burn's own recomputation.
fn serves<const D: usize>(tensor: &Tensor<D>) -> bool {
    let recomputes = tensor.is_autodiff()
        && tensor.gradient_checkpointing_strategy() != Some(GradientCheckpointingStrategy::Disabled);
    tensor.dtype() == DType::F32 && !recomputes && tensor.device().without_autodiff() == Device::flex()
}

/// What `serves` has established.
const SERVED: &str = "the fused bodies are only used for f32 on flex, all inputs with autodiff or all without";

/// A tensor without autodiff as its flex primitive, contiguous; no copy if it already is.
fn plain<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    contiguous(tensor.try_into_primitive::<Flex>().expect(SERVED))
}

/// A tensor with autodiff as its flex primitive, contiguous, and its place in the graph.
fn tracked<const D: usize>(tensor: Tensor<D>) -> (FlexTensor, NodeGuard) {
    let (primitive, node) = tensor.try_into_primitive::<Tracked>().expect(SERVED).into_parts();
    (contiguous(primitive), node)
}

fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The elements of a contiguous primitive.
fn elements(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().expect("primitives are made contiguous when they are taken in")
}

/// A primitive around `values`; no copy.
fn primitive(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}
