//! Early stopping, and the tasks that are scored while the model trains.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_stage::rules::Finding;
use olmo_stage::{Context, StageError};
use olmo_stage_eval::TaskScorer;
use olmo_train::early_stopping::{EVAL_LOSS, EarlyStopping, Score, Scorer, SharedScorer};

use crate::params::{EarlyStoppingParams, Params};

/// Every rule about evaluations that `params` break. `is_given` tells whether a port is connected.
pub(crate) fn broken(params: &Params, is_given: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (has_requests, has_tokenizer) = (is_given("requests"), is_given("tokenizer"));
    if has_requests != has_tokenizer {
        let what = "`requests` and `tokenizer` are given together or not at all";
        findings.push(Finding::error("train::requests", "", what).hint("give the tokenizer that made the data"));
    }
    if params.eval_limit.is_some() && !has_requests {
        let what = "`eval_limit` has an effect only with the input `requests`, which is not given";
        findings.push(Finding::error("train::requests", "eval_limit", what).hint("remove it, or give `requests`"));
    }
    let Some(stopping) = &params.early_stopping else { return findings };
    let what = match rule(stopping) {
        None => Some(("", "`early_stopping` needs exactly one of `max` and `min`".to_owned())),
        Some(rule) if rule.metric == EVAL_LOSS && !is_given("eval_data") => {
            Some((".min", "`early_stopping` waits for eval_loss, but `eval_data` is not given".to_owned()))
        }
        Some(rule) if rule.metric != EVAL_LOSS && !has_requests => {
            let metric = rule.metric.escape_debug();
            Some(("", format!("`early_stopping` waits for `{metric}`, but `requests` is not given")))
        }
        Some(_) => None,
    };
    if let Some((key, what)) = what {
        let hint = "write `early_stopping: {min: eval_loss, patience: 3}` with `eval_data`, or \
                    `{max: tasks.NAME, patience: 3}` with `requests`";
        findings.push(Finding::error("train::early_stopping", &format!("early_stopping{key}"), what).hint(hint));
    }
    if !stopping.min_delta.is_finite() || !stopping.errors.is_finite() {
        let what = "`min_delta` and `errors` must be finite numbers";
        findings.push(Finding::error("train::early_stopping", "early_stopping", what));
    }
    findings
}

/// The rule, if exactly one of `max` and `min` is set.
pub(crate) fn rule(params: &EarlyStoppingParams) -> Option<EarlyStopping> {
    let (metric, maximize) = match (&params.max, &params.min) {
        (Some(metric), None) => (metric, true),
        (None, Some(metric)) => (metric, false),
        _ => return None,
    };
    let (patience, min_delta, errors) = (params.patience, params.min_delta, params.errors);
    Some(EarlyStopping { metric: metric.clone(), maximize, patience, min_delta, errors })
}

/// Scores the tasks of port `requests`, if it is connected.
///
/// # Errors
/// The requests or the tokenizer cannot be read.
pub(crate) fn scorer(params: &Params, context: &mut Context) -> Result<Option<SharedScorer>, StageError> {
    if context.inputs("requests").is_empty() {
        return Ok(None);
    }
    let tasks = TaskScorer::open(params.eval_limit, &params.compute, context)?;
    let metric = params.early_stopping.as_ref().and_then(rule).map(|rule| rule.metric);
    if let Some(metric) = metric.as_ref().filter(|metric| *metric != EVAL_LOSS) {
        let known = tasks.names();
        let task = metric.strip_prefix("tasks.").unwrap_or_default();
        if !known.iter().any(|name| task == *name || task.starts_with(&format!("{name}.metrics."))) {
            let what = format!("`early_stopping` waits for `{}`, which no task gives", metric.escape_debug());
            let names: Vec<String> = known.iter().map(|name| format!("tasks.{name}")).collect();
            return Err(StageError::fail("train::early_stopping", what).hint(format!(
                "there are: {}; `tasks.NAME.metrics.METRIC.value` names another metric",
                names.join(", ")
            )));
        }
    }
    Ok(Some(SharedScorer(Box::new(Tasks { tasks, metric }))))
}

struct Tasks {
    tasks: TaskScorer,
    /// The score that early stopping waits for.
    metric: Option<String>,
}

impl Scorer for Tasks {
    fn score(&self, model: &Path, context: &mut Context) -> Result<BTreeMap<String, Score>, StageError> {
        let all = self.tasks.score(model, context)?;
        let mut scores = BTreeMap::new();
        for (name, task) in all {
            for (metric, found) in &task.metrics {
                let score = Score { value: found.value, stderr: found.stderr };
                if task.primary.as_ref() == Some(metric) {
                    scores.insert(format!("tasks.{name}"), score);
                }
                let path = format!("tasks.{name}.metrics.{metric}.value");
                if self.metric.as_ref() == Some(&path) {
                    scores.insert(path, score);
                }
            }
        }
        if let Some(metric) =
            self.metric.as_ref().filter(|metric| *metric != EVAL_LOSS && !scores.contains_key(*metric))
        {
            let known: Vec<&str> = scores.keys().map(String::as_str).collect();
            let what = format!("`early_stopping` waits for `{}`, which no task gives", metric.escape_debug());
            return Err(
                StageError::fail("train::early_stopping", what).hint(format!("there are: {}", known.join(", ")))
            );
        }
        Ok(scores)
    }
}
