//! `olmo-pipe runs compare --task`: two or more evaluations of one task, instance by instance.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use olmo_eval::paired::{self, Better, Comparison};
use serde_json::json;

use crate::run::Evaluation;
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

/// The metrics that are compared if none is named: the first that the instances have.
const MAIN: [&str; 3] = ["acc", "exact_match", "bits_per_byte"];

/// p-values below this are marked.
const LEVEL: f64 = 0.05;

/// What is compared.
pub(super) struct Paired<'a> {
    pub task: &'a str,
    /// Names of metrics; empty: the main one.
    pub metrics: &'a [String],
    pub seed: u64,
}

/// An evaluation's scores of the instances that did not fail, and how many did.
struct Row {
    name: String,
    scores: BTreeMap<String, f64>,
    failed: usize,
}

/// The evaluations by one metric; each but the first is compared with the first.
struct Table {
    metric: String,
    rows: Vec<Row>,
    comparisons: Vec<Comparison>,
}

/// Prints how the evaluations of `question`'s task differ.
///
/// # Errors
/// There are not two evaluations of the task, a metric is unknown, or evaluations have no instance
/// in common.
pub(super) fn compare(evaluations: &[Evaluation], question: &Paired<'_>, as_json: bool) -> Result<Exit, Problem> {
    let has_task = |evaluation: &&Evaluation| evaluation.predictions.iter().any(|line| line.task == question.task);
    let own: Vec<&Evaluation> = evaluations.iter().filter(has_task).collect();
    if own.len() < 2 {
        return Err(too_few(evaluations, own.len(), question.task));
    }
    let metrics = metrics(&own, question)?;
    let mut tables = Vec::new();
    for metric in metrics {
        let rows: Vec<Row> = own.iter().map(|evaluation| row(evaluation, question.task, &metric)).collect();
        let (first, others) = rows.split_first().expect("two evaluations or more");
        let comparisons = others.iter().map(|row| {
            paired::compare(&first.scores, &row.scores, Better::of(&metric), question.seed).ok_or_else(|| {
                let what = format!("{} and {} have no instance of `{}` in common", first.name, row.name, question.task);
                Problem::new(Exit::BadInput, "runs::instances", &what, Some("compare evaluations of the same requests"))
            })
        });
        let comparisons = comparisons.collect::<Result<Vec<Comparison>, Problem>>()?;
        tables.push(Table { metric, rows, comparisons });
    }
    paired::correct(&mut tables.iter_mut().flat_map(|table| &mut table.comparisons).collect::<Vec<_>>());
    if as_json {
        answer_json(&to_json(question, &tables));
    } else {
        let together = tables.iter().map(|table| table.comparisons.len()).sum();
        let in_terminal = std::io::stdout().is_terminal();
        let texts: Vec<String> = tables.iter().map(|table| text(table, together, in_terminal)).collect();
        answer(&texts.join("\n"));
    }
    Ok(Exit::Success)
}

fn too_few(evaluations: &[Evaluation], found: usize, task: &str) -> Problem {
    let tasks: BTreeSet<&str> =
        evaluations.iter().flat_map(|evaluation| &evaluation.predictions).map(|line| line.task.as_str()).collect();
    let hint = if tasks.is_empty() {
        "none of these stages recorded instances; give stage `eval` the input `requests` (docs/evaluation.md)"
            .to_owned()
    } else {
        let stages: BTreeSet<&str> = evaluations.iter().map(|evaluation| evaluation.stage.as_str()).collect();
        let list = |names: BTreeSet<&str>| names.into_iter().take(12).collect::<Vec<_>>().join(", ");
        format!(
            "give another run, or compare the items of a stage with `--stage`; tasks: {}; stages: {}",
            list(tasks),
            list(stages)
        )
    };
    let what = format!("a comparison needs two evaluations of the task `{task}`, and these runs have {found}");
    Problem::new(Exit::BadInput, "runs::task", &what, Some(&hint))
}

