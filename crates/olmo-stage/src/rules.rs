//! Rules of a stage: checks of its params and inputs before anything runs. A check never writes.
//!
//! The engine checks all stages at once, with the inputs that already exist. A built-in stage
//! implements [`crate::Stage::check`]. A command stage names a program under `command.check` in its
//! contract. The program reads a [`Question`] on standard input and prints a list of [`Finding`]s,
//! both as JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compute::Compute;
use crate::protocol;

/// The params and inputs to check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The contract's name.
    pub stage: String,
    /// All params, with defaults filled in.
    pub params: Value,
    /// The connected ports. An optional port that is not connected is absent.
    pub inputs: BTreeMap<String, KnownInput>,
    /// Free space on the store's file system in bytes, if there is a store.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// Where and how the stage would compute.
    pub compute: Compute,
    /// Number of processes that would run it together.
    #[serde(default = "protocol::one")]
    pub ranks: u32,
}

/// What is known about an input port before the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownInput {
    /// The artifacts of the port. `None` if a stage has yet to make them, or they are not fetched.
    pub items: Option<Vec<KnownItem>>,
    /// Files that describe a model that is not fetched yet, such as `config.json`, by name. They are
    /// good for estimates, not for errors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub described: BTreeMap<String, PathBuf>,
    /// The stage that makes the artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<Maker>,
}

/// A stage that makes an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maker {
    /// The contract's name.
    pub stage: String,
    /// All params, with defaults filled in.
    pub params: Value,
}

/// An existing artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownItem {
    /// The label of a list item.
    pub label: Option<String>,
    /// The files, as path in the artifact → path on disk. They must not be changed.
    pub files: BTreeMap<String, PathBuf>,
}

/// An error, a warning or a note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// An error stops the run before any stage starts.
    pub level: Level,
    /// A stable code, `area::reason`.
    pub code: String,
    /// The path of the param below `with`, such as `optimizer.betas`. Empty if the finding is not
    /// about a single param.
    #[serde(default)]
    pub param: String,
    pub message: String,
    /// How to fix it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Error,
    Warning,
    /// Information that `plan` shows with the stage, such as the memory that it will use.
    Note,
}

impl Question {
    /// Whether port `name` is connected, even if its artifact does not exist yet.
    pub fn has(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    /// The first artifact in port `port`, if it exists.
    pub fn item(&self, port: &str) -> Option<&KnownItem> {
        self.inputs.get(port)?.items.as_ref()?.first()
    }

    /// The path of the file `file` that describes the model in port `port`, which is not fetched yet.
    pub fn described(&self, port: &str, file: &str) -> Option<&PathBuf> {
        self.inputs.get(port)?.described.get(file)
    }

    /// The value of param `param` of a stage `stage` that makes the input of port `port`.
    pub fn maker_param(&self, port: &str, stage: &str, param: &str) -> Option<&Value> {
        let maker = self.inputs.get(port)?.maker.as_ref().filter(|maker| maker.stage == stage)?;
        maker.params.get(param)
    }

    /// The path of file `file` of the first artifact in port `port`, if it exists.
    pub fn file(&self, port: &str, file: &str) -> Option<&PathBuf> {
        self.item(port)?.files.get(file)
    }
}

impl KnownItem {
    /// The folder that contains the files under their own names, if they are in a user's folder
    /// instead of the store.
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

    /// Adds a hint.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
