//! OLMo 1, 2 and 3 language models: config, weights, loss, gradients, and the file formats of OLMo
//! and Hugging Face. `olmo-infer` runs them without gradients.
//!
//! The model is plain Burn around the operations of `olmo-ops`. Its weights form one flat array
//! ([`Parameters`]), on which optimizer, checkpoints and gradient exchange work without knowing the
//! architecture.

mod checkpointing;
mod config;
mod error;
mod formats;
mod layout;
mod memory;
mod model;
mod parameters;
mod vocabulary;
mod weight_source;
mod weight_type;

pub use checkpointing::ActivationCheckpointing;
pub use config::{InitFnType, LayerNormType, MissingFields, ModelConfig, ModelParams, RopeScaling, Vocabulary};
pub use error::{CodedModelError, ModelError};
pub use formats::{
    CONFIG_FILE, Done, GGUF_FILE, GgufMetadata, GgufRounded, GgufType, GgufValue, OptimizerState, StoredModel,
    TrainerState, WEIGHTS_FILE, WeightComparison, compare_weights, examine, examine_trainer_state, has_known_names,
    load, load_native, load_optimizer_state, load_trainer_state, map, map_unchecked, open, read_config,
    read_gguf_metadata, save_gguf, save_huggingface, save_native, save_olmo, save_olmo_core,
};
pub use layout::{ModelWeights, TensorSpec, trained, vectors, weights};
pub use memory::{Computes, MemoryEstimate};
pub use model::{Batch, LossOptions, LossOutput, Model, Ropes};
#[cfg(feature = "libtorch")]
pub use olmo_ops::cuda as device;
pub use olmo_ops::{BlockType, Compute, Matrices, Matrix, Trained};
pub use parameters::Parameters;
pub use vocabulary::VocabularyMismatch;
pub use weight_source::{ResizedVocabulary, Rounded, WeightSource, differing_tensors};
pub use weight_type::WeightType;
