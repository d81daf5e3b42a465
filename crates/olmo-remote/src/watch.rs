//! [`Watch`]: the callbacks during a fetch.

use std::time::Duration;

use crate::error::RemoteError;

/// Receives progress and retries.
pub trait Watch {
    /// `done` of `total` bytes of `what` have arrived; `total` is `None` if unknown. Called often.
    fn progress(&mut self, _what: &str, _done: u64, _total: Option<u64>) {}

    /// A request failed and will be retried after `wait`.
    fn waits(&mut self, _error: &RemoteError, _wait: Duration) {}
}

impl Watch for () {}
