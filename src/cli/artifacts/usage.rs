//! `olmo-pipe artifacts du`: disk usage of the store.

use std::fmt::Write as _;

use clap::Args;
use olmo_base::units::bytes;
use serde_json::json;

use crate::artifacts::Usage;
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts du --by-type")]
pub(crate) struct Du {
    /// Group by type instead of by stage.
    #[arg(long)]
    by_type: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Du {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let usage = Usage::measure(store, self.by_type)?;
        if self.json {
            answer_json(&json!({"format": 1, "usage": usage}));
        } else {
            answer(&text(&usage, self.by_type));
        }
        Ok(Exit::Success)
    }
}

fn text(usage: &Usage, by_type: bool) -> String {
    let what = if by_type { "type" } else { "made by" };
    let mut text = format!("{what:<20}  artifacts  {:>10}  {:>10}\n", "bytes", "own bytes");
    for group in &usage.groups {
        let name = escape_control(&group.name);
        let (all, own) = (bytes(group.bytes), bytes(group.own));
        let _ = writeln!(text, "{name:<20}  {:>9}  {all:>10}  {own:>10}", group.artifacts);
    }
    let (count, sum) = usage.objects;
    let saved = usage.unshared.saturating_sub(sum);
    let _ = writeln!(text, "objects: {} in {count} files; equal files shared: {} saved", bytes(sum), bytes(saved));
    if usage.referred > 0 {
        let _ = writeln!(text, "local sources, referenced but not copied: {}", bytes(usage.referred));
    }
    for (name, size) in usage.folders.iter().filter(|(_, size)| **size > 0) {
        let _ = writeln!(text, "{name}: {}", bytes(*size));
    }
    text
}
