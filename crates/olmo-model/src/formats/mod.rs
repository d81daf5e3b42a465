//! The formats of a model folder: our own and Hugging Face's.

mod compare_weights;
mod examine;
mod folder;
mod huggingface;
mod json;
mod lfs_pointer;
mod load;
mod names;
mod native;
mod parts;
mod tensors;

pub use compare_weights::{WeightComparison, compare_weights};
pub use examine::examine;
pub use huggingface::{load_huggingface, save_huggingface};
pub use load::load;
pub use names::{CONFIG_FILE, WEIGHTS_FILE};
pub use native::{load_native, save_native};
