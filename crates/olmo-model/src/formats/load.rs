//! Reads a model folder in any format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use olmo_ops::Matrices;

use super::file_names::{CONFIG_FILE, INDEX_FILE, PYTORCH_FILE, PYTORCH_INDEX_FILE, WEIGHTS_FILE};
use super::files::ModelFiles;
use super::folder;
use super::format::Format;
use super::gguf::open_gguf;
use super::huggingface::{self, open_huggingface};
use super::native::{self, open_native};
use super::olmo::{
    OptimizerState, TrainerState, open_olmo, open_olmo_core, optimizer_of_checkpoint, optimizer_of_step,
    trainer_of_checkpoint, trainer_of_step,
};
use super::stored_model::StoredModel;
use super::tensors::{safetensors, state_dict};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::parameters::Parameters;

/// Opens a model folder: native, Hugging Face (detected by `model_type` in its config; safetensors or
/// `pytorch_model.bin`, in one file or several), a step of OLMo-core's trainer, an unsharded
/// checkpoint of OLMo, or a GGUF file (also by its own path). Weights only: nothing of an optimizer's state is read.
///
/// # Errors
/// A file is missing or damaged, the config is invalid or unsupported, or a tensor is missing,
/// unknown or misshapen.
pub fn open(folder: &Path) -> Result<StoredModel, ModelError> {
    open_files(ModelFiles::list(folder)?, true)
}

/// Reads a model folder into memory: see [`open`].
///
/// # Errors
/// See [`open`]; also elements that are not finite.
pub fn load(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    let stored = open(folder)?;
    Ok((stored.config().clone(), stored.parameters()?))
}

/// Like [`load`], without a copy of weights that can be mapped: see [`StoredModel::matrices`].
///
/// # Errors
/// See [`load`].
pub fn map(folder: &Path) -> Result<(ModelConfig, Matrices), ModelError> {
    let stored = open(folder)?;
    Ok((stored.config().clone(), stored.matrices(true)?))
}

/// Like [`map`], without a look at the elements that are mapped: for commands that answer at once, and
/// that refuse logits which are not finite.
///
/// # Errors
/// See [`map`].
pub fn map_unchecked(folder: &Path) -> Result<(ModelConfig, Matrices), ModelError> {
    let stored = open(folder)?;
    Ok((stored.config().clone(), stored.matrices(false)?))
}

/// Reads the optimizer's state of a checkpoint of OLMo (`optim.pt`) or a step of OLMo-core.
///
/// # Errors
/// The folder has another format or no such state, or it is damaged or does not fit the config.
pub fn load_optimizer_state(folder: &Path) -> Result<OptimizerState, ModelError> {
    let files = Arc::new(ModelFiles::list(folder)?);
    match format(&files)? {
        Format::OlmoCore => optimizer_of_step(&files),
        Format::Olmo => optimizer_of_checkpoint(&files),
        Format::Safetensors | Format::PytorchBin | Format::Gguf => Err(weights_alone(&files)),
    }
}

/// Reads where the run of a checkpoint of OLMo (`train.pt`) or a step of OLMo-core (`train/rank0.pt`)
/// was.
///
/// # Errors
/// See [`load_optimizer_state`].
pub fn load_trainer_state(folder: &Path) -> Result<TrainerState, ModelError> {
    trainer_state_in(ModelFiles::list(folder)?)
}

/// Like [`load_trainer_state`], for `files` as in [`examine`].
///
/// # Errors
/// See [`load_optimizer_state`].
pub fn examine_trainer_state(shown: &Path, files: &BTreeMap<String, PathBuf>) -> Result<TrainerState, ModelError> {
    trainer_state_in(ModelFiles::new(shown, files.clone()))
}

