//! Port `prompts`: the model answers conversations, and an answer is correct if it equals the last
//! assistant turn.

mod answers;
mod prompts;

use olmo_data::dataset;
use olmo_infer::{ChatModel, LanguageModel};
use olmo_stage::{Context, StageError};

use crate::params::Params;

/// Answers the conversations of port `prompts` and writes the metrics.
pub(crate) fn run(
    params: &Params,
    model: &dyn LanguageModel,
    chat: &ChatModel,
    context: &mut Context,
) -> Result<(), StageError> {
    let mut conversations = dataset::read_messages(&context.input("prompts")?)?;
    conversations.truncate(params.limit.unwrap_or(usize::MAX));
    if conversations.is_empty() {
        return Err(StageError::fail("eval::empty", "there are no conversations to evaluate")
            .hint("give a dataset with at least one record, and `limit` above 0"));
    }
    let prompts = prompts::prompts(&conversations, chat)?;
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
    let answers = answers::ask(model, chat, &prompts, params.max_new_tokens, context)?;
    answers::write(&answers, &context.output("metrics")?, context)
}
