//! Params of stage `tokenizer`.

use olmo_data::Template;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Params of stage `tokenizer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerParams {
    /// Vocabulary size of a trained tokenizer, special tokens included; a given file or model keeps
    /// its own.
    #[schemars(range(min = 258))]
    pub vocab_size: u32,
    /// Token that ends a text; a given file must contain it. Null: the given model's, or
    /// `<|endoftext|>`.
    pub eos_token: Option<String>,
    /// Token that pads rows; a given file must contain it. It may be `eos_token`. Null: the given
    /// model's (or its eos token if it has none), or `<|padding|>`.
    pub pad_token: Option<String>,
    /// Makes each digit its own token in a trained tokenizer; a given file or model keeps its own
    /// rule.
    pub split_digits: bool,
    /// Token that starts a text, for chat templates that write `bos_token`. Null: the one that a
    /// given file's post-processor adds, if any.
    pub bos_token: Option<String>,
    /// Chat template: `tulu`, `olmo2` or `chatml`; or give a file in port `chat_template`. Every
    /// stage downstream of this tokenizer uses it. Null: stage `tokenize` chooses.
    #[schemars(with = "Option<String>", extend("enum" = ["tulu", "olmo2", "chatml", null]))]
    pub template: Option<Template>,
    /// Today's date for chat templates that ask for it (`strftime_now`), such as `2026-01-31`. The
    /// system clock is never used.
    pub date: Option<String>,
}

impl Default for TokenizerParams {
    fn default() -> Self {
        Self {
            vocab_size: 1024,
            eos_token: None,
            pad_token: None,
            split_digits: true,
            bos_token: None,
            template: None,
            date: None,
        }
    }
}

impl TokenizerParams {
    /// The eos token of a tokenizer that does not come from a model.
    pub fn eos(&self) -> &str {
        self.eos_token.as_deref().unwrap_or("<|endoftext|>")
    }

    /// The pad token of a tokenizer that does not come from a model.
    pub fn pad(&self) -> &str {
        self.pad_token.as_deref().unwrap_or("<|padding|>")
    }
}
