//! [`Shutdown`]: the deadlines of a run that is stopping.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// The deadlines of a run that is stopping. All are unset until it stops.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    /// Tells threads that wait for locks to give up.
    pub(super) stop: Arc<AtomicBool>,
    /// When to kill the running stages.
    pub(super) kill_at: Option<Instant>,
    /// When to end the run even if jobs still run.
    pub(super) give_up_at: Option<Instant>,
}

impl Shutdown {
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.kill_at.into_iter().chain(self.give_up_at).min()
    }

    pub(super) fn should_give_up(&self, now: Instant) -> bool {
        self.give_up_at.is_some_and(|at| now >= at)
    }
}
