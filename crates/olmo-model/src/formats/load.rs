//! Reads a model folder in either format.

use std::path::Path;

use olmo_ops::Matrices;

use super::folder;
use super::huggingface::{self, load_huggingface, map_huggingface};
use super::json::read_config;
use super::native::{load_native, map_native};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::parameters::Parameters;

/// Reads a model folder, native or Hugging Face (detected by `model_type` in its config).
///
/// # Errors
/// A file is missing or damaged, the config is invalid or unsupported, or a tensor is missing,
/// unknown or misshapen.
pub fn load(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    folder::check(folder)?;
    if read_config(folder)?.contains_key(huggingface::MODEL_TYPE) {
        load_huggingface(folder)
    } else {
        load_native(folder)
    }
}

/// Maps the weights of a model folder, native or Hugging Face, without a copy. Weights of norms, f16
/// and what is not aligned in its file are copied as f32.
///
/// # Errors
/// See [`load`].
pub fn map(folder: &Path) -> Result<(ModelConfig, Matrices), ModelError> {
    folder::check(folder)?;
    if read_config(folder)?.contains_key(huggingface::MODEL_TYPE) { map_huggingface(folder) } else { map_native(folder) }
}
