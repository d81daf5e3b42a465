//! For tests: those that cannot run on a machine say so.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::Location;

/// Names the file that collects the tests that could not run.
pub const SKIPPED: &str = "OLMO_PIPE_SKIPPED";

/// Reports that the calling test cannot run here, and why. CI lists what is reported: a test that
/// returns early without this would count as passed.
#[track_caller]
pub fn skip(reason: &str) {
    let place = Location::caller();
    let line = format!("{}:{}: {reason}\n", place.file(), place.line());
    eprint!("skipped: {line}");
    if let Some(path) = std::env::var_os(SKIPPED)
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        // One write a line: tests run at the same time.
        let _ = file.write_all(line.as_bytes());
    }
}
