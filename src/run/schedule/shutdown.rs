//! [`Shutdown`]: how far a stop has come.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// How far a stop has come.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    /// Tells threads that wait for locks to give up.
    pub(super) stop: Arc<AtomicBool>,
    /// When running stages are killed.
    pub(super) kill_at: Option<Instant>,
    /// When the run ends although jobs still run.
    pub(super) give_up_at: Option<Instant>,
}

impl Shutdown {
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.kill_at.into_iter().chain(self.give_up_at).min()
    }

    pub(super) fn gives_up(&self, now: Instant) -> bool {
        self.give_up_at.is_some_and(|at| now >= at)
    }
}
