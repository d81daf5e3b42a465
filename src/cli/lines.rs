//! [`Lines`]: a run's events as lines of JSON on standard output, for programs (docs/json.md).

use super::answer;
use crate::run::{RunEvent, Watch};

/// The form of a line; raised when a reader would misread a new one.
pub const FORMAT: u32 = 1;

/// Prints every event, progress and metrics at full rate.
pub struct Lines;

impl Watch for Lines {
    fn event(&mut self, event: &RunEvent) {
        let at = crate::run::now_ms();
        let line = serde_json::json!({"format": FORMAT, "at": at, "event": event});
        answer(&format!("{line}\n"));
    }
}
