//! [`Learner`]: computes gradients and updates weights, on the host or on a GPU.

mod create;
#[cfg(feature = "libtorch")]
mod gpu;
mod host;
#[expect(clippy::module_inception, reason = "the folder is named after its trait")]
mod learner;
mod objective;
mod optimizer;
mod reduce;

pub(crate) use create::{Spec, create};
pub use create::{computes, free_memory};
pub use learner::{Learner, LearnerState, Step};
pub use objective::{CrossEntropy, LossNorm, ModelOutput, Objective, StepSize};
pub use optimizer::OptimizerSettings;
pub use reduce::Reduce;
