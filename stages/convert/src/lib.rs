//! Stage `convert`: writes a model as Hugging Face reads it, and checks that the export answers as the model does.
//!
//! The export is read again from its files. Its tensors must have the values of the model's files (rounded to the export's type),
//! compared by name, and its logits on fixed ids must equal those of the model with these values. The report says how far they
//! are apart, and a difference of more than 1e-5 is a failure. It also says how far rounding alone moves the logits.

mod check;
mod tokenizer_files;

use std::fs;
use std::path::Path;

use olmo_data::{Chat, Template, TextTokenizer, tokenizer_json};
use olmo_model::{ModelError, WeightType};
use olmo_stage::worker::write_json;
use olmo_stage::{Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exports a model to the Hugging Face format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Chat template, for a model that does not record one. Null: the one that the model was
    /// trained with, or the tokenizer's.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["tulu", "olmo2", "chatml", null]))]
    pub template: Option<Template>,
    /// Type of the exported weights: `float32` (the model's exact values) or `bfloat16` (half the
    /// size).
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["float32", "bfloat16"], "default" = "float32"))]
    pub dtype: WeightType,
}

/// The stage.
pub struct Convert;

impl Stage for Convert {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        let tokenizer_dir = context.input("tokenizer")?;
        let tokenizer = TextTokenizer::open(&tokenizer_dir)?;
        let source = context.input("model")?;
        let chat = Chat::of_model(&source, &tokenizer, params.template)
            .map_err(|e| StageError::fail("convert::template", e.to_string()).hint(e.hint()))?;
        let (mut config, parameters) = olmo_model::load(&source).map_err(model_failure)?;
        tokenizer_files::check(&config, tokenizer.special())?;
        // Where an answer ends comes first: readers that know one id alone take the first.
        let before = std::mem::replace(&mut config.eos_token_ids, chat.stop_token_ids());
        for id in before {
            if !config.eos_token_ids.contains(&id) {
                config.eos_token_ids.push(id);
            }
        }
        config.pad_token_id = Some(tokenizer.special().pad_token_id);
        let dir = context.output("model")?;
        context.check_stop()?;
        olmo_model::save_huggingface(&dir, &config, &parameters, params.dtype).map_err(model_failure)?;
        tokenizer_files::write(&dir, &tokenizer_dir, &chat, config.max_sequence_length)?;
        clean_tokenizer(&dir.join("tokenizer.json"), context)?;
        context.check_stop()?;
        // The files first: a tensor that the loading drops is in neither model whose logits are compared.
        let weights = check::compare_weights(&source, &dir, params.dtype)?;
        let export = olmo_model::load(&dir).map_err(model_failure)?;
        let report = check::compare((&config, &parameters), (&export.0, &export.1), params.dtype, weights)?;
        write_json(&context.output("report")?.join("report.json"), &report)?;
        context.message(report.to_string());
        report.verdict()
    }
}

/// Removes truncation, padding and dropout from the exported `tokenizer.json`, and reports it. Tokenizers that stage
/// tokenizer made have none of them.
fn clean_tokenizer(path: &Path, context: &mut Context) -> Result<(), StageError> {
    let bytes = fs::read(path).map_err(|e| StageError::io(path, e))?;
    let Some(cleaned) = tokenizer_json::clean(&bytes) else { return Ok(()) };
    fs::write(path, &cleaned.bytes).map_err(|e| StageError::io(path, e))?;
    context.warning(format!("removed from the exported tokenizer.json: {}", cleaned.removed.join(", ")));
    Ok(())
}

fn model_failure(error: ModelError) -> StageError {
    match error {
        ModelError::Io { path, source } => StageError::io(&path, source),
        other => StageError::fail("convert::model", other.to_string()),
    }
}
