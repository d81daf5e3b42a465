//! [`Lines`]: a run's events as lines of JSON on standard output, for programs (docs/json.md).

use super::answer;
use super::display::Show;
use crate::run::RunEvent;

/// The form of a line; raised when a reader would misread a new one.
pub const FORMAT: u32 = 1;

/// Prints every event, progress and metrics at full rate if they are read as fast.
pub struct Lines;

impl Show for Lines {
    fn event(&mut self, at: u64, event: &RunEvent) {
        let line = serde_json::json!({"format": FORMAT, "at": at, "event": event});
        answer(&format!("{line}\n"));
    }

    fn dropped(&mut self, count: u64) {
        let event = serde_json::json!({"kind": "dropped", "count": count});
        let line = serde_json::json!({"format": FORMAT, "at": crate::run::now_ms(), "event": event});
        answer(&format!("{line}\n"));
    }
}
