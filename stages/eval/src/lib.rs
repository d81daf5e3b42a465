//! Stage `eval`: evaluates a model.
//!
//! With conversations (port `prompts`), a prompt is everything before a conversation's last assistant
//! turn, rendered with the chat template. The model answers greedily, and an answer is correct if it
//! equals that turn, ignoring surrounding whitespace. Scores are also grouped by family, the value of
//! the dataset's column `dataset`.
//!
//! With requests (port `requests`), the model scores continuations and whole texts, or continues
//! prompts, as JSON Lines of a harness say. With rows of tokens (port `memmaps`), it measures their
//! perplexity. Each task has metrics with their errors, and every instance is kept with its exact
//! prompt.

mod conversations;
mod params;
mod requests;
mod tokenizer;
mod training;

use olmo_data::{Chat, TextTokenizer};
use olmo_infer::ChatModel;
use olmo_stage::rules::{Finding, Question};
use olmo_stage::worker::enforce;
use olmo_stage::{Context, Stage, StageError};

use params::Connected;
pub use params::Params;
pub use training::TaskScorer;

/// The stage.
pub struct Eval;

impl Stage for Eval {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        let connected = Connected::of(|port| question.has(port));
        params.broken(question.compute, connected)
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        let connected = Connected::of(|port| !context.inputs(port).is_empty());
        enforce(params.broken(context.request.compute, connected))?;
        // Bad requests are reported before a model is opened.
        let mut tasks = if connected.requests { requests::read(&params, context)? } else { Vec::new() };
        let tokenizer_dir = context.input("tokenizer")?;
        let tokenizer = TextTokenizer::open(&tokenizer_dir)?;
        let model_dir = context.input("model")?;
        tokenizer::check(&model_dir, &tokenizer_dir)?;
        if connected.memmaps {
            tasks.extend(requests::read_memmaps(&params, &tokenizer_dir, context)?);
            requests::refuse_twins(&tasks)?;
        }
        let chat = Chat::of_model(&model_dir, &tokenizer, params.template)
            .map_err(|e| StageError::fail("eval::template", e.to_string()).hint(e.hint()))?;
        let chat = ChatModel::new(tokenizer, chat, "eval");
        let model = olmo_infer::open(&model_dir, &params.placement(context.request.compute))?;
        chat.check_tokenizer(model.config())?;
        if connected.prompts {
            conversations::run(&params, &*model, &chat, context)
        } else {
            requests::run(&params, &tasks, &*model, &chat, context)
        }
    }
}
