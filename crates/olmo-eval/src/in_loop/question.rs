//! [`Question`]: a question of the package as text, and the line in which stage `eval` reads it.

use serde_json::{Value, json};

use crate::rule::{Metric, Rule};

/// A question: its choices, each with the prompt before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The prompt and the continuation of each choice.
    pub choices: Vec<(String, String)>,
    /// Index of the correct choice.
    pub gold: usize,
    /// For each choice, a prompt without the question (for `pmi_dc`).
    pub unconditional: Vec<String>,
}

impl Question {
    /// Keeps what `metric` scores: the correct choice alone if it is of one choice.
    #[must_use]
    pub fn for_metric(mut self, metric: Metric) -> Self {
        if metric.is_of_one_choice() && self.gold < self.choices.len() {
            self.choices = vec![self.choices.swap_remove(self.gold)];
            self.gold = 0;
        }
        if metric != Metric::PmiDc {
            self.unconditional.clear();
        }
        self
    }
}

/// The question as a line of the form of olmo-eval, with `prompts` if the choices differ in them, and
/// `metadata.in_loop`.
pub fn write_line(question: &Question, label: &str, id: &str, native_id: Option<&str>, rule: &Rule) -> Value {
    let rule = Rule { unconditional: question.unconditional.clone(), ..rule.clone() };
    let prompts: Vec<&str> = question.choices.iter().map(|(prompt, _)| prompt.as_str()).collect();
    let continuations: Vec<&str> = question.choices.iter().map(|(_, continuation)| continuation.as_str()).collect();
    let mut line = json!({"doc_id": id, "task_name": label, "request_type": "loglikelihood"});
    match prompts.iter().all(|prompt| *prompt == prompts[0]) {
        true => line["prompt"] = json!(prompts.first()),
        false => line["prompts"] = json!(prompts),
    }
    line["continuations"] = json!(continuations);
    line["metadata"] = json!({"gold_idx": question.gold, "in_loop": rule});
    if let Some(id) = native_id {
        line["metadata"]["id"] = json!(id);
    }
    line
}
