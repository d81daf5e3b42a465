//! Reads the folder of a step of OLMo-core's trainer, and writes one with weights only.

use std::path::Path;
use std::sync::Arc;

use olmo_base::IoContext as _;
use olmo_pickle::DType;
use olmo_pickle::distributed::{CheckpointWriter, MODEL_AND_OPTIM, Writer};
use serde_json::json;

use super::core_config;
use super::training_state::{Done, KINDS, OptimizerState, TrainerState, whole_number};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::file_names::CONFIG_FILE;
use crate::formats::files::ModelFiles;
use crate::formats::json::write_json;
use crate::formats::parts::{Names, Part, no_extras};
use crate::formats::stored_model::StoredModel;
use crate::formats::tensors::{SavedFile, Tensors, checkpoint, distributed};
use crate::weight_source::{WeightSource, check_fit, read_encoded};
use crate::weight_type::WeightType;

/// The file beside `config.json` that makes a folder a checkpoint for OLMo-core, with the version
/// of the library whose format this is.
const STEP_METADATA: &str = ".metadata.json";
const VERSION: &str = "3.0.0";

/// Prefix of the weights; the optimizer's state has `optim.`.
const PREFIX: &str = "model.";
const EMBEDDING: &str = "model.embeddings.weight";
const HEAD: &str = "model.lm_head.w_out.weight";

/// `olmo_core/nn/hf/convert.py` has the same names beside Hugging Face's.
const NAMES: Names = Names {
    embedding: "model.embeddings",
    head: "model.lm_head.w_out",
    final_norm: "model.lm_head.norm",
    blocks: "model.blocks",
    queries: "attention.w_q",
    keys: "attention.w_k",
    values: "attention.w_v",
    attention_output: "attention.w_out",
    q_norm: "attention.q_norm",
    k_norm: "attention.k_norm",
    up: "feed_forward.w3",
    gate: "feed_forward.w1",
    down: "feed_forward.w2",
    attention_norm: "attention_norm",
    mlp_norm: "feed_forward_norm",
};

/// Why a step that was fetched from a server cannot give more than weights.
const ONLY_WEIGHTS: &str = "has the weights alone: only their bytes were fetched; write `#optim` after the address of \
                            the step to fetch the state of the optimizer and the trainer too";

/// Opens the weights of a step of OLMo-core's trainer, written by any number of ranks. Reads nothing
/// of the optimizer's state. A tied head, which is the embedding under a second name, is compared
/// with it if `reads` is set.
///
/// # Errors
/// A file is missing or damaged, the config is invalid or unsupported, or a tensor is missing,
/// unknown or misshapen.
pub(crate) fn open_olmo_core(files: &Arc<ModelFiles>, reads: bool) -> Result<StoredModel, ModelError> {
    let config = config_of_step(files)?;
    let tensors = distributed(files, &checkpoint(files)?, PREFIX);
    let tied = config.weight_tying;
    let judge = |name: &str, all: &Tensors| {
        let (HEAD, true, Some(embedding), Some(head)) = (name, tied, all.get(EMBEDDING), all.get(HEAD)) else {
            return no_extras(name, all);
        };
        if head.shape != embedding.shape {
            return Err(format!("has shape {:?}, and the embedding has {:?}", head.shape, embedding.shape));
        }
        if reads && head.first_difference(embedding)?.is_some() {
            return Err("differs from the embedding, although `tie_word_embeddings` is true".to_owned());
        }
        Ok(())
    };
    let parts = NAMES.parts(&config);
    StoredModel::new(files.shown(), config, parts, tensors, &judge)
}

fn config_of_step(files: &ModelFiles) -> Result<ModelConfig, ModelError> {
    let path = files.named(CONFIG_FILE);
    let config = core_config::understand(&files.object(CONFIG_FILE)?)
        .map_err(|problems| ModelError::NotUnderstood { path, problems })?;
    config.validate()?;
    Ok(config)
}

