//! Writes a table as Parquet, with the worker: the engine knows no table format.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::exec::Worker;
use crate::ui::{Exit, Problem};

/// Writes `rows`, flat objects with the same keys, to the file at `path`.
///
/// # Errors
/// The worker cannot be started, or the file cannot be written.
pub(crate) fn write_parquet(path: &Path, rows: Vec<Value>) -> Result<(), Problem> {
    let worker = Worker::default_path();
    let failed = |what: String| Problem::new(Exit::Output, "runs::parquet", &what, None);
    let started = Command::new(&worker).arg("parquet").arg(path).stdin(Stdio::piped()).spawn();
    let mut child = started.map_err(|e| {
        let what = format!("cannot start {}: {e}", worker.display());
        Problem::new(Exit::Environment, "exec::worker_missing", &what, Some("build it: cargo build --release"))
    })?;
    let text = Value::Array(rows).to_string();
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(text.as_bytes()));
    let status = child.wait().map_err(|e| failed(format!("cannot wait for {}: {e}", worker.display())))?;
    match (written, status.success()) {
        (Ok(()), true) => Ok(()),
        (Err(e), true) => Err(failed(format!("cannot pass the rows to {}: {e}", worker.display()))),
        // The worker has said why.
        (_, false) => Err(failed(format!("{} was not written", path.display()))),
    }
}
