//! Evaluations of one task, instance by instance: `runs compare --task` and `artifacts diff`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use olmo_eval::Prediction;
use olmo_eval::paired::{self, Better, Comparison};
use serde_json::{Value, json};

use crate::ui::{Exit, Problem, escape_control, terminal_width};

/// The metrics that are compared if none is named: the first that the instances have.
const MAIN: [&str; 7] = ["len_norm_v2", "pmi_dc_v2", "acc", "exact_match", "bpb_v2", "bits_per_byte", "ce_loss"];

/// p-values below this are marked.
const LEVEL: f64 = 0.05;

/// Fewest characters of an evaluation's name in a table that is fitted to a terminal.
const SHORTEST_NAME: usize = 12;

/// What is compared.
pub(crate) struct Paired<'a> {
    pub task: &'a str,
    /// Names of metrics; empty: the main one.
    pub metrics: &'a [String],
    pub seed: u64,
}

/// An evaluation by the name that tables show.
pub(crate) struct Named<'a> {
    pub name: String,
    pub stage: &'a str,
    pub predictions: &'a [Prediction],
}

/// The tables of a comparison, one for each metric.
pub(crate) struct Compared {
    task: String,
    seed: u64,
    tables: Vec<Table>,
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

/// How the evaluations of `question`'s task differ from the first.
///
/// # Errors
/// There are not two evaluations of the task, a metric is unknown, or evaluations have no instance
/// in common.
pub(crate) fn compare(evaluations: &[Named<'_>], question: &Paired<'_>) -> Result<Compared, Problem> {
    let has_task = |evaluation: &&Named<'_>| evaluation.predictions.iter().any(|line| line.task == question.task);
    let own: Vec<&Named<'_>> = evaluations.iter().filter(has_task).collect();
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
    Ok(Compared { task: question.task.to_owned(), seed: question.seed, tables })
}

impl Compared {
    /// The tables for people, fitted to the terminal if there is one.
    pub(crate) fn text(&self) -> String {
        let together = self.tables.iter().map(|table| table.comparisons.len()).sum();
        let width = terminal_width();
        let texts: Vec<String> = self.tables.iter().map(|table| text(table, together, width)).collect();
        texts.join("\n")
    }

    pub(crate) fn to_json(&self) -> Value {
        let table = |table: &Table| {
            let row = |row: &Row| json!({"name": row.name, "n": row.scores.len(), "failed": row.failed});
            let (first, others) = table.rows.split_first().expect("two evaluations or more");
            let compared = others
                .iter()
                .zip(&table.comparisons)
                .map(|(row, comparison)| json!({"name": row.name, "failed": row.failed, "comparison": comparison}));
            json!({"metric": table.metric, "base": row(first), "compared": compared.collect::<Vec<_>>()})
        };
        let tables: Vec<Value> = self.tables.iter().map(table).collect();
        json!({"format": 1, "task": self.task, "seed": self.seed, "tables": tables})
    }

    /// One flat object for each comparison, for a table file.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let rows = |table: &Table| -> Vec<Value> {
            let (first, others) = table.rows.split_first().expect("two evaluations or more");
            let row = |(row, c): (&Row, &Comparison)| {
                json!({
                    "task": self.task, "metric": table.metric, "base": first.name, "name": row.name,
                    "better": c.better, "n": c.n, "only_base": c.only_a, "only_name": c.only_b,
                    "mean_base": c.mean_a, "mean": c.mean_b, "difference": c.difference, "stderr": c.stderr,
                    "low": c.interval.map(|[low, _]| low), "high": c.interval.map(|[_, high]| high),
                    "wins": c.wins, "losses": c.losses, "ties": c.ties, "sign_test": c.sign_test,
                    "corrected": c.corrected, "detectable": c.detectable, "failed": row.failed,
                })
            };
            others.iter().zip(&table.comparisons).map(row).collect()
        };
        self.tables.iter().flat_map(rows).collect()
    }
}

