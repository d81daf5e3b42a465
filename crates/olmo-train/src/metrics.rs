//! [`Metrics`]: the results of every step, as JSON lines and as a table.
//!
//! Metrics contain only values determined by the params and inputs, never times or speeds. The
//! lines are kept as text, and the table is built from that text, so that a run resumed from a
//! checkpoint writes the same bytes as an uninterrupted run.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use olmo_stage::StageError;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::early_stopping::{EVAL_LOSS, Score};

/// The lines, in the metrics folder and in every checkpoint.
pub(crate) const LINES: &str = "metrics.jsonl";
const TABLE: &str = "metrics.parquet";

/// A training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepRecord {
    /// The step, from 1.
    pub step: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// Number of tokens seen so far, padding included.
    pub tokens: u64,
    /// Number of targets in this step. A step without targets changes nothing.
    pub labels: u64,
    /// Cross-entropy, divided according to `loss_norm`; null if there was no label.
    pub loss: Option<f64>,
    /// The part of the loss added by `z_loss`, if it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z_loss: Option<f64>,
    /// Norm of all gradients before clipping.
    pub grad_norm: Option<f64>,
    pub lr: f64,
    /// Digest of the step's rows, ids and labels.
    pub batch: String,
}

impl StepRecord {
    /// The table row for an evaluation before the first step, after `step` steps of another run.
    fn before_training(step: u64) -> Self {
        let (loss, z_loss, grad_norm) = (None, None, None);
        Self { step, epoch: 0, tokens: 0, labels: 0, loss, z_loss, grad_norm, lr: 0.0, batch: String::new() }
    }
}

/// A measurement on `eval_data` after a step; step 0 is before the first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvalRecord {
    pub step: u64,
    /// Mean cross-entropy over all labels of `eval_data`; absent without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// exp(eval_loss); null if that overflows.
    pub eval_perplexity: Option<f64>,
    /// The scores of tasks, if there are any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, Score>,
}

/// The lines of a run so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    text: String,
    /// The last step written.
    steps: u64,
    /// The step of the last evaluation.
    evaluated: Option<u64>,
}

enum Line {
    Step(StepRecord),
    Eval(EvalRecord),
}

fn parse(line: &str) -> Result<Line, serde_json::Error> {
    /// Only evaluations have one of these fields.
    #[derive(Deserialize)]
    struct Kind {
        eval_loss: Option<IgnoredAny>,
        scores: Option<IgnoredAny>,
    }
    match serde_json::from_str::<Kind>(line)? {
        Kind { eval_loss: None, scores: None } => serde_json::from_str(line).map(Line::Step),
        _ => serde_json::from_str(line).map(Line::Eval),
    }
}

impl Metrics {
    /// The metrics of a run that begins after `step` steps of another run.
    pub(crate) fn after(step: u64) -> Self {
        Self { steps: step, ..Self::default() }
    }

    /// Parses lines; there must be one for each step after `first`, the number of steps before the
    /// run.
    ///
    /// # Errors
    /// The number of the bad line and what is wrong with it.
    pub(crate) fn from_text(text: String, first: u64) -> Result<Self, String> {
        let (mut steps, mut evaluated) = (first, None);
        for (number, line) in text.lines().enumerate() {
            match parse(line).map_err(|e| format!("line {}: {e}", number + 1))? {
                Line::Step(record) if record.step == steps + 1 => steps += 1,
                Line::Eval(record) if record.step == steps => evaluated = Some(steps),
                Line::Step(StepRecord { step, .. }) | Line::Eval(EvalRecord { step, .. }) => {
                    return Err(format!("line {}: step {step} after {steps} steps", number + 1));
                }
            }
        }
        Ok(Self { text, steps, evaluated })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The last step written, or that before the first.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether the evaluation after the last step has been written.
    pub(crate) fn is_evaluated(&self) -> bool {
        self.evaluated == Some(self.steps)
    }

    /// The values of score `name` in all evaluations so far, oldest first.
    ///
    /// # Errors
    /// A line is damaged.
    pub(crate) fn scores(&self, name: &str) -> Result<Vec<Score>, StageError> {
        let failed = |e: serde_json::Error| StageError::fail("train::metrics", e.to_string());
        let mut found = Vec::new();
        // Steps have neither of these keys.
        for line in self.text.lines().filter(|line| line.contains("\"eval_")) {
            if let Line::Eval(record) = parse(line).map_err(failed)? {
                let loss = record.eval_loss.map(|value| Score { value, stderr: None });
                found.extend(if name == EVAL_LOSS { loss } else { record.scores.get(name).copied() });
            }
        }
        Ok(found)
    }

    pub(crate) fn push_step(&mut self, record: &StepRecord) -> Result<(), StageError> {
        self.steps = record.step;
        self.push(record)
    }

    pub(crate) fn push_eval(&mut self, record: &EvalRecord) -> Result<(), StageError> {
        self.evaluated = Some(record.step);
        self.push(record)
    }

    fn push<T: Serialize>(&mut self, record: &T) -> Result<(), StageError> {
        let line = serde_json::to_string(record).map_err(|e| StageError::fail("train::metrics", e.to_string()))?;
        self.text.push_str(&line);
        self.text.push('\n');
        Ok(())
    }

    /// Writes `metrics.jsonl` and `metrics.parquet` (one row per step, with evaluations in their
    /// step's row) into folder `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), StageError> {
        let lines = dir.join(LINES);
        std::fs::write(&lines, &self.text).map_err(|e| StageError::io(&lines, e))?;
        let path = dir.join(TABLE);
        let failed = |e: &dyn std::fmt::Display| StageError::fail("train::metrics", format!("{}: {e}", path.display()));
        let table = self.table().map_err(|e| failed(&e))?;
        let file = File::create(&path).map_err(|e| StageError::io(&path, e))?;
        olmo_data::write_table(file, &table).map_err(|e| failed(&e))
    }

