//! Reads the scores of checkpoints from `metrics.json`, matches them by label and compares them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_stage::{InputItem, StageError};
use serde::Serialize;
use serde_json::Value;

/// The loss on held-out data, measured by stage `train` itself.
const EVAL_LOSS: &str = "eval_loss";
/// The metrics that stage `train` stores in every checkpoint.
const TRAINING: &str = "metrics.jsonl";

/// Numbers by their paths.
pub(crate) type Numbers = BTreeMap<String, f64>;

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
    /// Its standard error, if the evaluation gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// All top-level numbers of its metrics, the primary metric of each task, and its `eval_loss`.
    pub numbers: BTreeMap<String, f64>,
    /// Standard errors of the numbers that have one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, f64>,
    /// The training's loss at its step.
    #[serde(skip)]
    pub loss: Option<f64>,
}

/// The scores of the checkpoints that were evaluated, ordered by step, and the labels of the others.
/// `metric` is the deciding score: a path in `metrics.json`, or `tasks.NAME` for the primary metric of
/// a task.
///
/// # Errors
/// Scores without a checkpoint, an unreadable file, or an evaluated checkpoint without the score.
pub(crate) fn read(
    checkpoints: &[InputItem],
    scores: [&[InputItem]; 2],
    metric: &str,
) -> Result<(Vec<Scored>, Vec<String>), StageError> {
    let checkpoints = labels(checkpoints)?;
    let both = [labels(scores[0])?, labels(scores[1])?];
    let mut scores: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
    for (label, dir) in both.iter().flatten() {
        scores.entry(label).or_default().push(dir);
    }
    let owned = |labels: Vec<&&str>| -> Vec<String> { labels.into_iter().map(|label| (*label).to_owned()).collect() };
    // A stage with `every` evaluates some of them.
    let is_scored = |label: &&&str| scores.is_empty() || metric == EVAL_LOSS || scores.contains_key(*label);
    let mut skipped = owned(checkpoints.keys().filter(|label| !is_scored(label)).collect());
    skipped.sort_by_key(|label| step(label));
    let without_checkpoint = owned(scores.keys().filter(|label| !checkpoints.contains_key(*label)).collect());
    if !without_checkpoint.is_empty() {
        let what = format!("scores without a checkpoint: {}", without_checkpoint.join(", "));
        return Err(StageError::fail("checkpoint::labels", what)
            .hint("bind `scores` to a stage that runs `for_each` over the same checkpoints"));
    }
    let mut scored = Vec::with_capacity(checkpoints.len());
    for (label, checkpoint) in &checkpoints {
        if skipped.iter().any(|skipped| skipped == label) {
            continue;
        }
        let mut numbers = BTreeMap::new();
        for dir in scores.get(label).into_iter().flatten() {
            numbers.extend(metrics(label, dir)?);
        }
        if let Some(loss) = training(label, checkpoint, step(label), EVAL_LOSS)? {
            numbers.entry(EVAL_LOSS.into()).or_insert(loss);
        }
        let value = numbers.get(metric).copied().ok_or_else(|| missing(label, metric, &numbers))?;
        let stderr = numbers.get(&error_of(metric)).copied();
        let errors = summarize(&mut numbers, metric);
        let loss = training(label, checkpoint, step(label), "loss")?;
        scored.push(Scored { label: (*label).to_owned(), value, stderr, numbers, errors, loss });
    }
    scored.sort_by_key(|scored| step(&scored.label));
    Ok((scored, skipped))
}

/// The numbers of the model before training: those in the folders `before`, and the loss on held-out
/// data at step 0 from one of the checkpoints.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn before(
    before: &[PathBuf],
    checkpoints: &[InputItem],
    metric: &str,
) -> Result<(Numbers, Numbers), StageError> {
    const LABEL: &str = "the model before training";
    let mut numbers = BTreeMap::new();
    for dir in before {
        numbers.extend(metrics(LABEL, dir)?);
    }
    let errors = summarize(&mut numbers, metric);
    if let Some(first) = checkpoints.first()
        && let Some(loss) = training(LABEL, &first.path, 0, EVAL_LOSS)?
    {
        numbers.entry(EVAL_LOSS.into()).or_insert(loss);
    }
    Ok((numbers, errors))
}

/// Keeps the top-level numbers, the primary metrics of tasks, and `metric`. Returns the standard errors
/// of those kept.
fn summarize(numbers: &mut BTreeMap<String, f64>, metric: &str) -> BTreeMap<String, f64> {
    // Every task has a number of instances.
    let is_task = |name: &str| name.starts_with("tasks.") && numbers.contains_key(&format!("{name}.instances"));
    let is_kept = |name: &str| !name.contains('.') || name == metric || is_task(name);
    let kept: Vec<String> = numbers.keys().filter(|name| is_kept(name)).cloned().collect();
    let error = |name: &String| Some((name.clone(), *numbers.get(&error_of(name))?));
    let errors = kept.iter().filter_map(error).collect();
    numbers.retain(|name, _| kept.contains(name));
    errors
}

/// The number `name` that the training recorded after `step` steps, in checkpoint folder `dir`.
fn training(label: &str, dir: &Path, step: u64, name: &str) -> Result<Option<f64>, StageError> {
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
            found = record[name].as_f64().or(found);
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
pub(crate) fn step(label: &str) -> u64 {
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
    // `tasks.NAME` is the metric by which the task is judged.
    for (name, task) in value["tasks"].as_object().into_iter().flatten() {
        let primary = task["primary"].as_str().unwrap_or_default();
        let metric = &task["metrics"][primary];
        let (path, value, stderr) = (format!("tasks.{name}"), metric["value"].as_f64(), metric["stderr"].as_f64());
        numbers.extend(stderr.map(|stderr| (error_of(&path), stderr)));
        numbers.extend(value.map(|value| (path, value)));
    }
    Ok(numbers)
}

/// The path of the standard error of the score at `path`.
fn error_of(path: &str) -> String {
    match path.strip_suffix(".value") {
        Some(metric) => format!("{metric}.stderr"),
        None => format!("{path}.stderr"),
    }
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
