//! `olmo-pipe artifacts list|show|verify`.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use olmo_stage::{Digest, PortType};
use serde_json::{Value, json};

use super::{Common, Exit, Problem, answer, answer_json};
use crate::report::{bytes, escape_control, utc};
use crate::store::{Action, ArtifactRow, Index, Query, Store, StoreError};

#[derive(Subcommand)]
pub enum Artifacts {
    /// Lists artifacts, the newest last.
    List {
        /// Only those of this type: dataset, tokenizer, tokens, memmap, checkpoint, model, metrics, text, file, dir.
        #[arg(long = "type", value_name = "TYPE", value_parser = port_type)]
        artifact_type: Option<PortType>,
        /// Only those made by this stage.
        #[arg(long)]
        stage: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows an artifact's files, and the stage that made it from what.
    Show {
        /// The first digits of its digest.
        digest: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Reads everything again and compares it with the digests.
    Verify,
}

fn port_type(text: &str) -> Result<PortType, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|e| e.to_string())
}

impl Artifacts {
    pub fn run(self, common: &Common) -> Result<Exit, Problem> {
        let store = common.open_store()?;
        match self {
            Artifacts::List { artifact_type, stage, json } => {
                list(&store, &Query { artifact_type, stage, since: None, until: None }, json)
            }
            Artifacts::Show { digest, json } => show(&store, &digest, json),
            Artifacts::Verify => verify(&store),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn list(store: &Store, query: &Query, as_json: bool) -> Result<Exit, Problem> {
    let rows = Index::open(store).artifacts(query)?;
    if as_json {
        let rows: Vec<Value> = rows.iter().map(row_json).collect();
        answer_json(&json!({"format": 1, "artifacts": rows}));
        return Ok(Exit::Success);
    }
    let mut text =
        format!("{:<12}  {:<10}  {:>9}  {:>5}  {:<20}  made by\n", "digest", "type", "size", "files", "made (UTC)");
    for row in &rows {
        let by = match (row.reference, row.stages.is_empty()) {
            (true, _) => "(a local source)".to_owned(),
            (false, true) => "(part of another)".to_owned(),
            (false, false) => row.stages.join(", "),
        };
        let _ = writeln!(
            text,
            "{}  {:<10}  {:>9}  {:>5}  {:<20}  {}",
            row.digest.short(),
            row.artifact_type.to_string(),
            bytes(row.bytes),
            row.files,
            utc(seconds(row.made)),
            escape_control(&by),
        );
    }
    answer(&text);
    Ok(Exit::Success)
}

fn row_json(row: &ArtifactRow) -> Value {
    json!({
        "digest": row.digest, "type": row.artifact_type, "bytes": row.bytes, "files": row.files,
        "reference": row.reference, "made": seconds(row.made), "stages": row.stages,
    })
}

/// The action that has `artifact` among its outputs, and under which port.
fn maker(store: &Store, artifact: Digest) -> Result<Option<(Digest, Action, String)>, StoreError> {
    for key in store.action_keys()? {
        let Some(action) = store.recorded_action(key) else { continue };
        let port = action.outputs.iter().find(|(_, o)| o.artifacts().any(|d| d == artifact)).map(|(p, _)| p.clone());
        if let Some(port) = port {
            return Ok(Some((key, action, port)));
        }
    }
    Ok(None)
}

fn show(store: &Store, prefix: &str, as_json: bool) -> Result<Exit, Problem> {
    let digest = store.find_prefix(prefix)?;
    let manifest = store.manifest(digest)?;
    let maker = maker(store, digest)?;
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
        }));
        return Ok(Exit::Success);
    }
    let mut text = format!("artifact {digest}\n");
    let _ = writeln!(text, "type     {}, {}", manifest.artifact_type, bytes(manifest.bytes()));
    if !store.is_whole(digest) {
        text.push_str("state    not whole: a file is missing; run its experiment again to make it anew\n");
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
        None if manifest.is_reference() => text.push_str("made by  nothing here: a local source\n"),
        None => text.push_str("made by  nothing here: it is a part of another artifact, or came from elsewhere\n"),
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

fn verify(store: &Store) -> Result<Exit, Problem> {
    let problems = store.verify()?;
    for problem in &problems {
        answer(&format!("{}\n", escape_control(&problem.to_string())));
    }
    let damage = problems.iter().filter(|p| p.is_damage()).count();
    if damage > 0 {
        answer(&format!("{damage} problems; run the experiments again to make the damaged artifacts anew\n"));
        return Ok(Exit::CheckFailed);
    }
    answer("the store is sound\n");
    Ok(Exit::Success)
}
