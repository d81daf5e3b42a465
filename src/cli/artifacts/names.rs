//! `olmo-pipe artifacts tag|untag|tags|pin|unpin`: names and keeps artifacts.

use std::fmt::Write as _;

use clap::Args;
use olmo_base::units::utc;
use serde_json::json;

use crate::cli::artifacts::argument::{ARTIFACT, find};
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts tag best-sft latest:model")]
pub(crate) struct Tag {
    /// New name: a letter, then letters, digits, `.`, `_` or `-`.
    name: String,
    #[arg(help = ARTIFACT)]
    artifact: String,
    /// Move the name if it belongs to another artifact.
    #[arg(long = "move")]
    replace: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Tag {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let artifact = find(store, &self.artifact)?;
        let before = store.tag(&self.name, artifact, self.replace)?;
        if self.json {
            answer_json(&json!({"format": 1, "tag": self.name, "artifact": artifact, "before": before}));
            return Ok(Exit::Success);
        }
        let was = before.filter(|old| *old != artifact).map(|old| format!(" (was {})", old.short()));
        answer(&format!("{} is {}{}\n", self.name, artifact.short(), was.unwrap_or_default()));
        Ok(Exit::Success)
    }
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts untag best-sft")]
pub(crate) struct Untag {
    /// Names to remove.
    #[arg(required = true)]
    names: Vec<String>,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Untag {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let mut gone = Vec::new();
        for name in &self.names {
            let artifact = store.untag(name)?;
            if !self.json {
                answer(&format!("{name} was {}\n", artifact.short()));
            }
            gone.push(json!({"name": name, "artifact": artifact}));
        }
        if self.json {
            answer_json(&json!({"format": 1, "untagged": gone}));
        }
        Ok(Exit::Success)
    }
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts tags")]
pub(crate) struct Tags {
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Tags {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let tags = store.tags()?;
        if self.json {
            answer_json(&json!({"format": 1, "tags": tags, "pins": store.pins()?}));
            return Ok(Exit::Success);
        }
        let width = tags.iter().map(|t| t.name.len()).max().unwrap_or(0).max(4);
        let mut text = String::new();
        for tag in &tags {
            let state = match store.manifest(tag.artifact) {
                Ok(manifest) => manifest.artifact_type.to_string(),
                Err(_) => "not in the store".to_owned(),
            };
            let (name, digest, at) = (&tag.name, tag.artifact.short(), utc(tag.at / 1000));
            let _ = writeln!(text, "{name:<width$}  {digest}  {state:<10}  {at}");
        }
        for pin in store.pins()? {
            let _ = writeln!(text, "{:<width$}  {}", "pin", pin.short());
        }
        answer(&text);
        Ok(Exit::Success)
    }
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts pin latest:model")]
pub(crate) struct Pin {
    #[arg(help = ARTIFACT, required = true)]
    artifacts: Vec<String>,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Pin {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let mut pinned = Vec::new();
        for text in &self.artifacts {
            let artifact = find(store, text)?;
            store.pin(artifact)?;
            if !self.json {
                answer(&format!("{} is pinned\n", artifact.short()));
            }
            pinned.push(artifact);
        }
        if self.json {
            answer_json(&json!({"format": 1, "pinned": pinned}));
        }
        Ok(Exit::Success)
    }
}

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts unpin latest:model")]
pub(crate) struct Unpin {
    #[arg(help = ARTIFACT, required = true)]
    artifacts: Vec<String>,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Unpin {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let mut unpinned = Vec::new();
        for text in &self.artifacts {
            let artifact = find(store, text)?;
            let was = store.unpin(artifact)?;
            if !self.json {
                let now = if was { "is no longer pinned" } else { "was not pinned" };
                answer(&format!("{} {now}\n", artifact.short()));
            }
            unpinned.push(json!({"artifact": artifact, "was_pinned": was}));
        }
        if self.json {
            answer_json(&json!({"format": 1, "unpinned": unpinned}));
        }
        Ok(Exit::Success)
    }
}
