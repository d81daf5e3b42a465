//! The model: its loss, its gradients and generation.

mod batch;
mod generate;
#[expect(clippy::module_inception, reason = "the folder is named after its type")]
mod model;
#[cfg(feature = "libtorch")]
mod on_gpu;

pub use batch::{Batch, LossOptions, LossOutput};
pub use generate::{GenerateOptions, generate};
pub use model::Model;
