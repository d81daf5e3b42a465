//! [`Format`]: the formats of records.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Format of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Tulu's and OpenAI's format: `{"dataset", "id", "messages": [{"role", "content"}], "tools"}`.
    #[default]
    Messages,
    /// ShareGPT's format:
    /// `{"conversations": [{"from": "human" | "gpt" | "function_call" | "observation", "value"}], "system", "tools"}`.
    Sharegpt,
    /// Alpaca's format: `{"instruction", "input", "output", "system", "history": [[question, answer]]}`.
    Alpaca,
    /// A question and its answer, each a text or a list of messages: `{"prompt", "completion"}` (or
    /// `response`).
    PromptCompletion,
    /// Documents: one per non-blank line, or the column or key `text`.
    Text,
    /// Detected from the first records of each file.
    Auto,
}

impl Format {
    /// The name in YAML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Sharegpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt_completion",
            Self::Text => "text",
            Self::Auto => "auto",
        }
    }

    /// The format of a record with these keys.
    pub fn of_keys(keys: &[&str]) -> Option<Self> {
        let has = |key: &str| keys.contains(&key);
        match () {
            _ if has("messages") => Some(Self::Messages),
            _ if has("conversations") => Some(Self::Sharegpt),
            _ if has("instruction") && has("output") => Some(Self::Alpaca),
            _ if has("prompt") && (has("completion") || has("response")) => Some(Self::PromptCompletion),
            _ if has("text") => Some(Self::Text),
            _ => None,
        }
    }
}
