//! [`Prediction`]: what a model returned for one instance, as it is written.
//!
//! The keys of olmo-eval's predictions have their names and meanings; the others are our own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::request::Message;
use crate::score::Scored;
use crate::text::characters;

/// One line of `predictions.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub task: String,
    pub doc_id: String,
    #[serde(default)]
    pub native_id: Option<String>,
    /// The line of the request in its file.
    pub line: usize,
    /// The exact text before the continuation, rendered if the request is a conversation. One for
    /// each choice if they differ.
    pub prompts: Vec<String>,
    /// The conversation, if the request is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    pub model_output: Vec<Output>,
    /// Scores by name. Empty if the request failed.
    pub instance_metrics: BTreeMap<String, f64>,
    /// The index of the correct choice, or the correct answers.
    pub label: Label,
    /// Number of tokens cut off at the beginning of the request; the largest of its choices.
    pub truncated_tokens: usize,
    /// Why the request failed.
    #[serde(default)]
    pub failed: Option<String>,
}

/// What is correct.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// Index of a choice.
    Choice(usize),
    /// Answers.
    Answers(Vec<String>),
}

/// One choice, or an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    pub text: String,
    pub num_tokens: usize,
    /// Absent for an answer, like the values below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_tokens_all: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum_logits: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_greedy: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits_per_token: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits_per_char: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    pub num_chars: usize,
}

impl Output {
    /// A text whose likelihood was computed.
    pub fn of_scored(scored: &Scored) -> Self {
        Self {
            num_tokens: scored.num_tokens,
            num_tokens_all: Some(scored.num_tokens_all),
            sum_logits: Some(scored.sum_logits),
            is_greedy: Some(scored.is_greedy),
            logits_per_token: Some(scored.per_token()),
            logits_per_char: Some(scored.per_char()),
            bits_per_byte: Some(scored.bits() / scored.bytes() as f64),
            num_chars: characters(&scored.text),
            text: scored.text.clone(),
        }
    }

    /// A generated answer.
    pub fn of_answer(text: &str, num_tokens: usize) -> Self {
        Self {
            num_tokens,
            num_tokens_all: None,
            sum_logits: None,
            is_greedy: None,
            logits_per_token: None,
            logits_per_char: None,
            bits_per_byte: None,
            num_chars: characters(text),
            text: text.to_owned(),
        }
    }
}
