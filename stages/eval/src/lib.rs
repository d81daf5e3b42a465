//! Stage `eval`: asks a model the last question of every conversation and counts exact answers.
//!
//! A prompt is everything before a conversation's last assistant turn, as the chat template writes it; the model answers
//! greedily, and its answer is right if it equals that turn, both without surrounding white space. A family is what the
//! dataset's column `dataset` says.

mod answers;
mod prompts;

use olmo_data::{Chat, Template, TextTokenizer, dataset};
use olmo_model::{Model, ModelError};
use olmo_stage::{Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks a model the last question of every conversation and counts exact answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// How a conversation becomes text, for a model that does not record it. Null: as the model's conversations were written in
    /// training, or as its tokenizer says.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["tulu", "olmo2", "chatml", null]))]
    pub template: Option<Template>,
    /// An answer has at most this many tokens.
    #[serde(default = "default_max_new_tokens")]
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// Only the first so many conversations are asked; null: all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
}

fn default_max_new_tokens() -> usize {
    64
}

/// The stage.
pub struct Eval;

impl Stage for Eval {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        let tokenizer = TextTokenizer::open(&context.input("tokenizer")?)?;
        let model_dir = context.input("model")?;
        let chat = Chat::of_model(&model_dir, &tokenizer, params.template)
            .map_err(|e| StageError::fail("eval::template", e.to_string()).hint(e.hint()))?;
        let (config, parameters) = olmo_model::load(&model_dir).map_err(model_failure)?;
        prompts::check_tokenizer(&config, tokenizer.special())?;
        let mut conversations = dataset::read_messages(&context.input("prompts")?)?;
        conversations.truncate(params.limit.unwrap_or(usize::MAX));
        if conversations.is_empty() {
            return Err(StageError::fail("eval::empty", "there is no conversation to ask")
                .hint("give a dataset with at least one record, and `limit` above 0"));
        }
        let prompts = prompts::prompts(&conversations, &chat, &tokenizer)?;
        let without = conversations.len() - prompts.len();
        if prompts.is_empty() {
            return Err(StageError::fail("eval::no_answer", format!("none of {without} conversations has an assistant turn"))
                .hint("give conversations that end with the expected answer"));
        }
        if without > 0 {
            context.warning(format!(
                "{without} of {} conversations are left out: they have no assistant turn to compare an answer with",
                conversations.len()
            ));
        }
        let model = Model::new(&config, &parameters, false).map_err(model_failure)?;
        let answers =
            answers::ask(&model, &tokenizer, &chat.stop_token_ids(), &prompts, params.max_new_tokens, context)?;
        answers::write(&answers, &context.output("metrics")?, context)
    }
}

fn model_failure(error: ModelError) -> StageError {
    match error {
        ModelError::Io { path, source } => StageError::io(&path, source),
        other => StageError::fail("eval::model", other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_schema_are_the_templates_there_are() {
        let schema = schemars::schema_for!(Params).to_value();
        let words: Vec<&str> = Template::ALL.iter().map(|template| template.as_str()).collect();
        let mut words = serde_json::json!(words);
        words.as_array_mut().unwrap().push(serde_json::Value::Null);
        assert_eq!(schema["properties"]["template"]["enum"], words);
        let params: Params = serde_json::from_str("{}").unwrap();
        assert_eq!((params.template, params.max_new_tokens, params.limit), (None, 64, None));
    }
}
