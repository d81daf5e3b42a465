//! The formats of a model folder: our own, Hugging Face's, OLMo-core's, OLMo's and GGUF.
//!
//! Each format gives a config, the names of its tensors and their places in the flat array, and the
//! tensors of its files. [`StoredModel`] reads weights from these, whatever the format.

mod compare_weights;
mod file_names;
mod files;
mod folder;
mod format;
mod gguf;
mod huggingface;
mod json;
mod lfs_pointer;
mod load;
mod native;
mod olmo;
mod parts;
mod stored_model;
mod tensors;

pub use compare_weights::{WeightComparison, compare_weights};
pub use file_names::{CONFIG_FILE, GGUF_FILE, WEIGHTS_FILE};
pub use gguf::{GgufRounded, GgufType, GgufValue, Metadata as GgufMetadata, read_gguf_metadata, save_gguf};
pub use huggingface::save_huggingface;
pub use load::{
    examine, examine_trainer_state, has_known_names, load, load_optimizer_state, load_trainer_state, map,
    map_unchecked, open, read_config,
};
pub use native::{load_native, save_native};
pub use olmo::{Done, OptimizerState, TrainerState, save_olmo, save_olmo_core};
pub use stored_model::StoredModel;
