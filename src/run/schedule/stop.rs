//! Stopping a run before its end: in order first, and then by force.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::run::event::RunEvent;
use crate::run::job::Control;
use crate::run::schedule::scheduler::Scheduler;

/// How long jobs may take to end once everything was killed.
const AFTER_KILL: Duration = Duration::from_secs(15);

impl Scheduler<'_, '_> {
    /// The first signal lets everything stop in order, the second kills.
    pub(super) fn on_signal(&mut self, signal: i32) {
        if self.ending.signal.is_none() {
            self.ending.signal = Some(signal);
            self.note(RunEvent::Stopping { signal });
            self.stop_all();
        } else {
            self.kill_all();
        }
    }

    /// Running stages save their state and end within the grace time; nothing new begins.
    pub(super) fn stop_all(&mut self) {
        self.shutdown.stop.store(true, Ordering::Relaxed);
        self.shutdown.kill_at = Some(Instant::now() + self.plan.options.grace);
        self.tracker.stop();
    }

    /// Stops the run if its record cannot be written: nothing new begins without one.
    pub(super) fn stop_if_broken(&mut self) {
        if self.journal.has_error() && !self.tracker.is_stopping() {
            self.stop_all();
        }
    }

    fn kill_all(&mut self) {
        self.shutdown.kill_at = None;
        self.shutdown.give_up_at = Some(Instant::now() + AFTER_KILL);
        self.control_all(Control::Kill);
    }

    /// Kills stages that did not end within the grace time.
    pub(super) fn on_deadline(&mut self) {
        if self.shutdown.kill_at.is_some_and(|at| Instant::now() >= at) {
            self.kill_all();
        }
    }

    /// Running stages save their state and continue (SIGUSR1).
    pub(super) fn save_all(&mut self) {
        self.note(RunEvent::Saving);
        self.control_all(Control::Save);
    }

    fn control_all(&self, control: Control) {
        self.tracker.running().for_each(|task| self.control(task, control));
    }
}
