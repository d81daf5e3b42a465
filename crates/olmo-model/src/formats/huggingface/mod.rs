//! The Hugging Face format: a folder that `transformers` loads.

mod architecture;
mod config;
mod extra;
mod model_folder;
mod reader;
mod rope;

pub(crate) use architecture::MODEL_TYPE;
pub use model_folder::save_huggingface;
pub(super) use model_folder::{open_huggingface, understand};
