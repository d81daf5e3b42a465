//! Reads OLMo's unsharded checkpoints: `config.yaml`, `model.pt` or `model.safetensors`, `optim.pt`,
//! `train.pt`. Writes those with weights only.

use std::collections::BTreeMap;
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
use super::training_state::{Done, KINDS, OptimizerState, TrainerState, whole_number};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::file_names::WEIGHTS_FILE;
use crate::formats::files::ModelFiles;
use crate::formats::native;
use crate::formats::parts::{Part, no_extras};
use crate::formats::stored_model::StoredModel;
use crate::formats::tensors::{SavedFile, Tensors, safetensors, state_dict};
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
    let config = config_of_checkpoint(files)?;
    let file = if files.has(WEIGHTS_FILE) { WEIGHTS_FILE } else { MODEL_PT };
    let tensors = match file {
        WEIGHTS_FILE => decode_names(files, safetensors(files, &[file.to_owned()])?)?,
        _ => state_dict(files, &[file.to_owned()], |key| key.replace(WRAPPER, ""))?,
    };
    let parts = native::parts(&config);
    StoredModel::new(&files.named(file), config, parts, tensors, &no_extras)
}

fn config_of_checkpoint(files: &ModelFiles) -> Result<ModelConfig, ModelError> {
    let path = files.named(CONFIG_YAML);
    let config = native_config::understand(&read_yaml(files)?)
        .map_err(|problems| ModelError::NotUnderstood { path, problems })?;
    config.validate()?;
    Ok(config)
}

/// The optimizer's state in `optim.pt`: `state`, by the name of a weight or by its number in
/// `param_groups`, whose `param_names` tell the name.
///
/// # Errors
/// See [`open_olmo`]; also a checkpoint without `optim.pt`.
pub(crate) fn optimizer_of_checkpoint(files: &Arc<ModelFiles>) -> Result<OptimizerState, ModelError> {
    const OPTIM_PT: &str = "optim.pt";
    let config = config_of_checkpoint(files)?;
    if !files.has(OPTIM_PT) {
        let reason = format!("has no {OPTIM_PT}, the optimizer's state");
        return Err(ModelError::folder(files.shown(), reason));
    }
    let saved = SavedFile::open(files, OPTIM_PT)?;
    let lacks = |what: &str| saved.refuse(format!("has no `{what}`, so it is no optimizer's state of OLMo"));
    let state = saved.root().get("state").ok_or_else(|| lacks("state"))?;
    let groups = saved.root().get("param_groups").ok_or_else(|| lacks("param_groups"))?;
    let names: BTreeMap<i64, &str> = groups
        .items()
        .filter_map(|group| Some((group.get("params")?, group.get("param_names")?)))
        .flat_map(|(ids, names)| ids.items().zip(names.items()))
        .filter_map(|(id, name)| Some((id.as_i64()?, name.as_str()?)))
        .collect();
    let mut kinds = KINDS.map(|_| Tensors::new());
    for (key, _) in state.entries() {
        let number = key.as_i64();
        let name = key.as_str().or_else(|| names.get(&number?).copied());
        let Some(name) = name else {
            return Err(saved.refuse(format!("has the state of {}, which `param_names` does not name", key.describe())));
        };
        let key = number.map_or_else(|| name.to_owned(), |number| number.to_string());
        // What OLMo's FSDP and DDP leave before a name.
        let name = name.replace(WRAPPER, "").trim_start_matches("module.").to_owned();
        for (kind, tensors) in KINDS.iter().zip(&mut kinds) {
            let tensor = saved.tensor(vec!["state".into(), key.clone(), (*kind).to_owned()]);
            tensors.extend(tensor.map(|tensor| (name.clone(), tensor)));
        }
    }
    OptimizerState::of(&files.named(OPTIM_PT), &config, || native::parts(&config), kinds, &no_extras)
}

/// Where the run of a checkpoint was, by `train.pt`.
///
/// # Errors
/// The file is missing or damaged, or lacks a number.
pub(crate) fn trainer_of_checkpoint(files: &Arc<ModelFiles>) -> Result<TrainerState, ModelError> {
    const TRAIN_PT: &str = "train.pt";
    let saved = SavedFile::open(files, TRAIN_PT)?;
    let number = |key: &str| whole_number(&saved, &[key]);
    Ok(TrainerState {
        global_step: number("global_step")?,
        epoch: number("epoch")?,
        of_epoch: Done::Instances(number("global_train_examples_seen_this_epoch")?),
        seed: None,
    })
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