/// The tasks that all evaluations have, in the order of the first.
pub(crate) fn common_tasks<'a>(evaluations: &[Named<'a>]) -> Vec<&'a str> {
    let Some((first, others)) = evaluations.split_first() else { return Vec::new() };
    let mut tasks: Vec<&str> = first.predictions.iter().map(|line| line.task.as_str()).collect();
    tasks.dedup();
    let has = |other: &Named<'_>, task: &str| other.predictions.iter().any(|line| line.task == task);
    tasks.retain(|task| others.iter().all(|other| has(other, task)));
    tasks
}

fn too_few(evaluations: &[Named<'_>], found: usize, task: &str) -> Problem {
    let tasks: BTreeSet<&str> =
        evaluations.iter().flat_map(|evaluation| evaluation.predictions).map(|line| line.task.as_str()).collect();
    let hint = if tasks.is_empty() {
        "none of these stages recorded instances; give stage `eval` the input `requests` (docs/evaluation.md)"
            .to_owned()
    } else {
        let stages: BTreeSet<&str> = evaluations.iter().map(|evaluation| evaluation.stage).collect();
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
fn metrics(evaluations: &[&Named<'_>], question: &Paired<'_>) -> Result<Vec<String>, Problem> {
    let lines = evaluations.iter().flat_map(|evaluation| evaluation.predictions);
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

fn row(evaluation: &Named<'_>, task: &str, metric: &str) -> Row {
    let own = || evaluation.predictions.iter().filter(|line| line.task == task);
    let score = |line: &olmo_eval::Prediction| Some((line.doc_id.clone(), *line.instance_metrics.get(metric)?));
    Row {
        name: evaluation.name.clone(),
        scores: own().filter_map(score).collect(),
        failed: own().filter(|line| line.failed.is_some()).count(),
    }
}

/// The table, one of several with `together` comparisons. In a terminal of `width` columns, it is
/// fitted to them and the best mean is bold. `=` marks best means that are equal.
fn text(table: &Table, together: usize, width: Option<usize>) -> String {
    let (first, others) = table.rows.split_first().expect("two evaluations or more");
    let better = Better::of(&table.metric);
    let base = table.comparisons.first().map_or(0.0, |comparison| comparison.mean_a);
    let means: Vec<f64> = std::iter::once(base).chain(table.comparisons.iter().map(|c| c.mean_b)).collect();
    let best = match better {
        Better::Higher => means.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Better::Lower => means.iter().copied().fold(f64::INFINITY, f64::min),
    };
    let are_tied = means.iter().filter(|mean| **mean == best).count() > 1;
    let mean = |value: f64| format!("{value:.4}{}", if are_tied && value == best { " =" } else { "" });
    let titles = ["", "mean", "difference", "95 %", "better/worse/equal", "p"];
    let mut lines = vec![titles.map(str::to_owned)];
    let none = String::new;
    lines.push([first.name.clone(), mean(base), none(), none(), none(), none()]);
    for (row, comparison) in others.iter().zip(&table.comparisons) {
        let Comparison { wins, losses, ties, corrected, .. } = comparison;
        let mark = if *corrected < LEVEL { " *" } else { "" };
        let interval = comparison.interval.map(|[low, high]| format!("{low:+.4} to {high:+.4}"));
        lines.push([
            row.name.clone(),
            mean(comparison.mean_b),
            format!("{:+.4}", comparison.difference),
            interval.unwrap_or_default(),
            format!("{wins}/{losses}/{ties}"),
            format!("{}{mark}", p_value(*corrected)),
        ]);
    }
    let shown = fit(&mut lines, width);
    let width_of = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width_of).collect();
    let direction = if better == Better::Higher { "higher" } else { "lower" };
    let mut out = format!("{} ({direction} is better), compared with {}\n", table.metric, escape_control(&first.name));
    for (index, line) in lines.iter().enumerate() {
        let cell = |&column: &usize| {
            let cell = format!("{:<width$}", escape_control(&line[column]), width = widths[column]);
            let bold = width.is_some() && column == 1 && index > 0 && means[index - 1] == best;
            if bold { format!("\u{1b}[1m{cell}\u{1b}[0m") } else { cell }
        };
        let cells: Vec<String> = shown.iter().map(cell).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    notes(table, together, &mut out);
    out
}

/// The columns to show so that the lines fit into `width`. If they do not, the names are shortened in
/// the middle, then columns are left out.
fn fit(lines: &mut [[String; 6]], width: Option<usize>) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..6).collect();
    let Some(width) = width else { return shown };
    let widths: Vec<usize> =
        (0..6).map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)).collect();
    let others = |shown: &[usize]| -> usize { shown[1..].iter().map(|column| widths[*column] + 2).sum() };
    for column in [4, 3] {
        if others(&shown) + SHORTEST_NAME.min(widths[0]) > width {
            shown.retain(|known| *known != column);
        }
    }
    let room = width.saturating_sub(others(&shown)).max(SHORTEST_NAME);
    for line in lines.iter_mut() {
        let count = line[0].chars().count();
        if count > room {
            let (head, tail) = (room / 2, room - room / 2 - 1);
            let start: String = line[0].chars().take(head).collect();
            let end: String = line[0].chars().skip(count - tail).collect();
            line[0] = format!("{start}…{end}");
        }
    }
    shown
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
    use olmo_eval::prediction::Label;

    fn predictions(scores: &[f64]) -> Vec<Prediction> {
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
        scores.iter().enumerate().map(line).collect()
    }

    fn named<'a>(stage: &'a str, predictions: &'a [Prediction]) -> Named<'a> {
        Named { name: format!("20260131-235959-0f3a {stage}"), stage, predictions }
    }

    fn table(metric: &str, scores: &[&[f64]]) -> Table {
        let rows: Vec<Row> = scores
            .iter()
            .zip(["before", "after", "more"])
            .map(|(scores, stage)| row(&named(stage, &predictions(scores)), "t", metric))
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
        let shown = text(&table("acc", &[&before, &after]), 1, None);
        let expected = "acc (higher is better), compared with 20260131-235959-0f3a before\n";
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.contains("after   1.0000  +1.0000     +1.0000 to +1.0000  11/0/0"), "{shown}");
        assert!(shown.contains("0.0010 *"), "{shown}");
        assert!(shown.contains("11 instances (1 only in the first, 0 only in the second)"), "{shown}");
        assert!(shown.contains("1 failed instances are left out") && !shown.contains('\u{1b}'), "{shown}");
        assert!(!shown.contains("Holm") && text(&table("acc", &[&before, &after]), 2, None).contains("Holm"));
        assert!(text(&table("acc", &[&before, &after]), 1, Some(200)).contains("\u{1b}[1m1.0000"), "the best is bold");
    }

    #[test]
    fn a_table_fits_a_narrow_terminal_and_marks_equal_means() {
        let same = [1.0, 0.0, 1.0, 0.0];
        let table = table("acc", &[&same, &same, &[0.0; 4]]);
        let wide = text(&table, 2, None);
        assert_eq!(wide.matches("0.5000 =").count(), 2, "{wide}");
        for width in [90, 60, 48] {
            let shown = text(&table, 2, Some(width)).replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
            let lines: Vec<&str> = shown.lines().skip(1).take(4).collect();
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {shown}");
            assert!(lines[2].contains("0.5000 ="), "{shown}");
        }
        assert!(text(&table, 2, Some(48)).contains('…'));
    }

    #[test]
    fn what_cannot_be_compared_is_refused_with_what_there_is() {
        let code = |evaluations: &[Named<'_>], task: &str, metrics: &[String]| {
            let question = Paired { task, metrics, seed: 0 };
            compare(evaluations, &question).err().map(|problem| problem.exit)
        };
        let (one, zero) = (predictions(&[1.0]), predictions(&[0.0]));
        let two = [named("a", &one), named("b", &zero)];
        assert_eq!(common_tasks(&two), ["t"]);
        assert_eq!(code(&two, "t", &[]), None);
        assert_eq!(code(&two, "other", &[]), Some(Exit::BadInput));
        assert_eq!(code(&two[..1], "t", &[]), Some(Exit::BadInput));
        assert_eq!(code(&two, "t", &["acc_norm".into()]), Some(Exit::BadInput));
    }
}