/// The names of the metrics to compare.
fn metrics(evaluations: &[&Evaluation], question: &Paired<'_>) -> Result<Vec<String>, Problem> {
    let lines = evaluations.iter().flat_map(|evaluation| &evaluation.predictions);
    let known: BTreeSet<&str> = lines
        .filter(|line| line.task == question.task)
        .flat_map(|line| line.instance_metrics.keys())
        .map(String::as_str)
        .collect();
    let missing = question.metrics.iter().find(|name| !known.contains(name.as_str()));
    let main = MAIN.iter().find(|name| known.contains(**name));
    match (missing, main) {
        (None, _) if !question.metrics.is_empty() => Ok(question.metrics.to_vec()),
        (None, Some(main)) => Ok(vec![(*main).to_owned()]),
        _ => {
            let what = match missing {
                Some(name) => format!("the instances of `{}` have no score `{name}`", question.task),
                None => format!("the instances of `{}` have none of the main scores", question.task),
            };
            let hint = format!("there are: {}; choose with --metric", known.into_iter().collect::<Vec<_>>().join(", "));
            Err(Problem::new(Exit::BadInput, "runs::metric", &what, Some(&hint)))
        }
    }
}

fn row(evaluation: &Evaluation, task: &str, metric: &str) -> Row {
    let item = evaluation.item.as_ref().map_or_else(String::new, |item| format!("[{item}]"));
    let own = || evaluation.predictions.iter().filter(|line| line.task == task);
    let score = |line: &olmo_eval::Prediction| Some((line.doc_id.clone(), *line.instance_metrics.get(metric)?));
    Row {
        name: format!("{} {}{item}", evaluation.run, evaluation.stage),
        scores: own().filter_map(score).collect(),
        failed: own().filter(|line| line.failed.is_some()).count(),
    }
}

fn to_json(question: &Paired<'_>, tables: &[Table]) -> serde_json::Value {
    let table = |table: &Table| {
        let row = |row: &Row| json!({"name": row.name, "n": row.scores.len(), "failed": row.failed});
        let (first, others) = table.rows.split_first().expect("two evaluations or more");
        let compared = others
            .iter()
            .zip(&table.comparisons)
            .map(|(row, comparison)| json!({"name": row.name, "failed": row.failed, "comparison": comparison}));
        json!({"metric": table.metric, "base": row(first), "compared": compared.collect::<Vec<_>>()})
    };
    json!({"format": 1, "task": question.task, "seed": question.seed, "tables": tables.iter().map(table).collect::<Vec<_>>()})
}

