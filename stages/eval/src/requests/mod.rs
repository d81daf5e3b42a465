//! Ports `requests` and `memmaps`: requests of evaluation harnesses, and rows of tokens.

mod compute;
mod encoding;
mod files;
mod memmaps;
mod predictions;
mod report;

use std::collections::BTreeMap;

use olmo_eval::TaskMetrics;
use olmo_infer::{ChatModel, LanguageModel};
use olmo_stage::{Context, StageError};

use crate::params::Params;
pub(crate) use files::{Task, read};
pub(crate) use memmaps::read as read_memmaps;

/// Refuses two tasks with the same name.
pub(crate) fn refuse_twins(tasks: &[Task]) -> Result<(), StageError> {
    let is_known = |(index, task): (usize, &Task)| tasks[..index].iter().any(|other| other.name == task.name);
    let twin = tasks.iter().enumerate().find(|(index, task)| is_known((*index, task)));
    twin.map_or(Ok(()), |(_, task)| {
        let what = format!("there are requests and a memmap with the name `{}`", task.name.escape_debug());
        Err(StageError::fail("eval::task", what).hint("give the memmap another name in `memmap_names`"))
    })
}

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
    let items = ask(params, tasks, model, chat, context)?;
    let folder = context.output("metrics")?;
    let predictions = predictions::predictions(&items, &params.normalizers);
    predictions::write(&predictions, &folder)?;
    let metrics = report::metrics(params, tasks, &items, encoding::max_length(params, model.config()));
    report::write(&metrics, &folder, context)
}

/// The metrics of `tasks`, without predictions.
///
/// # Errors
/// More than `max_failed` requests fail; the error lists the first of them.
pub(crate) fn metrics(
    params: &Params,
    tasks: &[Task],
    model: &dyn LanguageModel,
    chat: &ChatModel,
    context: &mut Context,
) -> Result<BTreeMap<String, TaskMetrics>, StageError> {
    let items = ask(params, tasks, model, chat, context)?;
    Ok(report::metrics(params, tasks, &items, encoding::max_length(params, model.config())).into_tasks())
}

/// The instances of `tasks` with what the model returned.
fn ask<'a>(
    params: &Params,
    tasks: &'a [Task],
    model: &dyn LanguageModel,
    chat: &ChatModel,
    context: &mut Context,
) -> Result<Vec<encoding::Item<'a>>, StageError> {
    let mut items = encoding::encode(params, tasks, model.config(), chat)?;
    report::check_failures(params, &items)?;
    compute::score(&mut items, model, context)?;
    compute::answer(&mut items, model, chat, context)?;
    report::check_failures(params, &items)?;
    Ok(items)
}
