//! How the scheduler ends a run before its time: in order first, and then by force.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::event::RunEvent;
use super::job::Control;
use super::scheduler::{Phase, Scheduler};

/// How long jobs may take to end once everything was killed.
const AFTER_KILL: Duration = Duration::from_secs(15);

impl Scheduler<'_, '_> {
    /// The first signal lets everything stop in order, the second kills.
    pub(super) fn signal(&mut self, signal: i32) {
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
        self.stop.store(true, Ordering::Relaxed);
        self.kill_at = Some(Instant::now() + self.options.grace);
        self.tell_running(Control::Terminate);
        for phase in &mut self.phases {
            if matches!(phase, Phase::Missing(_) | Phase::Queued(..) | Phase::Resting(_)) {
                *phase = Phase::Idle;
            }
        }
    }

    fn kill_all(&mut self) {
        self.kill_at = None;
        self.give_up_at = Some(Instant::now() + AFTER_KILL);
        self.tell_running(Control::Kill);
    }

    /// Kills what did not end within the grace time.
    pub(super) fn overdue(&mut self) {
        if self.kill_at.is_some_and(|at| Instant::now() >= at) {
            self.kill_all();
        }
    }

    /// Passes `control` on to every running job.
    pub(super) fn tell_running(&self, control: Control) {
        for phase in &self.phases {
            if let Phase::Running(_, running) = phase {
                // A job that has ended does not listen any more.
                let _ = running.control.send(control);
            }
        }
    }
}
