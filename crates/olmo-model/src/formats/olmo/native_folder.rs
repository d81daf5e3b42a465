//! Reads and writes OLMo's unsharded checkpoints: `config.yaml`, and `model.pt` or
//! `model.safetensors`.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use olmo_base::IoContext as _;
use olmo_pickle::archive::{Archive, ArchiveWriter};
use olmo_pickle::pickle::Item;
use olmo_pickle::{DType, Files as _, FolderFiles, OlmoName};
use serde_json::{Map, Value};

use super::core_folder::encode;
use super::native_config;
use super::tensors::{Listed, fill, model_error};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::file_names::WEIGHTS_FILE;
use crate::formats::native;
use crate::formats::weight_files::entries;
use crate::parameters::Parameters;
use crate::weight_type::WeightType;

pub(crate) const CONFIG_YAML: &str = "config.yaml";
const MODEL_PT: &str = "model.pt";

/// What OLMo's FSDP may leave before each part of a name.
const WRAPPER: &str = "_fsdp_wrapped_module.";

/// Reads an unsharded checkpoint of OLMo. `model.safetensors` goes before `model.pt`, as in OLMo.
///
/// # Errors
/// A file is missing or damaged, the config is invalid or unsupported, or a tensor is missing,
/// unknown or misshapen.
pub fn load_olmo(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    let config = config_of(&folder.join(CONFIG_YAML))?;
    let parameters = if folder.join(WEIGHTS_FILE).is_file() {
        load_safetensors(folder, &config)?
    } else {
        load_model_pt(folder, &config)?
    };
    Ok((config, parameters))
}

/// The model that a `config.yaml` describes.
///
/// # Errors
/// Everything that is not understood, or invalid.
pub(crate) fn config_of(path: &Path) -> Result<ModelConfig, ModelError> {
    let config = native_config::understand(&read_yaml(path)?)
        .map_err(|problems| ModelError::NotUnderstood { path: path.to_owned(), problems })?;
    config.validate()?;
    Ok(config)
}

fn read_yaml(path: &Path) -> Result<Map<String, Value>, ModelError> {
    /// Bytes of the longest config.
    const MOST: u64 = 1 << 20;
    let text = olmo_base::files::read_regular_text(path, MOST).context(path)?;
    match serde_yaml::from_str(&text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ModelError::folder(path, "is not a YAML mapping")),
        Err(error) => Err(ModelError::folder(path, format!("is not YAML: {error}"))),
    }
}

fn load_model_pt(folder: &Path, config: &ModelConfig) -> Result<Parameters, ModelError> {
    let path = folder.join(MODEL_PT);
    let file = FolderFiles::new(folder).open(MODEL_PT).context(&path)?;
    let archive = Archive::open(file).map_err(|error| model_error(&path, &error))?;
    let tensors = archive.root().entries().filter_map(|(name, value)| Some((name.as_str()?, value.as_tensor()?)));
    let tensors: Vec<_> = tensors.map(|(name, tensor)| (name.replace(WRAPPER, ""), tensor)).collect();
    if tensors.len() != archive.root().entries().len() || tensors.is_empty() {
        let what = archive.root().describe();
        return Err(ModelError::folder(&path, format!("holds {what}, not a state dict of tensors alone")));
    }
    let listed: Listed =
        tensors.iter().map(|(name, tensor)| (name.clone(), (tensor.dtype, tensor.shape.to_vec()))).collect();
    let read = |wanted: &str| match tensors.iter().find(|(name, _)| name == wanted) {
        Some((_, tensor)) => archive.read(tensor),
        None => Ok(Vec::new()),
    };
    fill(&path, config, &native::parts(config), &listed, &[], &read)
}

fn load_safetensors(folder: &Path, config: &ModelConfig) -> Result<Parameters, ModelError> {
    let path = folder.join(WEIGHTS_FILE);
    let mut listed = Listed::new();
    let mut places = std::collections::BTreeMap::new();
    for (encoded, entry) in entries(&path)? {
        let name = OlmoName::decode(&encoded).map_err(|error| model_error(&path, &error))?;
        let name = name.keys.join(".").replace(WRAPPER, "");
        let dtype = match entry.dtype {
            safetensors::Dtype::F32 => DType::Float32,
            safetensors::Dtype::BF16 => DType::Bfloat16,
            safetensors::Dtype::F16 => DType::Float16,
            _ => DType::Bool,
        };
        listed.insert(name.clone(), (dtype, entry.shape.iter().map(|size| *size as u64).collect()));
        places.insert(name, (entry.start, entry.end));
    }
    let file = FolderFiles::new(folder).open(WEIGHTS_FILE).context(&path)?;
    let read = |name: &str| {
        let (start, end) = places.get(name).copied().unwrap_or_default();
        olmo_pickle::read_range(&*file, start, end.saturating_sub(start))
    };
    fill(&path, config, &native::parts(config), &listed, &[], &read)
}

/// Writes an unsharded checkpoint of OLMo, `config.yaml` and `model.pt`, with weights of type
/// `dtype` to `folder`, which is created if absent. Equal models give equal bytes.
///
/// # Errors
/// The parameters belong to another config, OLMo cannot express the config, or the folder cannot be
/// written.
pub fn save_olmo(
    folder: &Path,
    config: &ModelConfig,
    parameters: &Parameters,
    dtype: WeightType,
) -> Result<(), ModelError> {
    parameters.check_fit(config)?;
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
    let (kind, _) = encode(&[], dtype);
    let tensor = |(storage, part): (usize, &crate::formats::parts::Part)| {
        let shape = part.shape.iter().map(|size| *size as u64).collect();
        (Item::text(&part.name), Item::Tensor { dtype: kind, shape, storage })
    };
    let root = Item::OrderedDict(parts.iter().enumerate().map(tensor).collect());
    let path = folder.join(MODEL_PT);
    let write = || -> std::io::Result<()> {
        let file = BufWriter::new(File::create(&path)?);
        let mut archive = ArchiveWriter::new(file, "model", &root)?;
        for part in &parts {
            archive.storage(&encode(&parameters.flat()[part.range.clone()], dtype).1)?;
        }
        archive.finish()?.1.into_inner()?;
        Ok(())
    };
    write().context_during("write", &path)?;
    let path = folder.join(CONFIG_YAML);
    let yaml = serde_yaml::to_string(&native_config::describe(config));
    let yaml = yaml.map_err(|error| ModelError::folder(&path, format!("cannot be written: {error}")))?;
    Ok(std::fs::write(&path, yaml).context_during("write", &path)?)
}
