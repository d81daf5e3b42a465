//! For tests that cannot run on a machine: they report that they were skipped.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::Location;

/// The environment variable with the path of the file that lists skipped tests.
pub const SKIPPED: &str = "OLMO_PIPE_SKIPPED";

/// Reports that the calling test cannot run here, and why. CI lists these reports. A test that
/// returns early without a report would count as passed.
#[track_caller]
pub fn skip(reason: &str) {
    let place = Location::caller();
    let line = format!("{}:{}: {reason}\n", place.file(), place.line());
    eprint!("skipped: {line}");
    if let Some(path) = std::env::var_os(SKIPPED)
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        // Write each line with one call, since tests run concurrently.
        let _ = file.write_all(line.as_bytes());
    }
}
