//! [`Lines`]: prints a run's events as JSON lines on standard output (docs/json.md).

use olmo_base::units::now_ms;

use crate::run::RunEvent;
use crate::ui::answer;
use crate::ui::display::Show;

/// Version of the line format. Increased when old readers would misread new lines.
pub(super) const FORMAT: u32 = 1;

/// Prints every event; drops progress and metrics only if the reader is too slow.
pub(crate) struct Lines;

impl Show for Lines {
    fn event(&mut self, at: u64, event: &RunEvent) {
        let line = serde_json::json!({"format": FORMAT, "at": at, "event": event});
        answer(&format!("{line}\n"));
    }

    fn dropped(&mut self, count: u64) {
        let event = serde_json::json!({"kind": "dropped", "count": count});
        let line = serde_json::json!({"format": FORMAT, "at": now_ms(), "event": event});
        answer(&format!("{line}\n"));
    }
}
