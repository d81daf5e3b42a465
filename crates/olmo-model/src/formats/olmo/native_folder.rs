//! Reads and writes OLMo's unsharded checkpoints: `config.yaml`, and `model.pt` or
//! `model.safetensors`.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use olmo_base::IoContext as _;
use olmo_pickle::OlmoName;
use olmo_pickle::archive::ArchiveWriter;
use olmo_pickle::pickle::Item;
use serde_json::{Map, Value};

use super::core_folder::element_type;
use super::native_config;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::file_names::WEIGHTS_FILE;
use crate::formats::files::ModelFiles;
use crate::formats::native;
use crate::formats::parts::{Part, no_extras};
use crate::formats::stored_model::StoredModel;
use crate::formats::tensors::{Tensors, safetensors, state_dict};
use crate::weight_source::{WeightSource, check_fit, read_encoded};
use crate::weight_type::WeightType;

const CONFIG_YAML: &str = "config.yaml";
const MODEL_PT: &str = "model.pt";

/// What OLMo's FSDP may leave before each part of a name.
const WRAPPER: &str = "_fsdp_wrapped_module.";

/// Opens an unsharded checkpoint of OLMo. `model.safetensors` goes before `model.pt`, as in OLMo.
///
/// # Errors
/// A file is missing or damaged, the config is invalid or unsupported, or a tensor is missing,
/// unknown or misshapen.
pub(crate) fn open_olmo(files: &Arc<ModelFiles>) -> Result<StoredModel, ModelError> {
    let path = files.named(CONFIG_YAML);
    let config = native_config::understand(&read_yaml(files)?)
        .map_err(|problems| ModelError::NotUnderstood { path, problems })?;
    config.validate()?;
    let file = if files.has(WEIGHTS_FILE) { WEIGHTS_FILE } else { MODEL_PT };
    let tensors = match file {
        WEIGHTS_FILE => decode_names(files, safetensors(files, &[file.to_owned()])?)?,
        _ => state_dict(files, &[file.to_owned()], |key| key.replace(WRAPPER, ""))?,
    };
    let parts = native::parts(&config);
    StoredModel::new(&files.named(file), config, parts, tensors, &no_extras)
}

fn read_yaml(files: &ModelFiles) -> Result<Map<String, Value>, ModelError> {
    /// Bytes of the longest config.
    const MOST: u64 = 1 << 20;
    match serde_yaml::from_str(&files.text(CONFIG_YAML, MOST)?) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(files.refuse(CONFIG_YAML, "is not a YAML mapping")),
        Err(error) => Err(files.refuse(CONFIG_YAML, format!("is not YAML: {error}"))),
    }
}

/// The tensors under the names that OLMo encodes in its safetensors.
fn decode_names(files: &ModelFiles, encoded: Tensors) -> Result<Tensors, ModelError> {
    let mut tensors = Tensors::new();
    for (name, tensor) in encoded {
        let keys = OlmoName::decode(&name).map_err(|error| files.refuse(WEIGHTS_FILE, error.to_string()))?.keys;
        let name = keys.join(".").replace(WRAPPER, "");
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(files.refuse(WEIGHTS_FILE, format!("has `{name}` twice")));
        }
    }
    Ok(tensors)
}

/// Writes an unsharded checkpoint of OLMo, `config.yaml` and `model.pt`, with weights of type
/// `dtype` to `folder`, which is created if absent. Equal models give equal bytes.
/// Weights are read tensor by tensor.
///
/// # Errors
/// The weights belong to another config, OLMo cannot express the config, or the folder cannot be
/// written.
pub fn save_olmo(
    folder: &Path,
    config: &ModelConfig,
    source: &dyn WeightSource,
    dtype: WeightType,
) -> Result<(), ModelError> {
    check_fit(source, config)?;
    let other = [
        (config.sliding_window.is_some(), "sliding windows"),
        (config.rope_scaling.is_some(), "scaled ropes"),
        (config.head_dim.is_some(), "heads of another width than d_model / n_heads"),
    ];
    if let Some((_, what)) = other.into_iter().find(|(is, _)| *is) {
        return Err(ModelError::Input(format!("OLMo's own format has no {what}; write OLMo-core's")));
    }
    std::fs::create_dir_all(folder).context(folder)?;
    let parts = native::parts(config);
    let tensor = |(storage, part): (usize, &Part)| {
        let shape = part.shape.iter().map(|size| *size as u64).collect();
        (Item::text(&part.name), Item::Tensor { dtype: element_type(dtype), shape, storage })
    };
    let root = Item::OrderedDict(parts.iter().enumerate().map(tensor).collect());
    let path = folder.join(MODEL_PT);
    let written = |result: std::io::Result<()>| result.context_during("write", &path);
    let file = BufWriter::new(File::create(&path).context_during("write", &path)?);
    let mut archive = ArchiveWriter::new(file, "model", &root).context_during("write", &path)?;
    for part in &parts {
        written(archive.storage(&read_encoded(source, &part.range, dtype)?))?;
    }
    let (_, file) = archive.finish().context_during("write", &path)?;
    written(file.into_inner().map(drop).map_err(std::io::IntoInnerError::into_error))?;
    let path = folder.join(CONFIG_YAML);
    let yaml = serde_yaml::to_string(&native_config::describe(config));
    let yaml = yaml.map_err(|error| ModelError::folder(&path, format!("cannot be written: {error}")))?;
    Ok(std::fs::write(&path, yaml).context_during("write", &path)?)
}