    fn table(&self) -> Result<RecordBatch, Box<dyn std::error::Error>> {
        let (mut steps, mut evals): (Vec<StepRecord>, Vec<Option<EvalRecord>>) = (Vec::new(), Vec::new());
        for line in self.text.lines() {
            match parse(line)? {
                Line::Step(record) => {
                    steps.push(record);
                    evals.push(None);
                }
                Line::Eval(record) => match evals.last_mut() {
                    Some(last) => *last = Some(record),
                    None => {
                        steps.push(StepRecord::before_training(record.step));
                        evals.push(Some(record));
                    }
                },
            }
        }
        let whole = |get: fn(&StepRecord) -> u64| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(steps.iter().map(get)))
        };
        let number = |get: fn(&StepRecord) -> Option<f64>| -> ArrayRef {
            Arc::new(Float64Array::from_iter(steps.iter().map(get)))
        };
        let eval = |get: fn(&EvalRecord) -> Option<f64>| -> ArrayRef {
            Arc::new(Float64Array::from_iter(evals.iter().map(|record| record.as_ref().and_then(get))))
        };
        Ok(RecordBatch::try_from_iter_with_nullable([
            ("step", whole(|r| r.step), false),
            ("epoch", whole(|r| r.epoch), false),
            ("tokens", whole(|r| r.tokens), false),
            ("labels", whole(|r| r.labels), false),
            ("loss", number(|r| r.loss), true),
            ("z_loss", number(|r| r.z_loss), true),
            ("grad_norm", number(|r| r.grad_norm), true),
            ("lr", number(|r| (!r.batch.is_empty()).then_some(r.lr)), true),
            ("batch", Arc::new(StringArray::from_iter_values(steps.iter().map(|r| &r.batch))), false),
            ("eval_loss", eval(|r| r.eval_loss), true),
            ("eval_perplexity", eval(|r| r.eval_perplexity), true),
        ])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array as _, AsArray as _};
    use arrow::datatypes::{Float64Type, UInt64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    fn record(step: u64) -> StepRecord {
        let loss = (step != 2).then_some(1.0 / step as f64);
        StepRecord {
            step,
            epoch: 0,
            tokens: step * 8,
            labels: 3,
            loss,
            z_loss: None,
            grad_norm: loss,
            lr: 1e-3,
            batch: "ab".into(),
        }
    }

    fn metrics() -> Metrics {
        let mut metrics = Metrics::default();
        for step in 1..=3 {
            metrics.push_step(&record(step)).unwrap();
        }
        metrics.push_eval(&eval_record(3, 0.1, Some(f64::exp(0.1)))).unwrap();
        metrics
    }

    fn eval_record(step: u64, eval_loss: f64, eval_perplexity: Option<f64>) -> EvalRecord {
        EvalRecord { step, eval_loss: Some(eval_loss), eval_perplexity, scores: BTreeMap::new() }
    }

    #[test]
    fn scores_of_evaluations_are_found_by_name() {
        let mut metrics = Metrics::default();
        for (step, value) in [(0, 0.25), (0, 0.5)] {
            let score = Score { value, stderr: Some(0.1) };
            let scores = BTreeMap::from([("tasks.arc".to_owned(), score)]);
            metrics.push_eval(&EvalRecord { step, eval_loss: None, eval_perplexity: None, scores }).unwrap();
        }
        metrics.push_eval(&eval_record(0, 2.0, None)).unwrap();
        let metrics = Metrics::from_text(metrics.text().to_owned(), 0).unwrap();
        let values: Vec<f64> = metrics.scores("tasks.arc").unwrap().iter().map(|score| score.value).collect();
        assert_eq!(values, [0.25, 0.5]);
        assert_eq!(metrics.scores(EVAL_LOSS).unwrap(), [Score { value: 2.0, stderr: None }]);
    }

    #[test]
    fn lines_read_again_are_the_same_metrics() {
        let metrics = metrics();
        assert_eq!(metrics.text().lines().count(), 4);
        assert_eq!(Metrics::from_text(metrics.text().to_owned(), 0).as_ref(), Ok(&metrics));
        assert!(metrics.is_evaluated());
    }

    #[test]
    fn an_evaluation_before_the_first_step_has_a_row_of_its_own() {
        let mut metrics = Metrics::default();
        assert!(!metrics.is_evaluated());
        metrics.push_eval(&eval_record(0, 2.0, None)).unwrap();
        assert!(metrics.is_evaluated());
        metrics.push_step(&record(1)).unwrap();
        assert!(!metrics.is_evaluated());
        assert_eq!(Metrics::from_text(metrics.text().to_owned(), 0).as_ref(), Ok(&metrics));
        let table = metrics.table().unwrap();
        assert_eq!(table.column_by_name("step").unwrap().as_primitive::<UInt64Type>().values(), &[0, 1]);
        let eval = table.column_by_name("eval_loss").unwrap().as_primitive::<Float64Type>();
        assert_eq!((eval.value(0), eval.is_null(1)), (2.0, true));
    }

    #[test]
    fn a_run_that_goes_on_from_another_has_its_steps() {
        let mut metrics = Metrics::after(3);
        metrics.push_eval(&eval_record(3, 2.0, None)).unwrap();
        metrics.push_step(&record(4)).unwrap();
        assert_eq!(Metrics::from_text(metrics.text().to_owned(), 3).as_ref(), Ok(&metrics));
        assert!(Metrics::from_text(metrics.text().to_owned(), 0).unwrap_err().starts_with("line 1"));
        let table = metrics.table().unwrap();
        assert_eq!(table.column_by_name("step").unwrap().as_primitive::<UInt64Type>().values(), &[3, 4]);
        assert!(table.column_by_name("lr").unwrap().is_null(0));
    }

    #[test]
    fn a_missing_a_doubled_and_a_torn_line_are_found() {
        let metrics = metrics();
        let lines: Vec<&str> = metrics.text().lines().collect();
        for (broken, at) in [
            ([lines[0], lines[2]].join("\n"), "line 2"),
            ([lines[0], lines[0]].join("\n"), "line 2"),
            ([lines[0], lines[1], &lines[2][..20]].join("\n"), "line 3"),
            ([lines[0], lines[3]].join("\n"), "line 2"),
        ] {
            let reason = Metrics::from_text(broken, 0).unwrap_err();
            assert!(reason.starts_with(at), "{reason}");
        }
    }

    #[test]
    fn the_table_has_one_row_a_step_with_the_evaluation_beside_its_step_and_the_same_bytes_each_time() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        metrics().write(a.path()).unwrap();
        metrics().write(b.path()).unwrap();
        assert_eq!(std::fs::read(a.path().join(TABLE)).unwrap(), std::fs::read(b.path().join(TABLE)).unwrap());
        let file = File::open(a.path().join(TABLE)).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batch = reader.next().unwrap().unwrap();
        let steps = batch.column_by_name("step").unwrap().as_primitive::<UInt64Type>();
        assert_eq!(steps.values(), &[1, 2, 3]);
        assert!(batch.column_by_name("loss").unwrap().is_null(1));
        let eval = batch.column_by_name("eval_loss").unwrap().as_primitive::<Float64Type>();
        assert_eq!((eval.is_null(1), eval.value(2)), (true, 0.1));
    }
}
