//! Reads a model folder in any format.

use std::path::Path;

use olmo_ops::Matrices;

use super::folder;
use super::format::Format;
use super::huggingface::{self, load_huggingface, map_huggingface};
use super::json::read_config;
use super::native::{load_native, map_native};
use super::olmo::{load_olmo, load_olmo_core};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::parameters::Parameters;

/// Reads a model folder: native, Hugging Face (detected by `model_type` in its config), a step of
/// OLMo-core's trainer, or an unsharded checkpoint of OLMo. Weights only: nothing of an optimizer's
/// state is read.
///
/// # Errors
/// A file is missing or damaged, the config is invalid or unsupported, or a tensor is missing,
/// unknown or misshapen.
pub fn load(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    match format(folder)? {
        Format::OlmoCore => load_olmo_core(folder),
        Format::Olmo => load_olmo(folder),
        Format::Safetensors if is_huggingface(folder)? => load_huggingface(folder),
        Format::Safetensors => load_native(folder),
    }
}

/// Like [`load`], without a copy of weights that are in safetensors. The weights of norms, f16 and
/// what is not aligned in its file are copied as f32.
///
/// # Errors
/// See [`load`].
pub fn map(folder: &Path) -> Result<(ModelConfig, Matrices), ModelError> {
    match format(folder)? {
        Format::OlmoCore | Format::Olmo => load(folder).map(|(config, parameters)| (config, parameters.matrices())),
        Format::Safetensors if is_huggingface(folder)? => map_huggingface(folder),
        Format::Safetensors => map_native(folder),
    }
}

/// Whether the weights of a model folder are safetensors under our names or Hugging Face's.
///
/// # Errors
/// The folder is no model.
pub fn has_safetensors(folder: &Path) -> Result<bool, ModelError> {
    Ok(format(folder)? == Format::Safetensors)
}

fn format(folder: &Path) -> Result<Format, ModelError> {
    folder::check(folder)?;
    let format = Format::of(|name| folder.join(name).is_file());
    format.ok_or_else(|| ModelError::folder(folder, "changed while it was read"))
}

fn is_huggingface(folder: &Path) -> Result<bool, ModelError> {
    Ok(read_config(folder)?.contains_key(huggingface::MODEL_TYPE))
}
