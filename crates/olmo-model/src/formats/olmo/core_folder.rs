//! Reads and writes the folder of a step of OLMo-core's trainer, its weights only.

use std::path::Path;

use olmo_base::IoContext as _;
use olmo_pickle::DType;
use olmo_pickle::distributed::{Checkpoint, CheckpointWriter, MODEL_AND_OPTIM, Writer};
use serde_json::json;

use super::core_config;
use super::tensors::{Listed, fill, model_error};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::file_names::CONFIG_FILE;
use crate::formats::json::{read_object, write_json};
use crate::formats::parts::{Names, Part};
use crate::parameters::Parameters;
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

/// The model that the config of a step describes.
///
/// # Errors
/// Everything that is not understood, or invalid.
pub(crate) fn core_config_of(path: &Path) -> Result<ModelConfig, ModelError> {
    let config = core_config::understand(&read_object(path)?)
        .map_err(|problems| ModelError::NotUnderstood { path: path.to_owned(), problems })?;
    config.validate()?;
    Ok(config)
}

/// Reads the weights of a step of OLMo-core's trainer, written by any number of ranks. Reads
/// nothing of the optimizer's state.
///
/// # Errors
/// A file is missing or damaged, the config is invalid or unsupported, or a tensor is missing,
/// unknown or misshapen.
pub fn load_olmo_core(folder: &Path) -> Result<(ModelConfig, Parameters), ModelError> {
    let config = core_config_of(&folder.join(CONFIG_FILE))?;
    let checkpoint = Checkpoint::open_folder(folder).map_err(|error| model_error(folder, &error))?;
    checkpoint.check_shards().map_err(|error| model_error(folder, &error))?;
    let tensors = checkpoint.tensors().filter(|(name, _)| name.starts_with(PREFIX));
    let listed: Listed =
        tensors.map(|(name, tensor)| (name.to_owned(), (tensor.dtype, tensor.shape.clone()))).collect();
    // A tied head is the embedding under a second name.
    let ignored: &[&str] = if config.weight_tying { &[HEAD] } else { &[] };
    let read = |name: &str| checkpoint.read_tensor(name);
    let parameters = fill(folder, &config, &NAMES.parts(&config), &listed, ignored, &read)?;
    if config.weight_tying && listed.contains_key(HEAD) {
        let [embedding, head] = [EMBEDDING, HEAD].map(&read);
        let differ = embedding.map_err(|error| model_error(folder, &error))?
            != head.map_err(|error| model_error(folder, &error))?;
        if differ {
            let problem = format!("`{HEAD}` differs from the embedding, although `tie_word_embeddings` is true");
            return Err(ModelError::Tensors { path: folder.to_owned(), problems: vec![problem] });
        }
    }
    Ok((config, parameters))
}

/// Writes a step of OLMo-core's trainer with weights of type `dtype` and nothing else to `folder`,
/// which is created if absent: `load_model_and_optim_state` reads it without an optimizer. Equal
/// models give equal bytes.
///
/// # Errors
/// The parameters belong to another config, or the folder cannot be written.
pub fn save_olmo_core(
    folder: &Path,
    config: &ModelConfig,
    parameters: &Parameters,
    dtype: WeightType,
) -> Result<(), ModelError> {
    parameters.check_fit(config)?;
    write_json(folder, CONFIG_FILE, core_config::describe(config))?;
    let inner = folder.join(MODEL_AND_OPTIM);
    std::fs::create_dir_all(&inner).context(&inner)?;
    let mut writer = CheckpointWriter::create(&inner, Writer::OlmoCore)?;
    let mut parts = NAMES.parts(config);
    if config.weight_tying {
        // OLMo-core lists the tied head as well.
        let embedding = parts.iter().find(|part| part.name == EMBEDDING);
        let head =
            embedding.map(|part| Part { name: HEAD.into(), shape: part.shape.clone(), range: part.range.clone() });
        parts.extend(head);
    }
    for part in parts {
        let values = &parameters.flat()[part.range];
        let shape: Vec<u64> = part.shape.iter().map(|size| *size as u64).collect();
        let (dtype, bytes) = encode(values, dtype);
        writer.tensor(&part.name, dtype, &shape, &bytes)?;
    }
    writer.finish()?;
    // Last: it makes the folder a checkpoint.
    write_json(folder, STEP_METADATA, json!({"ephemeral": false, "version": VERSION}))
}

/// The elements as `dtype`, little endian.
pub(super) fn encode(values: &[f32], dtype: WeightType) -> (DType, Vec<u8>) {
    match dtype {
        WeightType::Float32 => (DType::Float32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        WeightType::Bfloat16 => {
            let half = |value: &f32| half::bf16::from_f32(*value).to_le_bytes();
            (DType::Bfloat16, values.iter().flat_map(half).collect())
        }
    }
}
