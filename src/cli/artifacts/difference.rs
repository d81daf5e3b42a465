//! `olmo-pipe artifacts diff`: compares two artifacts.

use std::fmt::Write as _;

use clap::Args;
use olmo_base::units::bytes;
use serde_json::{Value, json};

use crate::artifacts::{Difference, FileChange};
use crate::cli::artifacts::argument::{ARTIFACT, find};
use crate::cli::paired::{self, Compared, Named, Paired};
use crate::run::predictions;
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

#[derive(Args)]
#[command(
    after_help = "Example: olmo-pipe artifacts diff latest:train.checkpoints[first] latest:train.checkpoints[last]"
)]
pub(crate) struct Diff {
    #[arg(help = ARTIFACT)]
    old: String,
    #[arg(help = ARTIFACT)]
    new: String,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Diff {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let (old, new) = (find(store, &self.old)?, find(store, &self.new)?);
        let difference = Difference::between(store, old, new)?;
        let mut tasks = Vec::new();
        if let (Some(before), Some(after)) = (predictions(store, old)?, predictions(store, new)?) {
            let named = |name: &str, predictions| Named { name: name.to_owned(), stage: "", predictions };
            let both = [named(&self.old, &before), named(&self.new, &after)];
            for task in paired::common_tasks(&both) {
                // Tasks without a common instance have no differences.
                let compared = paired::compare(&both, &Paired { task, metrics: &[], seed: 0 });
                tasks.extend(compared.ok().map(|compared| (task.to_owned(), compared)));
            }
        }
        if self.json {
            let file = |change: &FileChange| {
                let side = |s: &Option<(olmo_base::Digest, u64)>| {
                    s.map(|(digest, size)| json!({"digest": digest, "size": size}))
                };
                json!({"path": change.path, "old": side(&change.old), "new": side(&change.new)})
            };
            let fields = difference.fields.as_ref().map(|fields| {
                fields.iter().map(|f| json!({"path": f.path, "old": f.old, "new": f.new})).collect::<Vec<_>>()
            });
            answer_json(&json!({
                "format": 1, "old": old, "new": new, "types": [difference.types.0, difference.types.1],
                "files": difference.files.iter().map(file).collect::<Vec<_>>(),
                "same_files": difference.same_files, "same_bytes": difference.same_bytes, "key": fields,
                "tasks": tasks.iter().map(|(_, compared)| compared.to_json()).collect::<Vec<_>>(),
            }));
        } else {
            let task =
                |(name, compared): &(String, Compared)| format!("\n{}: {}", escape_control(name), compared.text());
            answer(&format!("{}{}", text(&difference), tasks.iter().map(task).collect::<String>()));
        }
        Ok(Exit::Success)
    }
}

fn text(difference: &Difference) -> String {
    let mut text = String::new();
    let (old, new) = difference.types;
    if old != new {
        let _ = writeln!(text, "type     {old} -> {new}");
    }
    for change in &difference.files {
        let path = escape_control(&change.path);
        let _ = match (change.old, change.new) {
            (Some((_, a)), Some((_, b))) => writeln!(text, "changed  {path}  {} -> {}", bytes(a), bytes(b)),
            (Some((_, a)), None) => writeln!(text, "removed  {path}  {}", bytes(a)),
            (None, Some((_, b))) => writeln!(text, "added    {path}  {}", bytes(b)),
            (None, None) => Ok(()),
        };
    }
    let _ = writeln!(text, "same     {} files, {}", difference.same_files, bytes(difference.same_bytes));
    match &difference.fields {
        None => text.push_str("key      unknown: at least one was not made by a stage here\n"),
        Some(fields) if fields.is_empty() => text.push_str("key      the same\n"),
        Some(fields) => {
            let show = |value: &Option<Value>| value.as_ref().map_or("(default)".to_owned(), Value::to_string);
            for field in fields {
                let (path, old, new) = (escape_control(&field.path), show(&field.old), show(&field.new));
                let _ = writeln!(text, "key      {path}: {} -> {}", escape_control(&old), escape_control(&new));
            }
        }
    }
    text
}
