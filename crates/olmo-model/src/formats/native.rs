//! The native model format: a folder with `config.json` and `model.safetensors` under OLMo's names.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::file_names::{CONFIG_FILE, WEIGHTS_FILE};
use super::files::ModelFiles;
use super::json::write_json;
use super::parts::{Part, no_extras};
use super::stored_model::{OpenTensors, StoredModel};
use super::tensors::{safetensors, write};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::{TensorSpec, layout};
use crate::parameters::Parameters;
use crate::weight_source::{WeightSource, check_fit};
use crate::weight_type::WeightType;

/// Version of the native format, stored as `format` in its config.
const FORMAT: u64 = 1;

/// Reads a native model folder.
///
/// # Errors
/// See [`crate::load`].
pub fn load_native(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    let files = Arc::new(ModelFiles::list(folder)?);
    let fields = files.object(CONFIG_FILE)?;
    let open = |files: &Arc<ModelFiles>| safetensors(files, &[WEIGHTS_FILE.to_owned()]);
    let stored = open_native(&files, fields, &open)?;
    Ok((stored.config().clone(), stored.parameters()?))
}

/// Opens a native model with the fields of its config.
///
/// # Errors
/// See [`crate::load`].
pub(crate) fn open_native(
    files: &Arc<ModelFiles>,
    fields: Map<String, Value>,
    open: OpenTensors<'_>,
) -> Result<StoredModel, ModelError> {
    let config = understand(&files.named(CONFIG_FILE), fields)?;
    let parts = parts(&config);
    StoredModel::new(&files.named(WEIGHTS_FILE), config, parts, open(files)?, &no_extras)
}

/// The config described by the fields of the file `path`.
///
/// # Errors
/// The format is unknown, a field is missing, or the config is invalid.
pub(crate) fn understand(path: &Path, mut fields: Map<String, Value>) -> Result<ModelConfig, ModelError> {
    match fields.remove("format").as_ref().map(Value::as_u64) {
        Some(Some(FORMAT)) => {}
        None => {
            return Err(ModelError::folder(
                path,
                "is no model config: it has neither `format` (ours) nor `model_type` (Hugging Face)",
            ));
        }
        Some(_) => {
            return Err(ModelError::folder(
                path,
                format!("has another `format` than {FORMAT}, the one this program reads"),
            ));
        }
    }
    let names: BTreeSet<String> = fields.keys().cloned().collect();
    let config: ModelConfig =
        serde_json::from_value(Value::Object(fields)).map_err(|error| ModelError::folder(path, error.to_string()))?;
    // `save_native` writes each of these, so the defaults of experiments are not for this file.
    let missing: Vec<String> =
        described(&config).keys().filter(|name| !names.contains(*name)).map(|name| format!("`{name}`")).collect();
    if !missing.is_empty() {
        let reason =
            format!("is incomplete, because it lacks {}; copy the file from the model again", missing.join(", "));
        return Err(ModelError::folder(path, reason));
    }
    config.validate()?;
    Ok(config)
}

/// The fields of the file.
fn described(config: &ModelConfig) -> Map<String, Value> {
    // A config is a map of plain values, which always serializes.
    serde_json::to_value(config).ok().and_then(|value| value.as_object().cloned()).unwrap_or_default()
}

/// The tensors of a native model.
pub(crate) fn parts(config: &ModelConfig) -> Vec<Part> {
    let part = |spec: TensorSpec| Part { name: spec.name, shape: spec.shape, range: spec.range };
    layout(config).into_iter().map(part).collect()
}

/// Writes a native model to `folder`, which is created if absent. Equal models give equal bytes.
///
/// # Errors
/// The weights belong to another config, or the folder cannot be written.
pub fn save_native(folder: &Path, config: &ModelConfig, source: &dyn WeightSource) -> Result<(), ModelError> {
    check_fit(source, config)?;
    let mut fields = Map::from_iter([("format".to_owned(), Value::from(FORMAT))]);
    fields.extend(described(config));
    write_json(folder, CONFIG_FILE, Value::Object(fields))?;
    write(folder, &parts(config), source, WeightType::Float32, None)
}
