//! Stage `checkpoint`: picks the checkpoint with the best score.
//!
//! A checkpoint's score has its label. A score is a number in `metrics.json`, named
//! by its path (`exact_match`, `families.arithmetic.exact_match`), or `eval_loss`, the loss on
//! held-out data that stage `train` measured. `tasks.NAME` is the primary metric of a task. If scores
//! tie, the earliest step wins and the tie is reported, as are scores within one standard error.
//! Checkpoints that were not evaluated are not chosen.

mod before_after;
mod scores;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use olmo_stage::worker::write_json;
use olmo_stage::{Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use scores::{Order, Scored, best};

/// Picks the checkpoint with the best score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The score that decides, and whether higher or lower is better: `{max: exact_match}`,
    /// `{min: eval_loss}`, or `{max: tasks.arc_easy}` for the primary metric of a task.
    pub select: Select,
}

/// The score that decides: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Select {
    /// Score to maximise, given as its path in `metrics.json`.
    #[schemars(extend("type" = "string"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
    /// Score to minimise, given as its path in `metrics.json`.
    #[schemars(extend("type" = "string"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
}

impl Select {
    /// The order and the name of the score.
    fn rule(&self) -> Result<(Order, &str), StageError> {
        match (&self.max, &self.min) {
            (Some(name), None) => Ok((Order::Max, name)),
            (None, Some(name)) => Ok((Order::Min, name)),
            _ => Err(StageError::fail("checkpoint::select", "`select` needs exactly one of `max` and `min`")
                .hint("write `select: {max: exact_match}` or `select: {min: eval_loss}`")),
        }
    }
}

/// `choice.json`.
#[derive(Serialize)]
struct Choice<'a> {
    format: u32,
    metric: &'a str,
    order: Order,
    chosen: &'a str,
    value: f64,
    /// Checkpoints with the winning score, the chosen one included; empty if it is the only one.
    tied: &'a [&'a str],
    /// Other checkpoints whose score is within one standard error of the winning one.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    alike: &'a [&'a str],
    scores: &'a [Scored],
    /// Scores of the model before training.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a BTreeMap<String, f64>>,
}

/// The stage.
pub struct Checkpoint;

impl Stage for Checkpoint {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        let (order, metric) = params.select.rule()?;
        let (scored, skipped) =
            scores::read(context.inputs("from"), [context.inputs("scores"), context.inputs("task_scores")], metric)?;
        if !skipped.is_empty() {
            context.message(format!("not evaluated, and so not chosen: {}", skipped.join(", ")));
        }
        let chosen = best(&scored, order).ok_or_else(|| {
            StageError::fail("checkpoint::empty", "there is no checkpoint to choose from")
                .hint("check `save_interval` of stage train")
        })?;
        let from = context.inputs("from").iter().find(|item| item.label.as_ref() == Some(&chosen.label));
        let model = from.map(|item| item.path.join("model")).unwrap_or_default();
        copy_tree(&model, &context.output("model")?)?;
        let (label, value) = (chosen.label.as_str(), chosen.value);
        let tied = tied(&scored, value);
        let alike = alike(&scored, chosen);
        let before_dir = context.optional_input("before");
        let befores: Vec<PathBuf> = before_dir.iter().cloned().chain(context.optional_input("task_before")).collect();
        let before = match befores.as_slice() {
            [] => None,
            dirs => Some(scores::before(dirs, context.inputs("from"), metric)?),
        };
        let (before, before_errors) = before.unzip();
        let choice = Choice {
            format: 2,
            metric,
            order,
            chosen: label,
            value,
            tied: &tied,
            alike: &alike,
            scores: &scored,
            before: before.as_ref(),
        };
        let dir = context.output("choice")?;
        let after_dir = context.inputs("scores").iter().find(|item| item.label.as_deref() == Some(label));
        if let (Some(before), Some(after)) = (&before_dir, after_dir) {
            before_after::write(before, &after.path, &dir)?;
        }
        write_json(&dir.join("choice.json"), &choice)?;
        let curve = dir.join("curve.jsonl");
        let lines = curve_lines(before.as_ref(), before_errors.as_ref(), &scored);
        fs::write(&curve, lines).map_err(|e| StageError::io(&curve, e))?;
        let table = dir.join("choice.md");
        let tie = tie(metric, &scored, label, value, &tied);
        let text = markdown(metric, before.as_ref(), &scored, label, &tied, tie.as_deref());
        fs::write(&table, text).map_err(|e| StageError::io(&table, e))?;
        let change = before.as_ref().and_then(|before| before.get(metric));
        let change = change.map(|before| format!(" ({before} before training)")).unwrap_or_default();
        let error = chosen.stderr.map(|stderr| format!(" ± {stderr:.4}")).unwrap_or_default();
        let near = match alike.len() {
            0 => String::new(),
            count => format!("; {count} others are within its error"),
        };
        let summary = format!("{label}: {metric} {value}{error}{change}, the best of {}{near}", scored.len());
        if let Some(&was) = before.as_ref().and_then(|before| before.get(metric))
            && !order.is_better(value, was)
        {
            context.warning(format!(
                "training did not improve {metric}: {value} at best, {was} before; train longer, on other data, or \
                 with another learning rate"
            ));
        }
        match tie {
            None => context.message(summary),
            // No score decided, so warn the user of the model.
            Some(tie) if tied.len() == scored.len() => {
                context.warning(format!("{tie}; select by another score, or evaluate on more prompts"));
                context.message(tie);
            }
            Some(tie) => context.message(format!("{summary}; {tie}")),
        }
        Ok(())
    }
}

