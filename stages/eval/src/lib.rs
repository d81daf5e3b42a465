//! Stage `eval`: evaluates a model.
//!
//! With conversations (port `prompts`), a prompt is everything before a conversation's last assistant
//! turn, rendered with the chat template. The model answers greedily, and an answer is correct if it
//! equals that turn, ignoring surrounding whitespace. Scores are also grouped by family, the value of
//! the dataset's column `dataset`.
//!
//! With requests (port `requests`), the model scores continuations and whole texts, or continues
//! prompts, as JSON Lines of a harness say. Each task has metrics with their errors, and every
//! instance is kept with its exact prompt.

mod conversations;
mod params;
mod requests;

use olmo_data::{Chat, TextTokenizer};
use olmo_infer::ChatModel;
use olmo_stage::rules::{Finding, Question};
use olmo_stage::worker::enforce;
use olmo_stage::{Context, Stage, StageError};

use params::Connected;
pub use params::Params;

/// The stage.
pub struct Eval;

impl Stage for Eval {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        let connected = Connected { prompts: question.has("prompts"), requests: question.has("requests") };
        params.broken(question.compute, connected)
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        let given = |port: &str| !context.inputs(port).is_empty();
        let connected = Connected { prompts: given("prompts"), requests: given("requests") };
        enforce(params.broken(context.request.compute, connected))?;
        // Bad requests are reported before a model is opened.
        let tasks = if connected.requests { Some(requests::read(&params, context)?) } else { None };
        let tokenizer = TextTokenizer::open(&context.input("tokenizer")?)?;
        let model_dir = context.input("model")?;
        let chat = Chat::of_model(&model_dir, &tokenizer, params.template)
            .map_err(|e| StageError::fail("eval::template", e.to_string()).hint(e.hint()))?;
        let chat = ChatModel::new(tokenizer, chat, "eval");
        let model = olmo_infer::open(&model_dir, &params.placement(context.request.compute))?;
        chat.check_tokenizer(model.config())?;
        match tasks {
            Some(tasks) => requests::run(&params, &tasks, &*model, &chat, context),
            None => conversations::run(&params, &*model, &chat, context),
        }
    }
}
