//! `olmo-pipe artifacts import`: brings artifacts into the store.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use olmo_base::units::bytes;
use olmo_stage::PortType;
use serde_json::json;

use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts import my-model --type model --tag mine")]
pub(crate) struct Import {
    /// Archive from `artifacts export --archive`, packed or unpacked; with --type, any folder.
    place: PathBuf,
    /// Import the folder's files as an artifact of this type: dataset, tokenizer, tokens, memmap,
    /// checkpoint, model, metrics, text, file or dir.
    #[arg(long = "type", value_name = "TYPE", value_parser = crate::cli::artifacts::list::port_type)]
    artifact_type: Option<PortType>,
    /// Name the artifact, if there is only one.
    #[arg(long)]
    tag: Option<String>,
    /// Also accept the archive's cached results; only for archives that you trust.
    #[arg(long, conflicts_with = "artifact_type")]
    trust_actions: bool,
    /// Do not pin the artifacts; `artifacts gc` may remove them.
    #[arg(long)]
    no_pin: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Import {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        if let Some(tag) = &self.tag {
            crate::store::check_tag(tag)?;
        }
        let mut text = String::new();
        let mut counts = json!({});
        let artifacts = match self.artifact_type {
            Some(artifact_type) => vec![store.import_folder(artifact_type, &self.place)?],
            None => {
                let imported = store.import_bundle(&self.place, self.trust_actions)?;
                counts = json!({
                    "new_bytes": imported.bytes, "actions": imported.actions, "untrusted_actions": imported.untrusted,
                });
                let _ = writeln!(text, "{} new", bytes(imported.bytes));
                if imported.actions > 0 {
                    let _ = writeln!(text, "{} finished stages", imported.actions);
                }
                if imported.untrusted > 0 {
                    let _ = writeln!(
                        text,
                        "{} finished stages were left out; --trust-actions accepts them",
                        imported.untrusted
                    );
                }
                imported.artifacts
            }
        };
        for artifact in &artifacts {
            if !self.no_pin {
                store.pin(*artifact)?;
            }
            let manifest = store.manifest(*artifact)?;
            let _ = writeln!(text, "{artifact}  {}, {}", manifest.artifact_type, bytes(manifest.bytes()));
        }
        if let Some(tag) = &self.tag {
            let [artifact] = artifacts[..] else {
                let message = format!("a tag names one artifact, and {} were imported", artifacts.len());
                return Err(Problem::new(Exit::BadInput, "cli::one_artifact", &message, Some("tag them one by one")));
            };
            store.tag(tag, artifact, false)?;
        }
        match self.json {
            true => answer_json(&json!({"format": 1, "artifacts": artifacts, "archive": counts})),
            false => answer(&text),
        }
        Ok(Exit::Success)
    }
}
