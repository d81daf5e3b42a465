//! Reads the scores of checkpoints from `metrics.json`, matches them by label and compares them.

use std::collections::BTreeMap;
use std::path::Path;

use olmo_stage::{InputItem, StageError};
use serde::Serialize;
use serde_json::Value;

/// The loss on held-out data, measured by stage `train` itself.
const EVAL_LOSS: &str = "eval_loss";
/// The metrics that stage `train` stores in every checkpoint.
const TRAINING: &str = "metrics.jsonl";

/// Whether higher or lower scores are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    Max,
    Min,
}

impl Order {
    /// Whether score `a` is better than `b`.
    pub(crate) fn is_better(self, a: f64, b: f64) -> bool {
        match self {
            Self::Max => a > b,
            Self::Min => a < b,
        }
    }
}

/// A checkpoint's label and scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Scored {
    pub label: String,
    /// The score that decides.
    pub value: f64,
    /// All top-level numbers of its metrics, and its `eval_loss`.
    pub numbers: BTreeMap<String, f64>,
}

/// The scores of each checkpoint, ordered by step. `metric` is the deciding score.
///
/// # Errors
/// A label without a counterpart, an unreadable file, or a checkpoint without the score.
pub(crate) fn read(checkpoints: &[InputItem], scores: &[InputItem], metric: &str) -> Result<Vec<Scored>, StageError> {
    let (checkpoints, scores) = (labels(checkpoints)?, labels(scores)?);
    let alone = |from: &BTreeMap<&str, &Path>, other: &BTreeMap<&str, &Path>| {
        from.keys().filter(|label| !other.contains_key(*label)).copied().collect::<Vec<_>>().join(", ")
    };
    let without_score = if scores.is_empty() { String::new() } else { alone(&checkpoints, &scores) };
    let without_checkpoint = alone(&scores, &checkpoints);
    if !without_score.is_empty() || !without_checkpoint.is_empty() {
        let mut problems = Vec::new();
        if !without_score.is_empty() {
            problems.push(format!("no scores for {without_score}"));
        }
        if !without_checkpoint.is_empty() {
            problems.push(format!("scores without a checkpoint: {without_checkpoint}"));
        }
        return Err(StageError::fail("checkpoint::labels", problems.join("; "))
            .hint("bind `scores` to a stage that runs `for_each` over the same checkpoints"));
    }
    let mut scored = Vec::with_capacity(checkpoints.len());
    for (label, checkpoint) in &checkpoints {
        let mut numbers = match scores.get(label) {
            Some(dir) => metrics(label, dir)?,
            None => BTreeMap::new(),
        };
        if let Some(loss) = eval_loss(label, checkpoint, step(label))? {
            numbers.entry(EVAL_LOSS.into()).or_insert(loss);
        }
        let value = numbers.get(metric).copied().ok_or_else(|| missing(label, metric, &numbers))?;
        numbers.retain(|name, _| !name.contains('.') || name == metric);
        scored.push(Scored { label: (*label).to_owned(), value, numbers });
    }
    scored.sort_by_key(|scored| step(&scored.label));
    Ok(scored)
}

/// The numbers of the model before training: those in folder `before`, and the loss on held-out
/// data at step 0 from one of the checkpoints.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn before(before: &Path, checkpoints: &[InputItem]) -> Result<BTreeMap<String, f64>, StageError> {
    const LABEL: &str = "the model before training";
    let mut numbers = metrics(LABEL, before)?;
    numbers.retain(|name, _| !name.contains('.'));
    if let Some(first) = checkpoints.first()
        && let Some(loss) = eval_loss(LABEL, &first.path, 0)?
    {
        numbers.entry(EVAL_LOSS.into()).or_insert(loss);
    }
    Ok(numbers)
}

/// The loss on held-out data after `step` steps, from the metrics in checkpoint folder `dir`.
fn eval_loss(label: &str, dir: &Path, step: u64) -> Result<Option<f64>, StageError> {
    let path = dir.join(TRAINING);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StageError::io(&path, e)),
    };
    let mut found = None;
    for line in text.lines() {
        let record: Value = serde_json::from_str(line)
            .map_err(|e| StageError::fail("checkpoint::metrics", format!("{TRAINING} of {label}: {e}")))?;
        if record["step"].as_u64() == Some(step) {
            found = record[EVAL_LOSS].as_f64().or(found);
        }
    }
    Ok(found)
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

/// The number N in `stepN`; labels of any other form sort last.
fn step(label: &str) -> u64 {
    label.strip_prefix("step").and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}

/// The numbers in `metrics.json` of folder `dir`, keyed by path.
fn metrics(label: &str, dir: &Path) -> Result<BTreeMap<String, f64>, StageError> {
    let path = dir.join("metrics.json");
    let text = std::fs::read(&path).map_err(|e| StageError::io(&path, e))?;
    let value: Value = serde_json::from_slice(&text)
        .map_err(|e| StageError::fail("checkpoint::metrics", format!("the metrics of {label} are not JSON: {e}")))?;
    let mut numbers = BTreeMap::new();
    flatten("", &value, &mut numbers);
    // The file's format version is not a score.
    numbers.remove("format");
    Ok(numbers)
}

fn missing(label: &str, metric: &str, numbers: &BTreeMap<String, f64>) -> StageError {
    let known: Vec<&str> = numbers.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "no numbers at all".into() } else { known.join(", ") };
    let what = format!("the metrics of {label} have no number `{}`; found: {known}", metric.escape_debug());
    StageError::fail("checkpoint::metric", what).hint(match metric {
        EVAL_LOSS => "give stage train `eval_data`, and an `eval_interval` that evaluates every checkpoint",
        _ => "use one of these in `select`",
    })
}

/// All numbers inside `value`, keyed by path.
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

/// The best of `scored`, the first one in a tie. `None` if `scored` is empty.
pub(crate) fn best(scored: &[Scored], order: Order) -> Option<&Scored> {
    scored.iter().reduce(|best, next| if order.is_better(next.value, best.value) { next } else { best })
}
