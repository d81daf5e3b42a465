//! [`ChatRecord`]: `chat.json`, how conversations for a tokenizer are rendered.

use std::fmt;
use std::path::Path;

use olmo_base::Digest;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::json_file;

/// The file in an artifact or a model folder.
pub const CHAT: &str = "chat.json";
/// The name of a template that is not built in.
pub const JINJA: &str = "jinja";

/// A token that ends a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopToken {
    pub token: String,
    pub id: u32,
}

/// `chat.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatRecord {
    pub format: u32,
    /// `tulu`, `olmo2`, `chatml`, or `jinja` for any other template.
    pub template: String,
    /// The template in Jinja.
    pub chat_template: String,
    /// Today's date for `strftime_now`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Special tokens that the template may write. A tokenizer need not have all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    pub eos_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
    /// Tokens that end an answer, most important first; eos is the last.
    pub stop_tokens: Vec<StopToken>,
    /// Digest of the tokenizer's `tokenizer.json`.
    pub tokenizer: Digest,
}

impl ChatRecord {
    /// Reads `chat.json` in folder `dir`; `None` if there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, DataError> {
        let path = dir.join(CHAT);
        if path.exists() { json_file::read(&path).map(Some) } else { Ok(None) }
    }

    /// Writes `chat.json` in folder `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), DataError> {
        json_file::write(&dir.join(CHAT), self)
    }
}

impl fmt::Display for ChatRecord {
    /// For messages: the template's name or digest, and its stop tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.template.as_str() {
            JINJA => write!(f, "a custom template (digest {})", Digest::of(self.chat_template.as_bytes()).short())?,
            name => write!(f, "template `{name}`")?,
        }
        let stops: Vec<&str> = self.stop_tokens.iter().map(|stop| stop.token.as_str()).collect();
        write!(f, ", whose answers end with `{}`", stops.join("` or `").escape_debug())
    }
}