/// Labels of the checkpoints with score `value`; empty if there is only one.
fn tied(scored: &[Scored], value: f64) -> Vec<&str> {
    let tied: Vec<&str> = scored.iter().filter(|s| s.value == value).map(|s| s.label.as_str()).collect();
    if tied.len() > 1 { tied } else { Vec::new() }
}

/// `curve.jsonl`: the scores of each step with their errors and the training's loss; step 0 is the model
/// before training.
fn curve_lines(
    before: Option<&BTreeMap<String, f64>>,
    before_errors: Option<&BTreeMap<String, f64>>,
    scored: &[Scored],
) -> String {
    let zero = before.map(|numbers| json!({"step": 0, "loss": null, "scores": numbers, "errors": before_errors}));
    let line =
        |s: &Scored| json!({"step": scores::step(&s.label), "loss": s.loss, "scores": s.numbers, "errors": s.errors});
    zero.into_iter().chain(scored.iter().map(line)).map(|line| format!("{line}\n")).collect()
}

/// Labels of the other checkpoints whose score is within the standard error of the chosen one's: which
/// of them is better is not known.
fn alike<'a>(scored: &'a [Scored], chosen: &Scored) -> Vec<&'a str> {
    let is_near = |s: &&Scored| {
        s.label != chosen.label && chosen.stderr.is_some_and(|error| (s.value - chosen.value).abs() <= error)
    };
    scored.iter().filter(is_near).map(|s| s.label.as_str()).collect()
}

/// Describes a tie, if there is one.
fn tie(metric: &str, scored: &[Scored], chosen: &str, value: f64, tied: &[&str]) -> Option<String> {
    let (count, all) = (tied.len(), scored.len());
    let end = if count == all { "; nothing was decided" } else { " of them" };
    (count > 0).then(|| format!("{count} of {all} checkpoints tie at {metric} {value}: {chosen} is the first{end}"))
}

/// The scores as a table: first the deciding score, then others that most rows have.
fn markdown(
    metric: &str,
    before: Option<&BTreeMap<String, f64>>,
    scored: &[Scored],
    chosen: &str,
    tied: &[&str],
    tie: Option<&str>,
) -> String {
    let cell = |text: &str| text.escape_debug().to_string().replace('|', "\\|");
    let known = |name: &&str| *name != metric && scored.iter().any(|scored| scored.numbers.contains_key(*name));
    let mut columns: Vec<&str> =
        [metric].into_iter().chain(["exact_match", "eval_loss"].into_iter().filter(known)).collect();
    let tasks = scored.first().into_iter().flat_map(|scored| scored.numbers.keys()).map(String::as_str);
    columns.extend(tasks.filter(|name| name.starts_with("tasks.") && *name != metric));
    let mut text = String::from("| checkpoint |");
    for name in &columns {
        text.extend([" ", &cell(name), " |"]);
    }
    text.push_str(" |\n|---|");
    text.push_str(&"---:|".repeat(columns.len()));
    text.push_str("---|\n");
    let mut row = |label: &str, numbers: &BTreeMap<String, f64>, mark: &str| {
        // Writing to a string cannot fail.
        let _ = write!(text, "| {} |", cell(label));
        for name in &columns {
            let number = numbers.get(*name).map(f64::to_string).unwrap_or_default();
            let _ = write!(text, " {number} |");
        }
        let _ = writeln!(text, " {mark} |");
    };
    if let Some(before) = before {
        row("before training", before, "");
    }
    for Scored { label, numbers, .. } in scored {
        let mark = match label {
            label if label == chosen => "chosen",
            label if tied.contains(&label.as_str()) => "ties",
            _ => "",
        };
        row(label, numbers, mark);
    }
    if let Some(tie) = tie {
        let _ = writeln!(text, "\n{}.", cell(tie));
    }
    text
}

