//! [`Watch`]: who is told while something is fetched.

use std::time::Duration;

use crate::error::RemoteError;

/// Sees what goes on.
pub trait Watch {
    /// Of `what`, `done` bytes are there, of `total` if that is known. Called often.
    fn progress(&mut self, _what: &str, _done: u64, _total: Option<u64>) {}

    /// A request failed for now, and is sent again in `wait`.
    fn waits(&mut self, _error: &RemoteError, _wait: Duration) {}
}

impl Watch for () {}
