//! Params of stage `fetch`.

use std::collections::BTreeMap;

use olmo_data::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::format::Format;

/// What to do with a bad record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Fail and list the bad records.
    #[default]
    Fail,
    /// Drop bad records, count them, and warn.
    Skip,
}

/// Which records to keep. 0 and an empty list mean no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Keep only conversations whose `dataset` is in this list.
    pub datasets: Vec<String>,
    /// Minimum number of messages.
    pub min_messages: u64,
    /// Maximum number of messages.
    pub max_messages: u64,
    /// Maximum number of characters, over all messages of a conversation or in a document.
    pub max_chars: u64,
}

/// Params of stage `fetch`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FetchParams {
    /// Format of the files: `messages`, `sharegpt`, `alpaca` or `prompt_completion` for
    /// conversations; `text` for documents (one per line, or in the key or column `text`); `auto`
    /// to detect it from each file's first records.
    pub format: Format,
    /// What to do with a bad record: `fail`, or `skip` (drop it and count it).
    pub on_error: OnError,
    /// Which records to keep.
    pub filter: Filter,
    /// Drops records with the same content as an earlier one.
    pub dedup: bool,
    /// How many times to take the records of each source (first `files`, then `datasets`, in
    /// order): 1 takes every record once, 0.25 a random quarter, 2.5 every record twice and a
    /// random half a third time. Empty: each once.
    pub weights: Vec<f64>,
    /// Seed for the random choices of `weights`.
    pub seed: u64,
    /// Maximum number of records per source; 0: no limit.
    pub limit: u64,
    /// Additional role names that the files use, such as `{bot: assistant}`.
    pub roles: BTreeMap<String, Role>,
    /// Key of a conversation's list of messages. Empty: `messages`, or `conversations` in format
    /// `sharegpt`.
    pub messages_field: String,
    /// Key of a message's role. Empty: `role` or `from`.
    pub role_field: String,
    /// Key of a message's content. Empty: `content` or `value`.
    pub content_field: String,
    /// Key or column of a document's text. Empty: `text`.
    pub text_field: String,
}