/// Copies the contents of folder `from` into folder `to`.
fn copy_tree(from: &Path, to: &Path) -> Result<(), StageError> {
    fs::create_dir_all(to).map_err(|e| StageError::io(to, e))?;
    let entries = fs::read_dir(from).map_err(|e| StageError::io(from, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| StageError::io(from, e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(|e| StageError::io(&source, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use olmo_base::journal;
    use olmo_stage::{Event, InputItem};
    use serde_json::Value;

    /// An attempt with one checkpoint and one `metrics.json` for each pair.
    fn attempt(dir: &Path, checkpoints: &[&str], scores: &[(&str, Value)], select: Value) -> PathBuf {
        let item = |label: &str, path: PathBuf| InputItem { label: Some(label.into()), path };
        let from = checkpoints.iter().map(|label| {
            let path = dir.join("from").join(label);
            fs::create_dir_all(path.join("model")).unwrap();
            fs::write(path.join("model/model.safetensors"), label).unwrap();
            fs::write(path.join("trainer.json"), "{}").unwrap();
            item(label, path)
        });
        let metrics = scores.iter().map(|(label, value)| {
            let path = dir.join("scores").join(label);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("metrics.json"), value.to_string()).unwrap();
            item(label, path)
        });
        let inputs = json!({"from": from.collect::<Vec<_>>(), "scores": metrics.collect::<Vec<_>>()});
        let request = json!({
            "protocol": 2, "stage": "checkpoint", "version": 4, "params": {"select": select}, "inputs": inputs,
            "outputs": ["model", "choice"], "state_dir": dir.join("state"), "items": {}, "threads": 1, "compute": olmo_stage::Compute::FLEX
        });
        fs::write(dir.join("request.json"), request.to_string()).unwrap();
        dir.to_owned()
    }

    fn run(attempt: &Path) -> Result<String, String> {
        let mut context = Context::open(attempt).unwrap();
        let params = serde_json::from_value(context.request.params.clone()).map_err(|e| e.to_string())?;
        match Checkpoint::run(params, &mut context) {
            Ok(()) => Ok(fs::read_to_string(attempt.join("out/model/model.safetensors")).unwrap()),
            Err(StageError::Failed(failure) | StageError::OutOfMemory(failure)) => Err(failure.message),
            Err(StageError::Interrupted) => Err("interrupted".into()),
        }
    }

    fn choose(checkpoints: &[&str], scores: &[(&str, Value)], select: Value) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        run(&attempt(dir.path(), checkpoints, scores, select))
    }

    #[test]
    fn the_largest_or_the_smallest_score_is_chosen_and_of_equal_ones_the_earliest_step() {
        let labels = ["step100", "step20", "step3"];
        let scores = [
            ("step20", json!({"a": 0.5, "b": 1})),
            ("step100", json!({"a": 0.5, "b": 2})),
            ("step3", json!({"a": 0.25, "b": 1})),
        ];
        assert_eq!(choose(&labels, &scores, json!({"max": "a"})).unwrap(), "step20");
        assert_eq!(choose(&labels, &scores, json!({"min": "a"})).unwrap(), "step3");
        assert_eq!(choose(&labels, &scores, json!({"min": "b"})).unwrap(), "step3");
        assert_eq!(choose(&labels, &scores, json!({"max": "b"})).unwrap(), "step100");
    }

    #[test]
    fn the_choice_is_written_with_every_score_and_the_model_alone_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let scores = [
            ("step1", json!({"families": {"add": {"exact_match": 0.25}}})),
            ("step2", json!({"families": {"add": {"exact_match": 1.0}}})),
        ];
        let attempt = attempt(dir.path(), &["step1", "step2"], &scores, json!({"max": "families.add.exact_match"}));
        assert_eq!(run(&attempt).unwrap(), "step2");
        let choice: Value = serde_json::from_slice(&fs::read(attempt.join("out/choice/choice.json")).unwrap()).unwrap();
        assert_eq!(
            choice,
            json!({"format": 2, "metric": "families.add.exact_match", "order": "max", "chosen": "step2", "value": 1.0, "tied": [],
                   "scores": [{"label": "step1", "value": 0.25, "numbers": {"families.add.exact_match": 0.25}},
                       {"label": "step2", "value": 1.0, "numbers": {"families.add.exact_match": 1.0}}]})
        );
        let table = fs::read_to_string(attempt.join("out/choice/choice.md")).unwrap();
        assert_eq!(
            table,
            "| checkpoint | families.add.exact_match | |\n|---|---:|---|\n| step1 | 0.25 |  |\n| step2 | 1 | chosen |\n"
        );
        assert!(!attempt.join("out/model/trainer.json").exists());
        let events: Vec<Event> = journal::read(&attempt.join("events.jsonl")).unwrap();
        assert!(matches!(&events[..], [Event::Message { text, .. }] if text.contains("step2")));
    }

    /// The table, `tied` of `choice.json`, the message and the warnings of a choice by the largest `a`.
    fn report(scores: &[(&str, f64)]) -> (String, Value, String, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let labels: Vec<&str> = scores.iter().map(|(label, _)| *label).collect();
        let scores: Vec<(&str, Value)> = scores.iter().map(|(label, a)| (*label, json!({"a": a}))).collect();
        let attempt = attempt(dir.path(), &labels, &scores, json!({"max": "a"}));
        run(&attempt).unwrap();
        let table = fs::read_to_string(attempt.join("out/choice/choice.md")).unwrap();
        let choice: Value = serde_json::from_slice(&fs::read(attempt.join("out/choice/choice.json")).unwrap()).unwrap();
        let (mut messages, mut warnings) = (Vec::new(), Vec::new());
        for event in journal::read::<Event>(&attempt.join("events.jsonl")).unwrap() {
            match event {
                Event::Message { level: olmo_stage::MessageLevel::Warning, text } => warnings.push(text),
                Event::Message { text, .. } => messages.push(text),
                _ => {}
            }
        }
        (table, choice["tied"].clone(), messages.concat(), warnings)
    }

    #[test]
    fn a_tie_is_reported_and_a_choice_that_no_score_decided_is_a_warning() {
        let tie = "3 of 3 checkpoints tie at a 0: step3 is the first; nothing was decided";
        let (table, tied, message, warnings) = report(&[("step3", 0.0), ("step6", 0.0), ("step7", 0.0)]);
        assert_eq!((tied, message.as_str()), (json!(["step3", "step6", "step7"]), tie));
        assert!(warnings.len() == 1 && warnings[0].starts_with(tie), "{warnings:?}");
        assert_eq!(
            table,
            format!(
                "| checkpoint | a | |\n|---|---:|---|\n| step3 | 0 | chosen |\n| step6 | 0 | ties |\n| step7 | 0 | ties |\n\n{tie}.\n"
            )
        );
        // Some of them tie: a score decided, but not between these.
        let (table, tied, message, warnings) = report(&[("step3", 0.5), ("step6", 1.0), ("step7", 1.0)]);
        let tie = "2 of 3 checkpoints tie at a 1: step6 is the first of them";
        assert_eq!((tied, message), (json!(["step6", "step7"]), format!("step6: a 1, the best of 3; {tie}")));
        assert!(table.ends_with(&format!("| step7 | 1 | ties |\n\n{tie}.\n")) && warnings.is_empty(), "{table}");
        // Equal scores that are not the best ones do not matter, nor does a single checkpoint.
        for scores in [&[("step3", 0.5), ("step6", 0.5), ("step7", 1.0)][..], &[("step3", 0.5)]] {
            let (table, tied, message, warnings) = report(scores);
            assert!(tied == json!([]) && warnings.is_empty() && !table.contains("tie"), "{table}");
            assert!(!message.contains("tie"), "{message}");
        }
    }

    #[test]
    fn the_loss_on_held_out_data_decides_without_scores_and_the_model_before_is_shown_but_not_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let labels = ["step2", "step4"];
        let scores = [("step2", json!({"exact_match": 0.25})), ("step4", json!({"exact_match": 0.5}))];
        for with_scores in [false, true] {
            let dir = dir.path().join(with_scores.to_string());
            let attempt = attempt(&dir, &labels, if with_scores { &scores } else { &[] }, json!({"min": "eval_loss"}));
            for label in labels {
                let lines = "{\"step\":0,\"eval_loss\":0.5}\n{\"step\":1,\"loss\":9}\n{\"step\":2,\"loss\":9}\n\
                    {\"step\":2,\"eval_loss\":1.5}\n{\"step\":4,\"eval_loss\":1.25}\n";
                fs::write(dir.join("from").join(label).join("metrics.jsonl"), lines).unwrap();
            }
            let before = dir.join("before");
            fs::create_dir_all(&before).unwrap();
            fs::write(before.join("metrics.json"), "{\"format\": 1, \"exact_match\": 0.0}").unwrap();
            let answers = |answer: &str| {
                format!(
                    "{{\"record\":3,\"question\":\"q\",\"expected\":\"e\",\"answer\":{answer},\"exact_match\":false}}\n"
                )
            };
            fs::write(before.join("answers.jsonl"), answers("null")).unwrap();
            fs::create_dir_all(dir.join("scores/step4")).unwrap();
            fs::write(dir.join("scores/step4/answers.jsonl"), answers("\"# e\"")).unwrap();
            let path = attempt.join("request.json");
            let mut request: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            request["inputs"]["before"] = json!([{"label": null, "path": before}]);
            fs::write(&path, request.to_string()).unwrap();

            assert_eq!(run(&attempt).unwrap(), "step4", "smaller than before it need not be");
            let choice = attempt.join("out/choice");
            let table = fs::read_to_string(choice.join("choice.md")).unwrap();
            let expected = match with_scores {
                false => {
                    "| checkpoint | eval_loss | |\n|---|---:|---|\n| before training | 0.5 |  |\n| step2 | 1.5 |  |\n\
                          | step4 | 1.25 | chosen |\n"
                }
                true => {
                    "| checkpoint | eval_loss | exact_match | |\n|---|---:|---:|---|\n| before training | 0.5 | 0 |  |\n\
                         | step2 | 1.5 | 0.25 |  |\n| step4 | 1.25 | 0.5 | chosen |\n"
                }
            };
            assert_eq!(table, expected);
            assert_eq!(choice.join("answers.jsonl").exists(), with_scores);
            if with_scores {
                let text = fs::read_to_string(choice.join("answers.md")).unwrap();
                assert!(
                    text.contains("## Before 1\n\n    (too long to be asked)\n\n## After 1\n\n    # e\n"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_missing_metric_is_an_error_that_names_those_there_are() {
        let scores = [("step1", json!({"exact_match": 0.5, "count": 2, "families": {"add": {"exact_match": null}}}))];
        let message = choose(&["step1"], &scores, json!({"max": "exact"})).unwrap_err();
        assert!(
            message.contains("`exact`") && message.contains("count, exact_match") && message.contains("step1"),
            "{message}"
        );
        let message = choose(&["step1"], &scores, json!({"max": "families.add.exact_match"})).unwrap_err();
        assert!(message.contains("families.add.exact_match"), "{message}");
    }

    #[test]
    fn the_primary_metric_of_a_task_decides_and_what_is_within_its_error_is_reported() {
        let metrics = |value: f64| json!({"tasks": {"arc": {"primary": "acc_v2", "instances": 80, "metrics": {"acc_v2": {"value": value, "stderr": 0.05, "n": 80}}}}});
        let scores = [("step1", metrics(0.5)), ("step2", metrics(0.56)), ("step3", metrics(0.6))];
        for path in ["tasks.arc", "tasks.arc.metrics.acc_v2.value"] {
            let dir = tempfile::tempdir().unwrap();
            let attempt = attempt(dir.path(), &["step1", "step2", "step3"], &scores, json!({"max": path}));
            assert_eq!(run(&attempt).unwrap(), "step3");
            let choice = fs::read(attempt.join("out/choice/choice.json")).unwrap();
            let choice: Value = serde_json::from_slice(&choice).unwrap();
            assert_eq!((&choice["alike"], &choice["scores"][0]["stderr"]), (&json!(["step2"]), &json!(0.05)));
            let curve = fs::read_to_string(attempt.join("out/choice/curve.jsonl")).unwrap();
            let last: Value = serde_json::from_str(curve.lines().last().unwrap()).unwrap();
            assert_eq!((&last["step"], &last["scores"]["tasks.arc"]), (&json!(3), &json!(0.6)));
            assert_eq!(last["errors"]["tasks.arc"], json!(0.05));
        }
    }

    #[test]
    fn scores_have_the_labels_of_checkpoints() {
        // Of some, none of the others is chosen.
        let chosen = choose(&["step1", "step2"], &[("step1", json!({"a": 1}))], json!({"max": "a"})).unwrap();
        assert_eq!(chosen, "step1");
        let message =
            choose(&["step1"], &[("step1", json!({"a": 1})), ("step7", json!({"a": 1}))], json!({"max": "a"}))
                .unwrap_err();
        assert!(message.contains("step7"), "{message}");
        let message = choose(&[], &[], json!({"max": "a"})).unwrap_err();
        assert!(message.contains("no checkpoint"), "{message}");
    }

    #[test]
    fn select_takes_exactly_one_rule() {
        let scores = [("step1", json!({"a": 1}))];
        for select in [json!({}), json!({"max": "a", "min": "a"}), json!({"max": null}), json!({"most": "a"})] {
            assert!(choose(&["step1"], &scores, select.clone()).is_err(), "{select}");
        }
    }
}
