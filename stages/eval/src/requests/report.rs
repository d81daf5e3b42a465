//! The metrics of the tasks: `metrics.json`; and what failed.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_eval::rule::{Metric, Rule};
use olmo_eval::summary::{Lengths, Sample, summarize};
use olmo_eval::text::words;
use olmo_eval::{Formulation, Scored, TaskMetrics, Work, score};
use olmo_stage::worker::write_json;
use olmo_stage::{Context, StageError};
use serde::Serialize;

use super::encoding::{Item, Outcome};
use super::files::Task;
use super::predictions;
use crate::params::Params;

/// Maximum number of failures in an error.
const SHOWN: usize = 5;

/// `metrics.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Metrics {
    format: u32,
    /// Maximum number of tokens that the model read.
    max_length: usize,
    /// Totals over all tasks.
    instances: usize,
    failed: usize,
    truncated: usize,
    tasks: BTreeMap<String, TaskMetrics>,
}

impl Metrics {
    pub(super) fn into_tasks(self) -> BTreeMap<String, TaskMetrics> {
        self.tasks
    }
}

/// Fails if more than `max_failed` items have failed so far.
///
/// # Errors
/// The first failures, with their lines.
pub(super) fn check_failures(params: &Params, items: &[Item<'_>]) -> Result<(), StageError> {
    let failure = |item: &Item<'_>| match &item.result {
        Outcome::Failed(why) => Some(format!("{}:{}: {why}", item.file, item.instance.line)),
        _ => None,
    };
    let failures: Vec<String> = items.iter().filter_map(failure).collect();
    if failures.len() <= params.max_failed {
        return Ok(());
    }
    let mut what =
        format!("{} of {} requests failed, and `max_failed` is {}:", failures.len(), items.len(), params.max_failed);
    for failure in failures.iter().take(SHOWN) {
        what.push_str("\n  ");
        what.push_str(failure);
    }
    if failures.len() > SHOWN {
        what.push_str(&format!("\n  and {} more", failures.len() - SHOWN));
    }
    Err(StageError::fail("eval::failed", what)
        .hint("correct or remove these requests, or raise `max_failed` to leave them out of the metrics"))
}

/// The metrics of all tasks.
pub(super) fn metrics(params: &Params, tasks: &[Task], items: &[Item<'_>], max_length: usize) -> Metrics {
    let of_task = |task: &Task| -> TaskMetrics {
        let own: Vec<&Item<'_>> = items.iter().filter(|item| item.instance.task == task.name).collect();
        let is_failed = |item: &&&Item<'_>| matches!(item.result, Outcome::Failed(_) | Outcome::Waiting);
        let samples: Vec<Sample> =
            own.iter().filter(|item| !is_failed(item)).map(|item| sample(item, params)).collect();
        let rule = own.first().and_then(|item| item.instance.in_loop.as_ref());
        TaskMetrics {
            formulation: task.formulation,
            shots: params.shots.or_else(|| rule.and_then(|rule| rule.shots)),
            version: params.task_version.clone().or_else(|| rule.map(|rule| rule.version.clone())),
            primary: Some(primary(task.formulation, rule).to_owned()),
            instances: own.len(),
            failed: own.iter().filter(is_failed).count(),
            truncated: own.iter().filter(|item| item.cut() > 0).count(),
            metrics: summarize(task.formulation, &samples),
        }
    };
    let tasks: BTreeMap<String, TaskMetrics> = tasks.iter().map(|task| (task.name.clone(), of_task(task))).collect();
    let total = |get: fn(&TaskMetrics) -> usize| tasks.values().map(get).sum();
    Metrics {
        format: 1,
        max_length,
        instances: total(|task| task.instances),
        failed: total(|task| task.failed),
        truncated: total(|task| task.truncated),
        tasks,
    }
}

/// The scores of an item.
fn sample(item: &Item<'_>, params: &Params) -> Sample {
    let lengths = |scored: &Scored, words: Option<usize>| Lengths {
        nats: 0.0 - scored.sum_logits,
        bytes: scored.bytes() as f64,
        words: words.map(|words| words as f64),
    };
    let ratio = match (&item.result, &item.instance.work) {
        (Outcome::Scored(scored), Work::Choose { gold, .. }) => scored.get(*gold).map(|gold| lengths(gold, None)),
        (Outcome::Scored(scored), Work::Roll { text }) => scored.first().map(|whole| lengths(whole, Some(words(text)))),
        _ => None,
    };
    let rule = item.instance.in_loop.as_ref();
    let positive = match (&item.result, &item.instance.work) {
        (Outcome::Scored(scored), Work::Choose { gold, .. }) if rule.is_some_and(|r| r.metric == Metric::F1) => {
            let is_first = score::choose(scored, 0).get("acc") == Some(&1.0);
            Some((is_first, *gold == 0))
        }
        _ => None,
    };
    Sample { scores: predictions::scores(item, &params.normalizers), ratio, positive }
}

/// The metric that a task is judged by.
fn primary(formulation: Formulation, rule: Option<&Rule>) -> &'static str {
    match (rule, formulation) {
        (Some(rule), _) => rule.metric.primary(),
        (None, Formulation::MultipleChoice) => "acc",
        (None, Formulation::Loglikelihood | Formulation::Rolling) => "bits_per_byte",
        (None, Formulation::Tokens) => "ce_loss",
        (None, Formulation::Generation | Formulation::Chat) => "exact_match",
    }
}

/// Writes `metrics.json` into folder `dir`, and reports the main metric of each task.
pub(super) fn write(metrics: &Metrics, dir: &Path, context: &mut Context) -> Result<(), StageError> {
    write_json(&dir.join("metrics.json"), metrics)?;
    if metrics.truncated > 0 {
        context.warning(format!(
            "{} of {} requests were longer than the {} tokens that the model reads, and were cut at the beginning",
            metrics.truncated, metrics.instances, metrics.max_length
        ));
    }
    if metrics.failed > 0 {
        context
            .warning(format!("{} of {} requests failed; no metric includes them", metrics.failed, metrics.instances));
    }
    for (name, task) in &metrics.tasks {
        let main = task.primary.as_deref().unwrap_or_default();
        let Some(olmo_eval::Metric { value, stderr, n }) = task.metrics.get(main) else { continue };
        let error = stderr.map_or_else(String::new, |error| format!(" ± {error:.4}"));
        context.message(format!("{name}: {main} {value:.4}{error} (n = {n})"));
    }
    Ok(())
}
