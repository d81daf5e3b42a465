//! `olmo-pipe artifacts list`: lists artifacts.

use std::fmt::Write as _;

use clap::Args;
use olmo_base::units::{bytes, utc};
use olmo_stage::PortType;
use serde_json::{Value, json};

use crate::cli::artifacts::argument::seconds;
use crate::store::{ArtifactRow, Index, Query, Store, Tag};
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts list --type checkpoint")]
pub(crate) struct List {
    /// List only this type: dataset, tokenizer, tokens, memmap, checkpoint, model, metrics, text,
    /// file or dir.
    #[arg(long = "type", value_name = "TYPE", value_parser = port_type)]
    artifact_type: Option<PortType>,
    /// List only artifacts made by this stage.
    #[arg(long)]
    stage: Option<String>,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

pub(super) fn port_type(text: &str) -> Result<PortType, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|e| e.to_string())
}

impl List {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let query = Query { artifact_type: self.artifact_type, stage: self.stage, since: None, until: None };
        list(store, &query, self.json)
    }
}

fn list(store: &Store, query: &Query, as_json: bool) -> Result<Exit, Problem> {
    let rows = Index::open(store).artifacts(query)?;
    let tags = store.tags()?;
    if as_json {
        let rows: Vec<Value> = rows.iter().map(|row| row_json(row, &tags)).collect();
        answer_json(&json!({"format": 1, "artifacts": rows}));
        return Ok(Exit::Success);
    }
    let mut text =
        format!("{:<12}  {:<10}  {:>9}  {:>5}  {:<20}  made by\n", "digest", "type", "size", "files", "made (UTC)");
    // Neighbours were mostly made by the same stages.
    let mut made_by: (&[String], String) = (&[], String::new());
    for row in &rows {
        let by = match (row.reference, row.stages.is_empty()) {
            (true, _) => "(a local source)",
            (false, true) => "(part of another)",
            (false, false) => {
                if made_by.0 != row.stages {
                    made_by = (&row.stages, escape_control(&row.stages.join(", ")).to_string());
                }
                &made_by.1
            }
        };
        let named: Vec<&str> = tags.iter().filter(|t| t.artifact == row.digest).map(|t| t.name.as_str()).collect();
        let named = if named.is_empty() { String::new() } else { format!("  [{}]", named.join(", ")) };
        let _ = writeln!(
            text,
            "{}  {:<10}  {:>9}  {:>5}  {:<20}  {by}{named}",
            row.digest.short(),
            row.artifact_type,
            bytes(row.bytes),
            row.files,
            utc(seconds(row.made)),
        );
    }
    answer(&text);
    Ok(Exit::Success)
}

fn row_json(row: &ArtifactRow, tags: &[Tag]) -> Value {
    let tags: Vec<&str> = tags.iter().filter(|t| t.artifact == row.digest).map(|t| t.name.as_str()).collect();
    json!({
        "digest": row.digest, "type": row.artifact_type, "bytes": row.bytes, "files": row.files,
        "reference": row.reference, "made": seconds(row.made), "stages": row.stages, "tags": tags,
    })
}
