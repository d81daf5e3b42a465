//! A stage's rules: what it can say against its params and inputs before anything runs.
//!
//! The engine asks all stages at once, with the inputs that are there already. A built-in stage
//! answers through [`crate::Stage::check`]; a command stage through the program
//! under `command.check` of its contract, which reads a [`Question`] on standard input and prints
//! a list of [`Finding`]s, both as JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a stage is asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The contract's name.
    pub stage: String,
    /// All params, defaults filled in.
    pub params: Value,
    /// The ports that are connected; an absent optional port is not there.
    pub inputs: BTreeMap<String, KnownInput>,
    /// Free space on the store's file system in bytes, if there is a store.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// What will compute it, as in its [`crate::protocol::Request`].
    pub backend: String,
    /// What activations will be computed in, as there.
    pub precision: String,
}

/// What is known of an input port before the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownInput {
    /// Its artifacts; `None` while a stage is to make them first.
    pub items: Option<Vec<KnownItem>>,
}

/// An artifact that is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownItem {
    /// Of a list's item.
    pub label: Option<String>,
    /// Its files: path in the artifact → where the bytes lie. For reading only.
    pub files: BTreeMap<String, PathBuf>,
}

/// One thing that is wrong, or that is probably not what was meant, or good to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// An error stops the run before it begins.
    pub level: Level,
    /// Stable, `area::reason`.
    pub code: String,
    /// The path of the param, below `with`: `optimizer.betas`. Empty: none of them alone.
    #[serde(default)]
    pub param: String,
    pub message: String,
    /// The way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Error,
    Warning,
    /// Nothing is wrong: what `plan` tells beside the stage, such as the memory that it will take.
    Note,
}

impl Question {
    /// Whether port `name` is connected, to something that is there or not yet.
    pub fn has(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    /// What is known of the first artifact in port `port`.
    pub fn item(&self, port: &str) -> Option<&KnownItem> {
        self.inputs.get(port)?.items.as_ref()?.first()
    }

    /// Where file `file` of the first artifact in port `port` lies, if that is there.
    pub fn file(&self, port: &str, file: &str) -> Option<&PathBuf> {
        self.item(port)?.files.get(file)
    }
}

impl KnownItem {
    /// The folder that the files lie in under their own names: a user's folder, not a store.
    pub fn folder(&self) -> Option<PathBuf> {
        let root = |(name, path): (&String, &PathBuf)| {
            let depth = Path::new(name).components().count();
            path.ends_with(name).then(|| path.ancestors().nth(depth).map(Path::to_path_buf)).flatten()
        };
        self.files.iter().find_map(root)
    }
}

impl Finding {
    pub fn error(code: &str, param: &str, message: impl Into<String>) -> Self {
        let (code, param, message) = (code.to_owned(), param.to_owned(), message.into());
        Self { level: Level::Error, code, param, message, hint: None }
    }

    pub fn warning(code: &str, param: &str, message: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(code, param, message) }
    }

    pub fn note(code: &str, message: impl Into<String>) -> Self {
        Self { level: Level::Note, ..Self::error(code, "", message) }
    }

    /// Adds the way out.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
