//! Stage `convert`: exports a model to another format and checks that the logits match.
//!
//! The export is read back from its files. Its tensors, matched by name, must equal those in the
//! model's files (rounded to the export's type), and its logits on fixed ids must equal those of
//! the model with these rounded weights. The report gives the largest difference, which must not
//! exceed 1e-5, and how far rounding alone moves the logits.

mod check;
mod tokenizer_files;

use std::fs;
use std::path::Path;

use olmo_data::tokenizer::tokenizer_json;
use olmo_data::{Chat, Template, TextTokenizer};
use olmo_infer::{Placement, check_tokenizer};
use olmo_model::WeightType;
use olmo_stage::compute_params::ComputeParams;
use olmo_stage::rules::{Finding, Question};
use olmo_stage::worker::{enforce, write_json};
use olmo_stage::{Compute, Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exports a model to the format of Hugging Face, OLMo-core or OLMo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Chat template, for a model that does not record one. Null: the one that the model was
    /// trained with, or the tokenizer's.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["tulu", "olmo2", "chatml", null]))]
    pub template: Option<Template>,
    /// Format of the export: `huggingface` (for `transformers`, vLLM and others), `olmo_core` (a step of
    /// OLMo-core's trainer, weights only) or `olmo` (an unsharded checkpoint of OLMo). The tokenizer's
    /// files are in the folder, for `olmo_core` in its folder `tokenizer`.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["huggingface", "olmo_core", "olmo"], "default" = "huggingface"))]
    pub to: Format,
    /// Type of the exported weights: `float32` (the model's exact values) or `bfloat16` (half the
    /// size).
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["float32", "bfloat16"], "default" = "float32"))]
    pub dtype: WeightType,
    #[serde(flatten)]
    pub compute: ComputeParams,
}

/// A format of models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Huggingface,
    OlmoCore,
    Olmo,
}

impl Params {
    fn broken(&self, compute: Compute) -> Vec<Finding> {
        self.compute.broken("convert", compute)
    }

    fn placement(&self, compute: Compute) -> Placement<'_> {
        Placement { compute, device: &self.compute.device, stage: "convert" }
    }
}

/// The stage.
pub struct Convert;

impl Stage for Convert {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        params.broken(question.compute)
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        enforce(params.broken(context.request.compute))?;
        let tokenizer_dir = context.input("tokenizer")?;
        let tokenizer = TextTokenizer::open(&tokenizer_dir)?;
        let source = context.input("model")?;
        let chat = Chat::of_model(&source, &tokenizer, params.template)
            .map_err(|e| StageError::fail("convert::template", e.to_string()).hint(e.hint()))?;
        let (mut config, parameters) = olmo_model::load(&source).map_err(|e| e.with_code("convert::model"))?;
        check_tokenizer(&config, tokenizer.special(), "convert")?;
        // The stop token of an answer comes first: some readers support one eos id only and take
        // the first.
        let before = std::mem::replace(&mut config.eos_token_ids, chat.stop_token_ids());
        for id in before {
            if !config.eos_token_ids.contains(&id) {
                config.eos_token_ids.push(id);
            }
        }
        config.pad_token_id = Some(tokenizer.special().pad_token_id);
        let dir = context.output("model")?;
        context.check_stop()?;
        let save = match params.to {
            Format::Huggingface => olmo_model::save_huggingface,
            Format::OlmoCore => olmo_model::save_olmo_core,
            Format::Olmo => olmo_model::save_olmo,
        };
        save(&dir, &config, &parameters, params.dtype).map_err(|e| e.with_code("convert::model"))?;
        let tokenizer_out = if params.to == Format::OlmoCore { dir.join("tokenizer") } else { dir.clone() };
        fs::create_dir_all(&tokenizer_out).map_err(|e| StageError::io(&tokenizer_out, e))?;
        tokenizer_files::write(&tokenizer_out, &tokenizer_dir, &chat, config.max_sequence_length)?;
        clean_tokenizer(&tokenizer_out.join("tokenizer.json"), context)?;
        context.check_stop()?;
        // Compare the files first: loading ignores unknown tensors, so the logits would not show
        // one.
        let by_name = params.to == Format::Huggingface
            && olmo_model::has_safetensors(&source).map_err(|e| e.with_code("convert::model"))?;
        let weights = match by_name {
            true => check::compare_weights(&source, &dir, params.dtype)?,
            false => check::compare_parameters(&parameters, &dir, params.dtype)?,
        };
        let placement = params.placement(context.request.compute);
        let report = check::compare((&config, &parameters), &dir, params.dtype, weights, &placement)?;
        write_json(&context.output("report")?.join("report.json"), &report)?;
        context.message(report.to_string());
        report.verdict()
    }
}

/// Removes truncation, padding and dropout from the exported `tokenizer.json`, with a warning.
/// Tokenizers from stage `tokenizer` have none of these settings.
fn clean_tokenizer(path: &Path, context: &mut Context) -> Result<(), StageError> {
    let bytes = fs::read(path).map_err(|e| StageError::io(path, e))?;
    let Some(cleaned) = tokenizer_json::clean(&bytes) else { return Ok(()) };
    fs::write(path, &cleaned.bytes).map_err(|e| StageError::io(path, e))?;
    context.warning(format!("removed from the exported tokenizer.json: {}", cleaned.removed.join(", ")));
    Ok(())
}
