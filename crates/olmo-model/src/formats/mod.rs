//! The formats of a model folder: our own and Hugging Face's.

mod compare_weights;
mod examine;
mod file_names;
mod folder;
mod format;
mod huggingface;
mod json;
mod lfs_pointer;
mod load;
mod native;
mod olmo;
mod parts;
mod weight_files;

pub use compare_weights::{WeightComparison, compare_weights};
pub use examine::examine;
pub use file_names::{CONFIG_FILE, WEIGHTS_FILE};
pub use huggingface::{load_huggingface, save_huggingface};
pub use load::{has_safetensors, load, map};
pub use native::{load_native, save_native};
pub use olmo::{load_olmo, load_olmo_core, save_olmo, save_olmo_core};
