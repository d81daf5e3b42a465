//! OLMo 1, 2 and 3 language models: config, weights, loss, gradients, generation, and the file
//! formats of OLMo and Hugging Face.
//!
//! The model is plain Burn around the operations of `olmo-ops`. Its weights form one flat array
//! ([`Parameters`]), on which optimizer, checkpoints and gradient exchange work without knowing the
//! architecture.

mod batch;
mod checkpointing;
mod compare;
mod config;
mod error;
mod examine;
mod files;
mod folder;
mod generate;
mod huggingface;
mod init;
mod layout;
mod memory;
mod model;
mod native;
#[cfg(feature = "libtorch")]
mod on_gpu;
mod parameters;
mod random;
mod tensors;
mod weight_type;

pub use batch::{Batch, LossOptions, LossOutput};
pub use checkpointing::ActivationCheckpointing;
pub use compare::{WeightComparison, compare_weights};
pub use config::{InitFnType, LayerNormType, ModelConfig};
pub use error::ModelError;
pub use examine::examine;
pub use files::CONFIG_FILE;
pub use generate::{GenerateOptions, generate};
pub use huggingface::{load_huggingface, save_huggingface};
pub use layout::{TensorSpec, weights};
pub use memory::{Computes, MemoryEstimate};
pub use model::Model;
pub use native::{load, load_native, save_native};
pub use olmo_ops::Compute;
#[cfg(feature = "libtorch")]
pub use olmo_ops::device;
pub use parameters::Parameters;
pub use tensors::WEIGHTS_FILE;
pub use weight_type::WeightType;
