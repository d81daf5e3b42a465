//! Weights for scheduling: the length of the longest path from each stage to the end of the run.
//! Stages on long paths start first. A weight affects only the order, never the results.
//!
//! The length of a stage is its last wall time ([`past_wall_times`]), or the mean of the other
//! stages if it never ran. If no stage ever ran, all have the same length, so the depth of the path
//! decides.

use std::collections::{BTreeMap, HashMap};

use crate::run::event::RunEvent;
use crate::run::plan::board::Board;
use crate::run::record;
use crate::store::Store;

/// Number of runs that are searched for wall times.
const RUNS_SEARCHED: usize = 16;

/// Wall time in seconds of each stage of `experiment`, in the newest run in which it ran. For a
/// `for_each` stage, that of its slowest item.
pub(super) fn past_wall_times(store: &Store, experiment: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    // Unreadable records are skipped, since wall times only affect the order.
    for id in record::all(store).unwrap_or_default().iter().rev().take(RUNS_SEARCHED) {
        let events = record::read_events(&store.runs_dir().join(id.as_str())).map(|events| events.records);
        let events = events.unwrap_or_default();
        let this = events.iter().any(|r| matches!(&r.event, RunEvent::Opened { experiment: e, .. } if e == experiment));
        if !this {
            continue;
        }
        let mut here: BTreeMap<String, f64> = BTreeMap::new();
        for record in events {
            if let RunEvent::Finished { place, used, shared: false, .. } = record.event {
                let longest = here.entry(place.stage).or_insert(0.0);
                *longest = longest.max(used.wall_s);
            }
        }
        for (name, seconds) in here {
            found.entry(name).or_insert(seconds);
        }
    }
    found
}

/// For each stage of `board`, the length of the longest path that starts with it.
pub(super) fn weights(board: &Board<'_>, past: &BTreeMap<String, f64>) -> Vec<f64> {
    let known: Vec<f64> = board.stages.iter().filter_map(|stage| past.get(&stage.name).copied()).collect();
    let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
    let places: HashMap<&str, usize> = board.stages.iter().enumerate().map(|(i, s)| (s.name.as_str(), i)).collect();
    let mut after = vec![0.0f64; board.stages.len()];
    let mut weights = vec![0.0f64; board.stages.len()];
    // In reverse dependency order, so that everything after a stage is already known.
    for (index, stage) in board.stages.iter().enumerate().rev() {
        weights[index] = after[index] + past.get(&stage.name).copied().unwrap_or(mean);
        for before in stage.spec.reads().filter_map(|port| places.get(port.stage.as_str())) {
            after[*before] = after[*before].max(weights[index]);
        }
    }
    weights
}
