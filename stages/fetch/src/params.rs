//! Params of stage `fetch`.

use std::collections::BTreeMap;

use olmo_data::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::Format;

/// What a bad record means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The stage fails and shows the bad records.
    #[default]
    Fail,
    /// Bad records are left out and counted, with a warning.
    Skip,
}

/// Which records are kept. 0 and an empty list set no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Only conversations whose `dataset` is one of these.
    pub datasets: Vec<String>,
    /// At least so many messages.
    pub min_messages: u64,
    /// At most so many messages.
    pub max_messages: u64,
    /// At most so many characters in all messages, or in a document.
    pub max_chars: u64,
}

/// Params of stage `fetch`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FetchParams {
    /// What the files hold: `messages`, `sharegpt`, `alpaca` or `prompt_completion` for conversations, `text` for documents (one
    /// a line, or the key or column `text`), `auto` to find out from the first records of each file.
    pub format: Format,
    /// What a bad record means: `fail` or `skip` (left out and counted).
    pub on_error: OnError,
    /// Which records are kept.
    pub filter: Filter,
    /// Leaves out a record that says the same as one before it.
    pub dedup: bool,
    /// How often each source (first `files`, then `datasets`, in order) is taken: 1 takes every record once, 0.25 every fourth by
    /// chance, 2.5 every record twice and half of them a third time. Empty: each once.
    pub weights: Vec<f64>,
    /// Decides that chance.
    pub seed: u64,
    /// At most so many records of each source are kept; 0 keeps all.
    pub limit: u64,
    /// Roles by the names that the files have for them, in addition to those that are known: `{bot: assistant}`.
    pub roles: BTreeMap<String, Role>,
    /// The key of a conversation's list of messages. Empty: `messages`, or `conversations` in format `sharegpt`.
    pub messages_field: String,
    /// The key of a message's role. Empty: `role` or `from`.
    pub role_field: String,
    /// The key of a message's content. Empty: `content` or `value`.
    pub content_field: String,
    /// The key or column of a document. Empty: `text`.
    pub text_field: String,
}
