//! Port `requests`: requests of evaluation harnesses.

mod compute;
mod encoding;
mod files;
mod predictions;
mod report;

use olmo_infer::{ChatModel, LanguageModel};
use olmo_stage::{Context, StageError};

use crate::params::Params;
pub(crate) use files::{Task, read};

/// Scores the instances of `tasks` and writes metrics and predictions.
///
/// # Errors
/// More than `max_failed` requests fail; the error lists the first of them.
pub(crate) fn run(
    params: &Params,
    tasks: &[Task],
    model: &dyn LanguageModel,
    chat: &ChatModel,
    context: &mut Context,
) -> Result<(), StageError> {
    let mut items = encoding::encode(params, tasks, model.config(), chat)?;
    report::check_failures(params, &items)?;
    compute::score(&mut items, model, context)?;
    compute::answer(&mut items, model, chat, context)?;
    report::check_failures(params, &items)?;
    let folder = context.output("metrics")?;
    let predictions = predictions::predictions(&items, &params.normalizers);
    predictions::write(&predictions, &folder)?;
    let metrics = report::metrics(params, tasks, &items, encoding::max_length(params, model.config()));
    report::write(&metrics, &folder, context)
}
