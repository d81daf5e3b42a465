//! `olmo-pipe artifacts show`: the files and the maker of an artifact.

use std::fmt::Write as _;

use clap::Args;
use olmo_base::units::bytes;
use olmo_base::{ActionKey, ArtifactId};
use serde_json::{Value, json};

use crate::cli::artifacts::argument::{ARTIFACT, find};
use crate::store::{Action, Store, StoreError};
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts show latest:model")]
pub(crate) struct Show {
    #[arg(help = ARTIFACT)]
    artifact: String,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        show(store, &self.artifact, self.json)
    }
}

/// The action that has `artifact` among its outputs, and the port.
fn maker(store: &Store, artifact: ArtifactId) -> Result<Option<(ActionKey, Action, String)>, StoreError> {
    for key in store.action_keys()? {
        let Some(action) = store.recorded_action(key) else { continue };
        let port = action.outputs.iter().find(|(_, o)| o.artifacts().any(|d| d == artifact)).map(|(p, _)| p.clone());
        if let Some(port) = port {
            return Ok(Some((key, action, port)));
        }
    }
    Ok(None)
}

fn show(store: &Store, reference: &str, as_json: bool) -> Result<Exit, Problem> {
    let digest = find(store, reference)?;
    let manifest = store.manifest(digest)?;
    let maker = maker(store, digest)?;
    let tags: Vec<String> = store.tags()?.into_iter().filter(|t| t.artifact == digest).map(|t| t.name).collect();
    let pinned = store.pins()?.contains(&digest);
    if as_json {
        let files: Vec<Value> = manifest
            .files
            .iter()
            .map(|(path, e)| json!({"path": path, "digest": e.digest, "size": e.size, "source": e.source}))
            .collect();
        let made = maker.as_ref().map(|(key, action, port)| json!({"key": key, "port": port, "record": action.key}));
        answer_json(&json!({
            "format": 1, "digest": digest, "type": manifest.artifact_type, "bytes": manifest.bytes(),
            "whole": store.is_whole(digest), "files": files, "made_by": made,
            "tags": tags, "pinned": pinned,
        }));
        return Ok(Exit::Success);
    }
    let mut text = format!("artifact {digest}\n");
    let _ = writeln!(text, "type     {}, {}", manifest.artifact_type, bytes(manifest.bytes()));
    if !tags.is_empty() {
        let _ = writeln!(text, "tags     {}", tags.join(", "));
    }
    if pinned {
        text.push_str("pinned   yes\n");
    }
    if !store.is_whole(digest) {
        text.push_str("state    incomplete: a file is missing; run its experiment again to restore it\n");
    }
    text.push_str("files\n");
    for (path, entry) in &manifest.files {
        let from = entry.source.as_ref().map(|s| format!("  from {}", s.display())).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}  {:>9}  {}{}",
            entry.digest.short(),
            bytes(entry.size),
            escape_control(path),
            escape_control(&from)
        );
    }
    match maker {
        None if manifest.is_reference() => text.push_str("made by  no stage: a local source\n"),
        None => text.push_str("made by  no stage here: part of another artifact, or from another store\n"),
        Some((key, action, port)) => {
            let record = &action.key;
            let _ = writeln!(
                text,
                "made by  {} (version {}), port {port}, key {}",
                record.stage,
                record.version,
                key.short()
            );
            for (name, value) in &record.params {
                let _ = writeln!(text, "  param  {name} = {}", escape_control(&value.to_string()));
            }
            for (port, items) in &record.inputs {
                for item in items {
                    let label = item.label.as_ref().map(|l| format!(" [{l}]")).unwrap_or_default();
                    let _ = writeln!(text, "  input  {port}{} = {}", escape_control(&label), item.digest.short());
                }
            }
        }
    }
    answer(&text);
    Ok(Exit::Success)
}
