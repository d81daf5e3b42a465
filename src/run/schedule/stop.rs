//! Stops a run before its end: first by asking the stages to save their state, then by killing
//! them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::run::event::RunEvent;
use crate::run::job::Control;
use crate::run::schedule::scheduler::Scheduler;

/// How long jobs may take to end after everything was killed.
const AFTER_KILL: Duration = Duration::from_secs(15);

impl Scheduler<'_, '_> {
    /// Handles a signal: the first one asks the stages to stop, the second one kills them.
    pub(super) fn on_signal(&mut self, signal: i32) {
        if self.ending.signal.is_none() {
            self.ending.signal = Some(signal);
            self.emit(RunEvent::Stopping { signal });
            self.stop_all();
        } else {
            self.kill_all();
        }
    }

    /// Asks running stages to save their state and end within the grace period. No other stage
    /// starts.
    pub(super) fn stop_all(&mut self) {
        self.shutdown.stop.store(true, Ordering::Relaxed);
        self.shutdown.kill_at = Some(Instant::now() + self.plan.options.grace);
        self.tracker.stop();
    }

    /// Stops the run if its record cannot be written, since no stage may run unrecorded.
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

    /// Kills stages that did not end within the grace period.
    pub(super) fn on_deadline(&mut self) {
        if self.shutdown.kill_at.is_some_and(|at| Instant::now() >= at) {
            self.kill_all();
        }
    }

    /// Asks running stages to save their state and continue (SIGUSR1).
    pub(super) fn save_all(&mut self) {
        self.emit(RunEvent::Saving);
        self.control_all(Control::Save);
    }

    fn control_all(&self, control: Control) {
        self.tracker.running().for_each(|task| self.control(task, control));
    }
}
