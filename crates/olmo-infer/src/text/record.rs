//! [`AnswerRecord`]: a line of a file of answers.

use olmo_data::DataError;
use serde::{Deserialize, Serialize};

use super::complete::Answer;
use super::model_text::ModelText;
use super::prompts::{Content, Prompt};
use crate::batch::Logprobs;

/// A prompt and its answers, as a line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// Index of the prompt.
    pub index: u64,
    #[serde(flatten)]
    prompt: PromptRecord,
    /// The answers, `n` of them.
    pub answers: Vec<CompletionRecord>,
}

/// The prompt under the key that a file of prompts has for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum PromptRecord {
    Text { prompt: String },
    Messages(Content),
}

/// An answer to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletionRecord {
    pub text: String,
    /// `stop` or `length`.
    pub finish_reason: String,
    pub tokens: Vec<u32>,
    /// For each token, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<TokenRecord>>,
}

/// A token with its log-probability and the most likely tokens in its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub token: u32,
    pub text: String,
    pub logprob: f32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TokenRecord>,
}

impl TokenRecord {
    /// A token without alternatives.
    ///
    /// # Errors
    /// The tokenizer cannot decode it.
    pub fn new(text: &ModelText, token: u32, logprob: f32) -> Result<TokenRecord, DataError> {
        Ok(TokenRecord { token, text: text.tokenizer().decode(&[token], false)?, logprob, top: Vec::new() })
    }
}

impl AnswerRecord {
    /// The record of `answers` to `prompt`.
    ///
    /// # Errors
    /// The tokenizer cannot decode a token.
    pub fn new(text: &ModelText, prompt: &Prompt, answers: Vec<Answer>) -> Result<AnswerRecord, DataError> {
        let content = match &prompt.content {
            Content::Text(prompt) => PromptRecord::Text { prompt: prompt.clone() },
            other => PromptRecord::Messages(other.clone()),
        };
        let answers = answers.into_iter().map(|answer| CompletionRecord::new(text, answer));
        Ok(AnswerRecord { index: prompt.index, prompt: content, answers: answers.collect::<Result<_, _>>()? })
    }
}

impl CompletionRecord {
    fn new(text: &ModelText, answer: Answer) -> Result<CompletionRecord, DataError> {
        let record = |(token, logprobs): (&u32, &Logprobs)| -> Result<TokenRecord, DataError> {
            let top = logprobs.top.iter().map(|(id, logprob)| TokenRecord::new(text, *id, *logprob));
            let top = top.collect::<Result<Vec<_>, _>>()?;
            Ok(TokenRecord { top, ..TokenRecord::new(text, *token, logprobs.chosen)? })
        };
        let records = |logprobs: &Vec<Logprobs>| answer.tokens.iter().zip(logprobs).map(record).collect();
        let logprobs: Option<Result<Vec<TokenRecord>, DataError>> = answer.logprobs.as_ref().map(records);
        Ok(CompletionRecord {
            logprobs: logprobs.transpose()?,
            text: answer.text,
            finish_reason: answer.finish.name().to_owned(),
            tokens: answer.tokens,
        })
    }
}
