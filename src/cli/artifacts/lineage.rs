//! `olmo-pipe artifacts lineage`: traces artifacts through the stages.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args;
use olmo_base::ArtifactId;
use olmo_base::units::bytes;
use serde_json::json;

use crate::artifacts::{self, Direction, Node, Step};
use crate::cli::artifacts::argument::{ARTIFACT, find};
use crate::store::Store;
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

/// Maximum depth of indentation.
const INDENTS: usize = 24;

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts lineage latest:model")]
pub(crate) struct Lineage {
    #[arg(help = ARTIFACT)]
    artifact: String,
    /// Show what was made from the artifact, not what it was made from.
    #[arg(long)]
    down: bool,
    /// Follow at most N stages.
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Lineage {
    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let artifact = find(store, &self.artifact)?;
        let direction = if self.down { Direction::Down } else { Direction::Up };
        let lineage = artifacts::Lineage::trace(store, artifact, direction, self.depth)?;
        if self.json {
            answer_json(&json!({"format": 1, "artifact": lineage.artifact, "nodes": lineage.nodes}));
        } else {
            answer(&text(&lineage, direction));
        }
        Ok(Exit::Success)
    }
}

/// One line per artifact, indented under the artifact it leads to; each is expanded once.
fn text(lineage: &artifacts::Lineage, direction: Direction) -> String {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    // An explicit stack, because a lineage may be deep.
    let mut open: Vec<(usize, String, ArtifactId)> = vec![(0, String::new(), lineage.artifact)];
    while let Some((depth, role, digest)) = open.pop() {
        let Some(node) = lineage.nodes.get(&digest) else { continue };
        let indent = "  ".repeat(depth.min(INDENTS));
        let _ = write!(text, "{indent}{role}{}  {}", digest.short(), describe(node));
        if !seen.insert(digest) {
            text.push_str("  (see above)\n");
            continue;
        }
        text.push('\n');
        let mut below = Vec::new();
        match direction {
            Direction::Up => {
                if let Some((whole, folder)) = &node.part_of {
                    let role = format!("{}/ of ", escape_control(folder));
                    below.push((depth + 1, role, *whole));
                }
                // Several keys may have produced the same bytes: expand the first, count the others.
                if let Some(step) = node.made_by.first() {
                    let role = |port: &str, label: &Option<String>| format!("{}: ", place(port, label));
                    below.extend(step.inputs.iter().map(|i| (depth + 1, role(&i.port, &i.label), i.artifact)));
                }
            }
            Direction::Down => {
                for step in &node.read_by {
                    let role = |port: &str, label: &Option<String>| format!("{} {}: ", step.stage, place(port, label));
                    below.extend(step.outputs.iter().map(|o| (depth + 1, role(&o.port, &o.label), o.artifact)));
                }
                let parts = lineage.nodes.iter().filter(|(_, n)| n.part_of.as_ref().is_some_and(|(w, _)| *w == digest));
                for (part, inner) in parts {
                    let folder = inner.part_of.as_ref().map(|(_, folder)| folder.clone()).unwrap_or_default();
                    below.push((depth + 1, format!("its {}/: ", escape_control(&folder)), *part));
                }
            }
        }
        open.extend(below.into_iter().rev());
    }
    text
}

fn place(port: &str, label: &Option<String>) -> String {
    let label = label.as_ref().map(|l| format!("[{}]", escape_control(l))).unwrap_or_default();
    format!("{}{label}", escape_control(port))
}

fn describe(node: &Node) -> String {
    let Some(artifact_type) = node.artifact_type else { return "no longer in the store".into() };
    let made = |step: &Step| {
        let more = node.made_by.len() - 1;
        let also = if more > 0 { format!(" and {more} more") } else { String::new() };
        let stage = escape_control(&step.stage);
        format!("  {} of {stage} (version {}){also}", place(&step.port, &step.label), step.version)
    };
    let from = match node.made_by.first() {
        Some(step) => made(step),
        None if !node.sources.is_empty() => {
            let more = node.sources.len() - 1;
            let also = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("  from {}{also}", escape_control(&node.sources[0]))
        }
        None => String::new(),
    };
    let tags = if node.tags.is_empty() { String::new() } else { format!("  [{}]", node.tags.join(", ")) };
    format!("{artifact_type}, {}{from}{tags}", bytes(node.bytes))
}