/// The table, at most 100 columns wide, one of several with `together` comparisons. In a terminal, the
/// best mean is bold.
fn text(table: &Table, together: usize, in_terminal: bool) -> String {
    let (first, others) = table.rows.split_first().expect("two evaluations or more");
    let better = Better::of(&table.metric);
    let base = table.comparisons.first().map_or(0.0, |comparison| comparison.mean_a);
    let means: Vec<f64> = std::iter::once(base).chain(table.comparisons.iter().map(|c| c.mean_b)).collect();
    let best = match better {
        Better::Higher => means.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Better::Lower => means.iter().copied().fold(f64::INFINITY, f64::min),
    };
    let titles = ["", "mean", "difference", "95 %", "better/worse/equal", "p"];
    let mut lines = vec![titles.map(str::to_owned)];
    let none = String::new;
    lines.push([first.name.clone(), format!("{base:.4}"), none(), none(), none(), none()]);
    for (row, comparison) in others.iter().zip(&table.comparisons) {
        let Comparison { wins, losses, ties, corrected, .. } = comparison;
        let mark = if *corrected < LEVEL { " *" } else { "" };
        let interval = comparison.interval.map(|[low, high]| format!("{low:+.4} to {high:+.4}"));
        lines.push([
            row.name.clone(),
            format!("{:.4}", comparison.mean_b),
            format!("{:+.4}", comparison.difference),
            interval.unwrap_or_default(),
            format!("{wins}/{losses}/{ties}"),
            format!("{}{mark}", p_value(*corrected)),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let direction = if better == Better::Higher { "higher" } else { "lower" };
    let mut out = format!("{} ({direction} is better), compared with {}\n", table.metric, escape_control(&first.name));
    for (index, line) in lines.iter().enumerate() {
        let cell = |(column, cell): (usize, &String)| {
            let cell = format!("{:<width$}", escape_control(cell), width = widths[column]);
            let bold = in_terminal && column == 1 && index > 0 && means[index - 1] == best;
            if bold { format!("\u{1b}[1m{cell}\u{1b}[0m") } else { cell }
        };
        let cells: Vec<String> = line.iter().enumerate().map(cell).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    notes(table, together, &mut out);
    out
}

/// What the numbers are of, and what they cannot show.
fn notes(table: &Table, together: usize, out: &mut String) {
    for (row, comparison) in table.rows[1..].iter().zip(&table.comparisons) {
        let name = escape_control(&row.name);
        let Comparison { n, only_a, only_b, detectable, .. } = comparison;
        let unpaired = if only_a + only_b > 0 {
            format!(" ({only_a} only in the first, {only_b} only in the second)")
        } else {
            String::new()
        };
        let _ = write!(out, "{name}: {n} instances{unpaired}");
        if let Some(detectable) = detectable {
            let _ = write!(out, ", which can show a difference of {detectable:.4} or more (power 80 %)");
        }
        out.push('\n');
    }
    let failed: usize = table.rows.iter().map(|row| row.failed).sum();
    if failed > 0 {
        let _ = writeln!(out, "{failed} failed instances are left out");
    }
    let correction = if together > 1 { ", corrected for several comparisons (Holm)" } else { "" };
    let _ = writeln!(out, "p: exact sign test{correction}; * below {LEVEL}; intervals by bootstrap over instances");
}

fn p_value(p: f64) -> String {
    if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunId;
    use olmo_eval::Prediction;
    use olmo_eval::prediction::Label;

    fn evaluation(stage: &str, scores: &[f64]) -> Evaluation {
        let line = |(index, score): (usize, &f64)| Prediction {
            task: "t".into(),
            doc_id: format!("q{index}"),
            native_id: None,
            line: index + 1,
            prompts: Vec::new(),
            messages: None,
            model_output: Vec::new(),
            instance_metrics: if score.is_nan() { BTreeMap::new() } else { BTreeMap::from([("acc".into(), *score)]) },
            label: Label::Choice(0),
            truncated_tokens: 0,
            failed: score.is_nan().then(|| "no".into()),
        };
        Evaluation {
            run: RunId::parse("20260131-235959-0f3a").unwrap(),
            stage: stage.into(),
            item: None,
            predictions: scores.iter().enumerate().map(line).collect(),
        }
    }

    fn table(metric: &str, scores: &[&[f64]]) -> Table {
        let rows: Vec<Row> = scores
            .iter()
            .zip(["before", "after", "more"])
            .map(|(scores, stage)| row(&evaluation(stage, scores), "t", metric))
            .collect();
        let comparisons =
            rows[1..].iter().map(|row| paired::compare(&rows[0].scores, &row.scores, Better::of(metric), 0).unwrap());
        let comparisons = comparisons.collect();
        Table { metric: metric.into(), rows, comparisons }
    }

    #[test]
    fn a_table_shows_differences_and_what_they_are_worth() {
        let before = [0.0; 12];
        let mut after = [1.0; 12];
        after[0] = f64::NAN;
        let shown = text(&table("acc", &[&before, &after]), 1, false);
        let expected = "acc (higher is better), compared with 20260131-235959-0f3a before\n";
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.contains("after   1.0000  +1.0000     +1.0000 to +1.0000  11/0/0"), "{shown}");
        assert!(shown.contains("0.0010 *"), "{shown}");
        assert!(shown.contains("11 instances (1 only in the first, 0 only in the second)"), "{shown}");
        assert!(shown.contains("1 failed instances are left out") && !shown.contains('\u{1b}'), "{shown}");
        assert!(!shown.contains("Holm") && text(&table("acc", &[&before, &after]), 2, false).contains("Holm"));
        assert!(text(&table("acc", &[&before, &after]), 1, true).contains("\u{1b}[1m1.0000"), "the best is bold");
    }

    #[test]
    fn what_cannot_be_compared_is_refused_with_what_there_is() {
        let code = |evaluations: &[Evaluation], task: &str, metrics: &[String]| {
            let question = Paired { task, metrics, seed: 0 };
            compare(evaluations, &question, true).err().map(|problem| problem.exit)
        };
        let two = [evaluation("a", &[1.0]), evaluation("b", &[0.0])];
        assert_eq!(code(&two, "t", &[]), None);
        assert_eq!(code(&two, "other", &[]), Some(Exit::BadInput));
        assert_eq!(code(&two[..1], "t", &[]), Some(Exit::BadInput));
        assert_eq!(code(&two, "t", &["acc_norm".into()]), Some(Exit::BadInput));
    }
}
