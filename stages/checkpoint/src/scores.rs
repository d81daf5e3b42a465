//! The scores of checkpoints: read from `metrics.json`, matched by label, compared.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_stage::{InputItem, StageError};
use serde::Serialize;
use serde_json::Value;

use crate::Order;

/// A checkpoint's label and score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scored {
    pub label: String,
    pub value: f64,
}

/// The score `metric` of each checkpoint, in the order of their steps.
///
/// # Errors
/// Labels that stand on one side only, a file that cannot be read, or a checkpoint without that score.
pub fn read(checkpoints: &[InputItem], scores: &[InputItem], metric: &str) -> Result<Vec<Scored>, StageError> {
    let (checkpoints, scores) = (labels(checkpoints)?, labels(scores)?);
    let alone = |from: &BTreeMap<&str, &Path>, other: &BTreeMap<&str, &Path>| {
        from.keys().filter(|label| !other.contains_key(*label)).copied().collect::<Vec<_>>().join(", ")
    };
    let (without_score, without_checkpoint) = (alone(&checkpoints, &scores), alone(&scores, &checkpoints));
    if !without_score.is_empty() || !without_checkpoint.is_empty() {
        let mut problems = Vec::new();
        if !without_score.is_empty() {
            problems.push(format!("no scores for {without_score}"));
        }
        if !without_checkpoint.is_empty() {
            problems.push(format!("scores without a checkpoint: {without_checkpoint}"));
        }
        return Err(StageError::fail("checkpoint::labels", problems.join("; "))
            .hint("let `scores` come from a stage that runs `for_each` of the same checkpoints"));
    }
    let read =
        |(label, path): (&&str, &&Path)| Ok(Scored { label: (*label).to_owned(), value: score(label, path, metric)? });
    let mut scored = scores.iter().map(read).collect::<Result<Vec<_>, StageError>>()?;
    scored.sort_by_key(|scored| step(&scored.label));
    Ok(scored)
}

fn labels(items: &[InputItem]) -> Result<BTreeMap<&str, &Path>, StageError> {
    let mut found = BTreeMap::new();
    for item in items {
        let label = item.label.as_deref().unwrap_or_default();
        if found.insert(label, item.path.as_path()).is_some() {
            return Err(StageError::fail(
                "checkpoint::labels",
                format!("two items have the label `{}`", label.escape_debug()),
            ));
        }
    }
    Ok(found)
}

/// The number at the end of `stepN`; labels of another form come last.
fn step(label: &str) -> u64 {
    label.strip_prefix("step").and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}

fn score(label: &str, dir: &Path, metric: &str) -> Result<f64, StageError> {
    let path = dir.join("metrics.json");
    let text = std::fs::read(&path).map_err(|e| StageError::io(&path, e))?;
    let value: Value = serde_json::from_slice(&text)
        .map_err(|e| StageError::fail("checkpoint::metrics", format!("the metrics of {label} are not JSON: {e}")))?;
    let mut numbers = BTreeMap::new();
    flatten("", &value, &mut numbers);
    numbers.get(metric).copied().ok_or_else(|| {
        let known: Vec<&str> = numbers.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "no numbers at all".into() } else { known.join(", ") };
        StageError::fail(
            "checkpoint::metric",
            format!("the metrics of {label} have no number `{}`; they have: {known}", metric.escape_debug()),
        )
        .hint("name one of these under `select`")
    })
}

/// All numbers inside `value`, by their path.
fn flatten(path: &str, value: &Value, numbers: &mut BTreeMap<String, f64>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            flatten(&path, value, numbers);
        }),
        Value::Number(number) => numbers.extend(number.as_f64().map(|number| (path.to_owned(), number))),
        _ => {}
    }
}

/// The best of `scored`; of equal ones the first. `None` if there is none.
pub fn best(scored: &[Scored], order: Order) -> Option<&Scored> {
    scored.iter().reduce(|best, next| {
        let better = match order {
            Order::Max => next.value > best.value,
            Order::Min => next.value < best.value,
        };
        if better { next } else { best }
    })
}
