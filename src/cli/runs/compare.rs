//! `olmo-pipe runs compare`: shows how runs and trials differ, side by side.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::paired::{self, Named, Paired};
use crate::cli::worker::write_parquet;
use crate::run as engine;
use crate::run::Row;
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

/// At most this many metric columns are shown unless `--metric` names them.
const MAX_METRICS: usize = 8;

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe runs compare 20260131-0915 --max exact_match --top 5")]
pub(crate) struct Compare {
    /// First characters of each run's id, `latest`, or an experiment's name; a sweep gives one row per trial.
    #[arg(required = true)]
    runs: Vec<String>,
    /// Show this metric, by its name or the end of it (`exact_match`); may be repeated.
    #[arg(long, value_name = "NAME")]
    metric: Vec<String>,
    /// Sort by this metric, smallest first.
    #[arg(long, value_name = "NAME", conflicts_with = "max")]
    min: Option<String>,
    /// Sort by this metric, largest first.
    #[arg(long, value_name = "NAME")]
    max: Option<String>,
    /// Print only the first K rows.
    #[arg(long, value_name = "K")]
    top: Option<usize>,
    /// Compare the answers to this task instance by instance, each evaluation with the first one.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["min", "max", "top"])]
    task: Option<String>,
    /// With `--task`, only evaluations by this stage, all items of it; may be repeated.
    #[arg(long, value_name = "NAME", requires = "task")]
    stage: Vec<String>,
    /// With `--task`, seed of the intervals' bootstrap.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "task")]
    seed: u64,
    /// With `--task`, also write the comparison as a Parquet file, one row for each difference.
    #[arg(long, value_name = "FILE", requires = "task")]
    parquet: Option<PathBuf>,
    /// Print every value and metric of every row as JSON.
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let ids = self.runs.iter().map(|text| engine::find(store, text)).collect::<Result<Vec<_>, _>>()?;
        if let Some(task) = &self.task {
            let evaluations = engine::evaluations(store, &ids, &self.stage)?;
            let question = Paired { task, metrics: &self.metric, seed: self.seed };
            let named = |evaluation: &engine::Evaluation| {
                let item = evaluation.item.as_ref().map_or_else(String::new, |item| format!("[{item}]"));
                format!("{} {}{item}", evaluation.run, evaluation.stage)
            };
            let named: Vec<Named<'_>> = evaluations
                .iter()
                .map(|e| Named { name: named(e), stage: &e.stage, predictions: &e.predictions })
                .collect();
            let compared = paired::compare(&named, &question)?;
            if let Some(path) = &self.parquet {
                write_parquet(path, compared.rows())?;
            }
            if self.json {
                answer_json(&compared.to_json());
            } else {
                answer(&compared.text());
            }
            return Ok(Exit::Success);
        }
        let mut rows = engine::rows(store, &ids)?;
        // Columns come from all rows, even if only the top ones are printed.
        let values = engine::differing(&rows);
        let mut metrics = engine::differing_metrics(&rows);
        let by = match (&self.min, &self.max) {
            (Some(name), _) => Some((find(&rows, name)?, false)),
            (_, Some(name)) => Some((find(&rows, name)?, true)),
            _ => None,
        };
        if let Some((name, largest)) = &by {
            // A row without the metric comes last.
            let rank = |row: &Row| row.metrics.get(name).map_or(f64::INFINITY, |n| if *largest { -n } else { *n });
            rows.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        }
        if !self.metric.is_empty() {
            metrics = self.metric.iter().map(|name| find(&rows, name)).collect::<Result<_, _>>()?;
        }
        if let Some((name, _)) = by {
            metrics.retain(|metric| *metric != name);
            metrics.insert(0, name);
        }
        rows.truncate(self.top.unwrap_or(usize::MAX));
        if self.json {
            answer_json(&json!({"format": 1, "differing": values, "metrics": metrics, "rows": rows}));
            return Ok(Exit::Success);
        }
        let hidden = if self.metric.is_empty() { metrics.len().saturating_sub(MAX_METRICS) } else { 0 };
        metrics.truncate(metrics.len() - hidden);
        answer(&table(&rows, &values, &metrics, hidden));
        Ok(Exit::Success)
    }
}

/// The one metric whose name is `name` or ends in it.
fn find(rows: &[Row], name: &str) -> Result<String, Problem> {
    let mut known: Vec<&str> = rows.iter().flat_map(|row| row.metrics.keys()).map(String::as_str).collect();
    known.sort_unstable();
    known.dedup();
    let end = format!(".{name}");
    let found: Vec<&str> = known.iter().copied().filter(|known| *known == name || known.ends_with(&end)).collect();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        _ if found.contains(&name) => Ok(name.to_owned()),
        _ => {
            let (message, list) = match found.is_empty() {
                true => (format!("no run has a metric `{name}`"), &known),
                false => (format!("several metrics end in `{name}`"), &found),
            };
            let list: Vec<&str> = list.iter().copied().take(12).collect();
            let hint = format!("there are: {}", list.join(", "));
            Err(Problem::new(Exit::BadInput, "runs::metric", &message, Some(&hint)))
        }
    }
}

fn table(rows: &[Row], values: &[String], metrics: &[String], hidden: usize) -> String {
    let short = |path: &String| {
        let name = path.strip_prefix("params.").or(path.strip_prefix("stages.")).unwrap_or(path);
        name.replacen(".with.", ".", 1)
    };
    let mut lines = vec![vec!["run".to_owned(), "status".to_owned()]];
    lines[0].extend(values.iter().map(short).chain(metrics.iter().cloned()));
    for row in rows {
        let mut line = vec![format!("{} {}", row.run, row.name), row.status.word().to_owned()];
        line.extend(values.iter().map(|path| row.values.get(path).map_or_else(|| "-".to_owned(), text)));
        line.extend(metrics.iter().map(|name| row.metrics.get(name).map_or_else(|| "-".to_owned(), number)));
        lines.push(line);
    }
    for cell in lines.iter_mut().flatten() {
        *cell = escape_control(cell).into_owned();
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    if values.is_empty() && rows.len() > 1 {
        out.push_str("no value differs\n");
    }
    if hidden > 0 {
        let _ = writeln!(out, "{hidden} more metrics differ: --metric NAME shows one, --json shows all");
    }
    out
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number with six significant digits.
fn number(value: &f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-4..1e9).contains(&size) {
        let digits = 6usize.saturating_sub(size.log10().floor().max(0.0) as usize + 1);
        let text = format!("{value:.digits$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    } else {
        format!("{value:.3e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, shown) in
            [(0.0, "0"), (1.5, "1.5"), (2.3456789, "2.34568"), (1e-7, "1.000e-7"), (123456.7, "123457"), (-3.0, "-3")]
        {
            assert_eq!(number(&value), shown);
        }
    }
}