/// The optimizer's state in a step of OLMo-core's trainer: `optim.state.NAME.exp_avg`, `exp_avg_sq` and
/// `step` for each weight.
///
/// # Errors
/// See [`open_olmo_core`]; also a step without the optimizer's state.
pub(crate) fn optimizer_of_step(files: &Arc<ModelFiles>) -> Result<OptimizerState, ModelError> {
    const STATE: &str = "optim.state.";
    let config = config_of_step(files)?;
    let checkpoint = checkpoint(files)?;
    let is_partial = |shard: &&str| files.is_partial(shard) || files.is_partial(&format!("{MODEL_AND_OPTIM}/{shard}"));
    if checkpoint.shards().iter().any(is_partial) {
        return Err(ModelError::folder(files.shown(), ONLY_WEIGHTS));
    }
    let mut tensors = distributed(files, &checkpoint, STATE);
    if tensors.is_empty() {
        let reason = "has the weights of a model alone, without the optimizer's state";
        return Err(ModelError::folder(files.shown(), reason));
    }
    let mut of_kind = |kind: &str| {
        let name =
            |key: &str| Some(format!("{PREFIX}{}", key.strip_prefix(STATE)?.strip_suffix(kind)?.strip_suffix('.')?));
        let keys: Vec<(String, String)> = tensors.keys().filter_map(|key| Some((key.clone(), name(key)?))).collect();
        let taken = keys.into_iter().filter_map(|(key, name)| Some((name, tensors.remove(&key)?)));
        taken.collect::<Tensors>()
    };
    // The tied head has the state of the embedding.
    let judge = |name: &str, all: &Tensors| match name == HEAD && config.weight_tying {
        true => Ok(()),
        false => no_extras(name, all),
    };
    let kinds = KINDS.map(&mut of_kind);
    OptimizerState::of(files.shown(), &config, || NAMES.parts(&config), kinds, &judge)
}

/// Where the run of a step of OLMo-core's trainer was, by its first rank.
///
/// # Errors
/// `train/rank0.pt` is missing or damaged, or lacks a number.
pub(crate) fn trainer_of_step(files: &Arc<ModelFiles>) -> Result<TrainerState, ModelError> {
    const FIRST_RANK: &str = "train/rank0.pt";
    if !files.has(FIRST_RANK) && files.names().any(|name| name.ends_with(".ranges.json")) {
        return Err(ModelError::folder(files.shown(), ONLY_WEIGHTS));
    }
    let saved = SavedFile::open(files, FIRST_RANK)?;
    let number = |keys: &[&str]| whole_number(&saved, keys);
    Ok(TrainerState {
        global_step: number(&["global_step"])?,
        // Its first epoch is 1, and its order of that epoch is that of seed + 1.
        epoch: number(&["data_loader", "epoch"])?.saturating_sub(1),
        of_epoch: Done::Batches(number(&["data_loader", "batches_processed"])?),
        seed: Some(number(&["data_loader", "seed"])? + 1),
    })
}

/// Writes a step of OLMo-core's trainer with weights of type `dtype` and nothing else to `folder`,
/// which is created if absent: `load_model_and_optim_state` reads it without an optimizer. Equal
/// models give equal bytes. Weights are read tensor by tensor.
///
/// # Errors
/// The weights belong to another config, or the folder cannot be written.
pub fn save_olmo_core(
    folder: &Path,
    config: &ModelConfig,
    source: &dyn WeightSource,
    dtype: WeightType,
) -> Result<(), ModelError> {
    check_fit(source, config)?;
    write_json(folder, CONFIG_FILE, core_config::describe(config))?;
    let inner = folder.join(MODEL_AND_OPTIM);
    std::fs::create_dir_all(&inner).context(&inner)?;
    let mut writer = CheckpointWriter::create(&inner, Writer::OlmoCore)?;
    let mut parts = NAMES.parts(config);
    if config.weight_tying {
        // OLMo-core lists the tied head as well.
        let embedding = parts.iter().find(|part| part.name == EMBEDDING).cloned();
        parts.extend(embedding.map(|part| Part { name: HEAD.into(), ..part }));
    }
    for part in parts {
        let shape: Vec<u64> = part.shape.iter().map(|size| *size as u64).collect();
        let bytes = read_encoded(source, &part.range, dtype)?;
        writer.tensor(&part.name, element_type(dtype), &shape, &bytes)?;
    }
    writer.finish()?;
    // Last: it makes the folder a checkpoint.
    write_json(folder, STEP_METADATA, json!({"ephemeral": false, "version": VERSION}))
}

/// The type of elements that holds weights of type `dtype`.
pub(super) fn element_type(dtype: WeightType) -> DType {
    match dtype {
        WeightType::Float32 => DType::Float32,
        WeightType::Bfloat16 => DType::Bfloat16,
        WeightType::Float16 => DType::Float16,
    }
}
