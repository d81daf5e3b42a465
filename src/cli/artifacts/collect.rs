//! `olmo-pipe artifacts gc`: garbage collection.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use olmo_base::units::{bytes, utc};
use serde_json::{Value, json};

use crate::artifacts::{Collection, Policy};
use crate::store::{Store, Swept};
use crate::ui::{Exit, Problem, answer, answer_json, escape_control};

#[derive(Args)]
#[command(after_help = "Example: olmo-pipe artifacts gc --max-size 200GiB --max-age 30d --dry-run")]
pub(crate) struct Gc {
    /// Remove results, least recently used first, until objects fit in this: 200GiB, 500MB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "What is removed")]
    max_size: Option<u64>,
    /// Remove results, and unfinished work no run needs, not used for this long: 30d, 12h.
    #[arg(long, value_name = "AGE", value_parser = parse_age, help_heading = "What is removed")]
    max_age: Option<Duration>,
    /// Keep the last K checkpoints of each run.
    #[arg(long, value_name = "K", default_value_t = 1, help_heading = "What is kept")]
    keep_checkpoints: usize,
    /// Keep the results of the last N successful runs of each experiment.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "What is kept")]
    keep_results: usize,
    /// Keep everything made or used within this time.
    #[arg(long, value_name = "AGE", default_value = "1h", value_parser = parse_age, help_heading = "What is kept")]
    grace: Duration,
    /// Remove nothing; show what would be removed and what keeps the rest.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    json: bool,
}

impl Gc {
    /// Whether the command changes nothing.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    pub(crate) fn run(self, store: &Store) -> Result<Exit, Problem> {
        let policy = Policy {
            max_bytes: self.max_size,
            max_age: self.max_age,
            keep_checkpoints: self.keep_checkpoints,
            keep_results: self.keep_results,
            grace: self.grace,
            ..Policy::default()
        };
        let collection = Collection::plan(store, &policy)?;
        let swept = if self.dry_run { None } else { Some(collection.execute(store)?) };
        if self.json {
            answer_json(&as_json(&collection, swept));
        } else {
            answer(&text(&collection, swept));
        }
        Ok(Exit::Success)
    }
}

fn as_json(collection: &Collection, swept: Option<Swept>) -> Value {
    let kept = collection
        .kept
        .iter()
        .map(|(root, share)| json!({"root": root, "artifacts": share.artifacts, "bytes": share.bytes}));
    let actions = collection
        .actions
        .iter()
        .map(|(key, stage, used)| json!({"key": key, "stage": stage, "used": used / 1_000_000_000}));
    json!({
        "format": 1, "dry_run": swept.is_none(), "kept": kept.collect::<Vec<_>>(),
        "goes": {
            "actions": actions.collect::<Vec<_>>(), "artifacts": collection.artifacts,
            "objects": collection.objects.0, "bytes": collection.objects.1,
            "work": collection.work.iter().map(|(path, size)| json!({"path": path, "bytes": size})).collect::<Vec<_>>(),
            "remains": collection.remains,
        },
        "over_budget": collection.over_budget,
        "notes": collection.notes,
        "removed": swept.map(|s| json!({"actions": s.actions, "artifacts": s.artifacts, "objects": s.objects, "bytes": s.bytes})),
    })
}

fn text(collection: &Collection, swept: Option<Swept>) -> String {
    let mut text = format!("{:<26}  artifacts  {:>10}\n", "kept by", "bytes");
    for (root, share) in &collection.kept {
        let _ = writeln!(text, "{:<26}  {:>9}  {:>10}", root.words(), share.artifacts, bytes(share.bytes));
    }
    for (key, stage, used) in &collection.actions {
        let at = utc(u64::try_from(*used).unwrap_or(0) / 1_000_000_000);
        let _ = writeln!(text, "remove: {} of {}, last used {at}", key.short(), escape_control(stage));
    }
    for (folder, size) in &collection.work {
        let name = folder.file_name().map(|n| n.to_string_lossy().chars().take(12).collect::<String>());
        let _ = writeln!(text, "remove: unfinished work {}, {}", name.unwrap_or_default(), bytes(*size));
    }
    if collection.remains > 0 {
        let _ = writeln!(text, "remove: old quarantined and temporary files, {}", bytes(collection.remains));
    }
    for note in &collection.notes {
        let _ = writeln!(text, "note: {}", escape_control(note));
    }
    if let Some(more) = collection.over_budget {
        let _ = writeln!(text, "the artifacts that must stay exceed the limit by {}", bytes(more));
    }
    let _ = match swept {
        None => {
            let (count, size) = collection.objects;
            let (actions, artifacts) = (collection.actions.len(), collection.artifacts);
            writeln!(
                text,
                "would remove {actions} finished stages, {artifacts} artifacts, {count} objects: {}",
                bytes(size)
            )
        }
        Some(s) => writeln!(
            text,
            "removed {} finished stages, {} artifacts, {} objects: {}",
            s.actions,
            s.artifacts,
            s.objects,
            bytes(s.bytes)
        ),
    };
    text
}

/// `200GiB`, `1.5 GB`, `1048576`.
fn parse_size(text: &str) -> Result<u64, String> {
    let units: [(&str, f64); 9] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("B", 1.0),
    ];
    let found = units.iter().find_map(|(unit, times)| Some((text.strip_suffix(unit)?, *times)));
    number(found.unwrap_or((text, 1.0)))
        .map(|n| n as u64)
        .ok_or_else(|| "a size is a number with a unit: 200GiB, 500MB".into())
}

/// `30d`, `12h`, `90min`, `45s`.
fn parse_age(text: &str) -> Result<Duration, String> {
    let units: [(&str, f64); 6] =
        [("w", 604_800.0), ("d", 86_400.0), ("h", 3600.0), ("min", 60.0), ("m", 60.0), ("s", 1.0)];
    let found = units.iter().find_map(|(unit, times)| Some((text.strip_suffix(unit)?, *times)));
    let seconds = match found {
        Some(found) => number(found),
        None => text.parse().ok().filter(|n: &f64| *n == 0.0),
    };
    let span = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    span.ok_or_else(|| "an age is a number with a unit: 30d, 12h, 90min, 45s".into())
}

fn number((text, times): (&str, f64)) -> Option<f64> {
    let value: f64 = text.trim().parse().ok()?;
    let value = value * times;
    (value.is_finite() && (0.0..1e19).contains(&value)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_read_with_their_units() {
        let size = |text| parse_size(text).ok();
        assert_eq!(
            ["200GiB", "1.5 kB", "7B", "42", "0"].map(size),
            [Some(200 << 30), Some(1500), Some(7), Some(42), Some(0)]
        );
        assert_eq!(["", "GiB", "-1MB", "inf", "1e30", "5 furlongs"].map(size), [None; 6]);
        let age = |text| parse_age(text).ok().map(|d| d.as_secs());
        assert_eq!(
            ["30d", "12h", "90min", "2m", "45s", "1w", "0"].map(age),
            [Some(2_592_000), Some(43_200), Some(5400), Some(120), Some(45), Some(604_800), Some(0)]
        );
        assert_eq!(["", "d", "30", "-1h", "nan h"].map(age), [None; 5]);
    }
}
