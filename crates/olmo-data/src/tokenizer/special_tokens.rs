//! The special tokens of a tokenizer: as recorded in its artifact, and as templates see them.

use serde::{Deserialize, Serialize};

/// `special_tokens.json`: the eos and pad tokens of a tokenizer, and more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    pub format: u32,
    pub eos_token: String,
    pub eos_token_id: u32,
    pub pad_token: String,
    pub pad_token_id: u32,
    /// One more than the largest id, added tokens included.
    pub vocab_size: u32,
    /// The token that the tokenizer puts before a text, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
    /// Maximum sequence length of the model that the tokenizer comes from, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_max_length: Option<u64>,
}

/// The special tokens of a tokenizer, as templates see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialStrings {
    pub bos: Option<String>,
    pub eos: String,
    pub pad: Option<String>,
    pub unk: Option<String>,
}