fn trainer_state_in(files: ModelFiles) -> Result<TrainerState, ModelError> {
    let files = Arc::new(files);
    match format(&files)? {
        Format::OlmoCore => trainer_of_step(&files),
        Format::Olmo => trainer_of_checkpoint(&files),
        Format::Safetensors | Format::PytorchBin | Format::Gguf => Err(weights_alone(&files)),
    }
}

fn weights_alone(files: &ModelFiles) -> ModelError {
    let reason = "has weights alone; only checkpoints of OLMo and steps of OLMo-core have the state of an optimizer and a trainer";
    ModelError::folder(files.shown(), reason)
}

/// Whether the tensors of a model folder have our names or Hugging Face's, which
/// [`compare_weights`](crate::compare_weights) knows.
///
/// # Errors
/// The folder is no model.
pub fn has_known_names(folder: &Path) -> Result<bool, ModelError> {
    let files = ModelFiles::list(folder)?;
    Ok(matches!(format(&files)?, Format::Safetensors | Format::PytorchBin))
}

/// The config of the model in `files` (names relative to its folder, and their paths), in any format.
/// Messages call the folder `shown`. Compares the names and shapes of tensors with the config; reads
/// no weights.
///
/// # Errors
/// See [`open`], as far as names, configs and headers show.
pub fn examine(shown: &Path, files: &BTreeMap<String, PathBuf>) -> Result<ModelConfig, ModelError> {
    Ok(open_files(ModelFiles::new(shown, files.clone()), false)?.config().clone())
}

/// The config in the file `path`, native or Hugging Face's, of a model whose weights are elsewhere.
///
/// # Errors
/// The file is missing, or describes no model.
pub fn read_config(path: &Path) -> Result<ModelConfig, ModelError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let files = ModelFiles::new(folder, BTreeMap::from([(CONFIG_FILE.to_owned(), path.to_owned())]));
    let fields = files.object(CONFIG_FILE)?;
    match fields.contains_key(huggingface::MODEL_TYPE) {
        true => huggingface::understand(&files, &fields),
        false => native::understand(&files.named(CONFIG_FILE), fields),
    }
}

fn format(files: &ModelFiles) -> Result<Format, ModelError> {
    folder::check(files)?;
    let gguf = || files.gguf_file().map(|_| Format::Gguf);
    let format = Format::of(|name| files.has(name)).or_else(gguf);
    format.ok_or_else(|| ModelError::folder(files.shown(), "changed while it was read"))
}

/// Opens the model in `files`. Tensors that are no weights may be looked at if `reads` is set, to find
/// out whether they repeat what the model has; otherwise they are ignored.
fn open_files(files: ModelFiles, reads: bool) -> Result<StoredModel, ModelError> {
    let format = format(&files)?;
    let files = Arc::new(files);
    let pickled = format == Format::PytorchBin;
    match format {
        Format::OlmoCore => return open_olmo_core(&files, reads),
        Format::Olmo => return open_olmo(&files),
        Format::Gguf => {
            let name = files.gguf_file().unwrap_or_default().to_owned();
            return open_gguf(&files, &name);
        }
        Format::Safetensors | Format::PytorchBin => {}
    }
    let fields = files.object(CONFIG_FILE)?;
    let is_huggingface = fields.contains_key(huggingface::MODEL_TYPE);
    if pickled && !is_huggingface {
        let what = format!("has no `{}`, which a model with {PYTORCH_FILE} needs", huggingface::MODEL_TYPE);
        return Err(files.refuse(CONFIG_FILE, what));
    }
    // The config first: its errors say more than those of the tensors.
    let open = |files: &Arc<ModelFiles>| match pickled {
        true => state_dict(files, &files.weight_files(PYTORCH_FILE, PYTORCH_INDEX_FILE)?, str::to_owned),
        false => safetensors(files, &files.weight_files(WEIGHTS_FILE, INDEX_FILE)?),
    };
    match is_huggingface {
        true => open_huggingface(&files, &fields, &open, reads),
        false => open_native(&files, fields, &open),
    }
}
