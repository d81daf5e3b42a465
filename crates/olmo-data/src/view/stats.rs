//! Statistics of an artifact: size, lengths, and how much of it is trained.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::DataError;
use crate::formats::dataset::{self, Kind};
use crate::view::histogram::Lengths;
use crate::view::kind::{ArtifactKind, kind};
use crate::view::sequences::Sequences;

/// Length of the longest bar in characters.
const BARS: usize = 40;

/// Statistics of the artifact in a folder.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Names and values, in display order.
    pub numbers: Vec<(&'static str, Value)>,
    /// The measured lengths, by name.
    pub lengths: Vec<(&'static str, Lengths)>,
    /// Records by their `dataset`, messages by role.
    pub parts: Vec<(&'static str, BTreeMap<String, u64>)>,
}

/// Computes the statistics of the artifact in folder `dir`.
pub fn stats(dir: &Path) -> Result<Stats, DataError> {
    match kind(dir)? {
        ArtifactKind::Dataset => of_dataset(dir),
        ArtifactKind::Tokens | ArtifactKind::Memmap => of_sequences(Sequences::open(dir)?),
    }
}

fn of_dataset(dir: &Path) -> Result<Stats, DataError> {
    let manifest = dataset::manifest(dir)?;
    let (mut chars, mut messages) = (Lengths::default(), Lengths::default());
    let (mut by_dataset, mut by_role) = (BTreeMap::new(), BTreeMap::new());
    let mut stats = Stats::default();
    stats.numbers.push(("records", manifest.records.into()));
    stats.numbers.push(("bad lines left out", manifest.skipped.into()));
    if manifest.kind == Kind::Text {
        for batch in dataset::text_batches(dir)? {
            batch?.iter().for_each(|text| chars.add(text.chars().count() as u64));
        }
        stats.lengths.push(("characters of a document", chars));
        return Ok(stats);
    }
    for batch in dataset::message_batches(dir)? {
        for conversation in batch? {
            *by_dataset.entry(conversation.dataset).or_default() += 1;
            messages.add(conversation.messages.len() as u64);
            let mut all = 0;
            for message in conversation.messages {
                *by_role.entry(message.role.to_string()).or_default() += 1;
                all += message.text().chars().count() as u64;
            }
            chars.add(all);
        }
    }
    stats.lengths.push(("messages of a conversation", messages));
    stats.lengths.push(("characters of a conversation", chars));
    stats.parts.push(("conversations by dataset", by_dataset));
    stats.parts.push(("messages by role", by_role));
    Ok(stats)
}

fn of_sequences(sequences: Sequences) -> Result<Stats, DataError> {
    let rows = matches!(sequences, Sequences::Memmap(_));
    let count = sequences.len();
    let (mut tokens, mut labels, mut padding, mut documents) = (0u64, 0u64, 0u64, 0u64);
    let (mut lengths, mut trained, mut per_row) = (Lengths::default(), Lengths::default(), Lengths::default());
    sequences.each(|_, sequence| {
        let of_this = sequence.label_mask.iter().skip(1).filter(|label| **label).count() as u64;
        tokens += sequence.input_ids.len() as u64;
        labels += of_this;
        padding += sequence.padding as u64;
        documents += sequence.starts.len() as u64;
        per_row.add(sequence.starts.len() as u64);
        trained.add(of_this);
        if rows {
            // A document that continues in the next row is measured in parts.
            let ends = sequence.starts.iter().skip(1).copied().chain([sequence.input_ids.len() - sequence.padding]);
            sequence.starts.iter().zip(ends).for_each(|(start, end)| lengths.add(end.saturating_sub(*start) as u64));
        } else {
            lengths.add(sequence.input_ids.len() as u64);
        }
        true
    })?;
    let share = |part: u64| json!((1e4 * part as f64 / tokens.max(1) as f64).round() / 1e4);
    let mut stats = Stats::default();
    stats.numbers.push((if rows { "rows" } else { "documents" }, count.into()));
    if rows {
        stats.numbers.push(("documents", documents.into()));
    }
    stats.numbers.push(("tokens", tokens.into()));
    stats.numbers.push(("trained tokens", labels.into()));
    stats.numbers.push(("label density", share(labels)));
    if rows {
        stats.numbers.push(("padding", padding.into()));
        stats.numbers.push(("utilisation", share(tokens - padding)));
    }
    stats.lengths.push(("tokens of a document", lengths));
    stats.lengths.push((if rows { "trained tokens of a row" } else { "trained tokens of a document" }, trained));
    if rows {
        stats.lengths.push(("documents that begin in a row", per_row));
    }
    Ok(stats)
}

impl Stats {
    /// Formats the statistics for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.numbers {
            let _ = writeln!(text, "{name:<20} {value}");
        }
        for (name, parts) in &self.parts {
            let _ = writeln!(text, "\n{name}");
            for (part, count) in parts {
                let part = if part.is_empty() { "(none)".into() } else { super::plain(part).replace('\n', " ") };
                let _ = writeln!(text, "  {part:<24} {count}");
            }
        }
        for (name, lengths) in &self.lengths {
            let _ = write!(text, "\n{name}: {}\n{}", lengths.summary(), lengths.bars(BARS));
        }
        text
    }

    /// The statistics as JSON.
    pub fn json(&self) -> Value {
        let lengths = |lengths: &Lengths| {
            let percentiles: BTreeMap<String, u64> =
                [0, 5, 25, 50, 75, 95, 99, 100].iter().map(|p| (format!("p{p}"), lengths.percentile(*p))).collect();
            json!({"mean": lengths.mean(), "percentiles": percentiles, "buckets": lengths.buckets()})
        };
        json!({
            "format": 1,
            "numbers": self.numbers.iter().cloned().collect::<BTreeMap<_, _>>(),
            "parts": self.parts.iter().cloned().collect::<BTreeMap<_, _>>(),
            "lengths": self.lengths.iter().map(|(name, l)| (*name, lengths(l))).collect::<BTreeMap<_, _>>(),
        })
    }
}
