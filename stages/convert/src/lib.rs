//! Stage `convert`: writes a model as Hugging Face reads it, and checks that the export answers as the model does.
//!
//! The export is read again from its files; its logits on fixed ids must equal those of the model that went in. The report says
//! how far they are apart, and a difference of more than 1e-5 is a failure.

mod check;
mod tokenizer_files;

use olmo_data::{Chat, Template, TextTokenizer};
use olmo_model::ModelError;
use olmo_stage::worker::write_json;
use olmo_stage::{Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Writes a model as Hugging Face reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// How a conversation becomes text, for a model that does not record it. Null: as the model's conversations were written in
    /// training, or as its tokenizer says.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["tulu", "olmo2", "chatml", null]))]
    pub template: Option<Template>,
}

/// The stage.
pub struct Convert;

impl Stage for Convert {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        let tokenizer_dir = context.input("tokenizer")?;
        let tokenizer = TextTokenizer::open(&tokenizer_dir)?;
        let model_dir = context.input("model")?;
        let chat = Chat::of_model(&model_dir, &tokenizer, params.template)
            .map_err(|e| StageError::fail("convert::template", e.to_string()).hint(e.hint()))?;
        let (mut config, parameters) = olmo_model::load(&model_dir).map_err(model_failure)?;
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
        olmo_model::save_huggingface(&dir, &config, &parameters).map_err(model_failure)?;
        tokenizer_files::write(&dir, &tokenizer_dir, &chat, config.max_sequence_length)?;
        context.check_stop()?;
        let (read_config, read_parameters) = olmo_model::load(&dir).map_err(model_failure)?;
        let report = check::compare((&config, &parameters), (&read_config, &read_parameters))?;
        write_json(&context.output("report")?.join("report.json"), &report)?;
        context.message(format!(
            "largest difference of logits over {} tokens: {:e}",
            report.tokens, report.max_abs_difference
        ));
        report.verdict()
    }
}

fn model_failure(error: ModelError) -> StageError {
    match error {
        ModelError::Io { path, source } => StageError::io(&path, source),
        other => StageError::fail("convert::model", other.to_string()),
    }
}
