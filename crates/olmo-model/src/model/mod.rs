//! The model in training: its loss and its gradients.

mod batch;
#[expect(clippy::module_inception, reason = "the folder is named after its type")]
mod model;
#[cfg(feature = "libtorch")]
mod on_gpu;
mod ropes;

pub use batch::{Batch, LossOptions, LossOutput};
pub use model::Model;
pub use ropes::Ropes;
