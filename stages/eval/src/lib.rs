//! Stage `eval`: prompts a model with conversations and scores exact matches.
//!
//! A prompt is everything before a conversation's last assistant turn, rendered with the chat
//! template. The model answers greedily, and an answer is correct if it equals that turn, ignoring
//! surrounding whitespace. Scores are also grouped by family, the value of the dataset's column
//! `dataset`.

mod answers;
mod prompts;

use olmo_data::{Chat, Template, TextTokenizer, dataset};
use olmo_infer::{ChatModel, Placement};
use olmo_stage::compute_params::ComputeParams;
use olmo_stage::rules::{Finding, Question};
use olmo_stage::worker::enforce;
use olmo_stage::{Compute, Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prompts a model with every conversation up to its last assistant turn and scores exact matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Chat template, for a model that does not record one. Null: the one that the model was
    /// trained with, or the tokenizer's.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["tulu", "olmo2", "chatml", null]))]
    pub template: Option<Template>,
    /// Maximum number of tokens in an answer.
    #[serde(default = "default_max_new_tokens")]
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// Evaluates only the first N conversations; null: all.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    #[serde(flatten)]
    pub compute: ComputeParams,
}

impl Params {
    fn broken(&self, compute: Compute) -> Vec<Finding> {
        self.compute.broken("eval", compute)
    }

    fn placement(&self, compute: Compute) -> Placement<'_> {
        Placement { compute, device: &self.compute.device, stage: "eval" }
    }
}

fn default_max_new_tokens() -> usize {
    64
}

/// The stage.
pub struct Eval;

impl Stage for Eval {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        params.broken(question.compute)
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        enforce(params.broken(context.request.compute))?;
        let tokenizer = TextTokenizer::open(&context.input("tokenizer")?)?;
        let model_dir = context.input("model")?;
        let chat = Chat::of_model(&model_dir, &tokenizer, params.template)
            .map_err(|e| StageError::fail("eval::template", e.to_string()).hint(e.hint()))?;
        let chat = ChatModel::new(tokenizer, chat, "eval");
        let model = olmo_infer::open(&model_dir, &params.placement(context.request.compute))?;
        chat.check_tokenizer(model.config())?;
        let mut conversations = dataset::read_messages(&context.input("prompts")?)?;
        conversations.truncate(params.limit.unwrap_or(usize::MAX));
        if conversations.is_empty() {
            return Err(StageError::fail("eval::empty", "there are no conversations to evaluate")
                .hint("give a dataset with at least one record, and `limit` above 0"));
        }
        let prompts = prompts::prompts(&conversations, &chat)?;
        let without = conversations.len() - prompts.len();
        if prompts.is_empty() {
            return Err(StageError::fail(
                "eval::no_answer",
                format!("none of {without} conversations has an assistant turn"),
            )
            .hint("give conversations that end with the expected answer"));
        }
        if without > 0 {
            context.warning(format!(
                "{without} of {} conversations are skipped: they have no assistant turn to compare with",
                conversations.len()
            ));
        }
        let answers = answers::ask(&*model, &chat, &prompts, params.max_new_tokens, context)?;
        answers::write(&answers, &context.output("metrics")?, context)
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
