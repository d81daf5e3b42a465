//! Stage `generate`: answers prompts with an exported model, greedily.
//!
//! Like any other reader of the export, it uses only the files in the model's folder:
//! `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`,
//! `chat_template.jinja` and `generation_config.json`.

mod answers;
mod chat;

use olmo_model::{GenerateOptions, Model, generate};
use olmo_stage::{Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use answers::Answer;
use chat::Chat;

/// Generates answers to prompts with an exported model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// User messages to answer, each in its own conversation.
    #[schemars(length(min = 1))]
    pub prompts: Vec<String>,
    /// Maximum number of tokens in an answer.
    #[serde(default = "default_max_new_tokens")]
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// System message before every prompt; null: none.
    #[serde(default)]
    pub system: Option<String>,
    /// Today's date for chat templates that ask for it (`strftime_now`), such as `2026-01-31`. The
    /// system clock is never used.
    #[serde(default)]
    pub date: Option<String>,
}

fn default_max_new_tokens() -> usize {
    128
}

/// The stage.
pub struct Generate;

impl Stage for Generate {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        if params.prompts.is_empty() {
            return Err(StageError::fail("generate::empty", "`prompts` is empty"));
        }
        let dir = context.input("model")?;
        let chat = Chat::open(&dir, params.date.as_deref())?;
        let (config, parameters) = olmo_model::load(&dir).map_err(|e| e.with_code("generate::model"))?;
        chat.check(&config)?;
        let model = Model::new(&config, &parameters, false).map_err(|e| e.with_code("generate::model"))?;
        let mut answers = Vec::with_capacity(params.prompts.len());
        for prompt in params.prompts {
            context.check_stop()?;
            let input_ids = chat.prompt(params.system.as_deref(), &prompt)?;
            let room = config.max_sequence_length.saturating_sub(input_ids.len());
            if room == 0 {
                let what = format!(
                    "prompt {} has {} tokens, which leaves no room for an answer in the model's {}",
                    answers.len() + 1,
                    input_ids.len(),
                    config.max_sequence_length
                );
                return Err(StageError::fail("generate::too_long", what).hint("shorten the prompt"));
            }
            let options = GenerateOptions {
                max_new_tokens: params.max_new_tokens.min(room),
                eos_token_ids: chat.stop_token_ids(),
            };
            let made = generate(&model, &[input_ids], &options)
                .map_err(|e| e.with_code("generate::model"))?
                .pop()
                .unwrap_or_default();
            let answer = chat.decode(&made)?;
            answers.push(Answer { prompt, answer });
        }
        answers::write(&context.output("answers")?, params.system.as_deref(), &answers)
    }
}
