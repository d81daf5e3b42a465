//! [`Phase`]: the state of one task, and every transition between states.
//!
//! [`Phase::on`] is pure: it reads no clock, no file, and no other task. Everything that happens to
//! a task is an [`Input`]; everything that has to happen because of it is an [`Effect`].

use std::time::{Duration, Instant};

use olmo_stage::Failure;

use crate::run::cache::Outputs;
use crate::run::event::Used;
use crate::run::plan::board::DamagedInput;
use crate::spec::FailureClass;

/// The state of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its inputs are not known, or its key has not been looked up yet.
    #[default]
    Idle,
    /// It missed the cache and waits to be scheduled. It holds no open file, since thousands of
    /// tasks may be queued.
    Queued,
    /// Another process holds the lock of its key; a thread waits for it.
    Locking,
    /// It holds the lock of its key and waits for resources.
    Locked,
    Running,
    /// It failed and will be retried at this time.
    Backoff(Instant),
    Done,
    Failed,
    /// A stage that it needs failed.
    Skipped,
    /// Interrupted by a signal or by `--fail-fast`.
    Stopped,
}

/// Something that happened to a task.
#[derive(Debug)]
pub(super) enum Input {
    /// Its result is cached. `cut_off`: a dependency ran in this run and produced the same bytes as
    /// before.
    Hit {
        outputs: Outputs,
        cut_off: bool,
    },
    /// Its result is not cached.
    Miss,
    /// A stage that it needs failed.
    Blocked {
        because: String,
    },
    /// An input is damaged. It can run again after a repair unless `give_up`.
    Damaged {
        damage: Box<DamagedInput>,
        give_up: bool,
    },
    /// The engine itself failed on this task.
    EngineFailed(Failure),
    /// Its inputs are no longer those of the lookup, because one of them has to be remade.
    Outdated,
    LockTaken,
    /// Another process holds the lock of its key.
    LockBusy,
    /// The run is stopping, so the thread gave up waiting for the lock.
    LockGivenUp,
    /// Another process made the result.
    Shared(Outputs),
    /// It got its resources.
    Admitted,
    Succeeded {
        outputs: Outputs,
        used: Used,
    },
    /// Its attempt failed. `retry` says when to retry it, if at all.
    AttemptFailed {
        failure: Failure,
        class: FailureClass,
        log: Vec<String>,
        retry: Option<Retry>,
    },
    /// Its process stopped because the run is stopping.
    Interrupted,
    /// The pause after a failure is over.
    PauseOver,
    /// Its item left the list of a `for_each` stage. `closed`: no item can come back.
    Unlisted {
        closed: bool,
    },
    /// The run is stopping.
    Stop,
    /// Its result is needed but turned out to be damaged.
    Reopen,
}

/// When a failed task is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    pub at: Instant,
    pub pause: Duration,
    /// Number of retries, including this one.
    pub number: u32,
    pub max: u32,
}

/// Facts about the run and the task that a transition depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    /// Whether the run is stopping, so that no task may start.
    pub stopping: bool,
    /// Whether its item is in the list. Always true without `for_each`.
    pub listed: bool,
}

/// Something that has to happen because of a transition.
#[derive(Debug)]
pub(super) enum Effect {
    /// Start a thread that waits for the lock of the key.
    WaitForLock,
    /// Start a job.
    Launch,
    /// Ask the job to let the stage save its state and stop.
    Terminate,
    /// Kill the job's processes.
    Kill,
    /// The outputs are in the store.
    Publish {
        outputs: Outputs,
        origin: Origin,
    },
    Fail {
        failure: Failure,
        log: Vec<String>,
    },
    Retry {
        failure: Failure,
        class: FailureClass,
        log: Vec<String>,
        retry: Retry,
    },
    Skip {
        because: String,
    },
    Interrupt,
    /// The maker of this input has to run again.
    Repair(Box<DamagedInput>),
}

/// Where outputs came from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Origin {
    Cache {
        cut_off: bool,
    },
    /// Another process made them during this run.
    OtherProcess,
    Ran(Used),
}

impl Phase {
    /// Returns the next phase after `input`, and the effects. An input that has no meaning in this
    /// phase is ignored.
    pub(super) fn on(self, input: Input, context: Context) -> (Self, Vec<Effect>) {
        let publish = |outputs, origin| (Self::Done, vec![Effect::Publish { outputs, origin }]);
        match (self, input) {
            (Self::Idle, Input::Hit { outputs, cut_off }) => publish(outputs, Origin::Cache { cut_off }),
            (Self::Idle, Input::Miss) if !context.stopping => (Self::Queued, vec![]),
            (Self::Idle, Input::Blocked { because }) => (Self::Skipped, vec![Effect::Skip { because }]),

            (Self::Queued, Input::Outdated) => (Self::Idle, vec![]),
            (Self::Queued, Input::LockBusy) => (Self::Locking, vec![Effect::WaitForLock]),
            (Self::Queued, Input::LockTaken) => (Self::Locked, vec![]),
            // The run stopped or the item left its list while the thread waited, so release the
            // lock.
            (Self::Locking, Input::LockTaken) if context.stopping || !context.listed => (Self::Idle, vec![]),
            (Self::Locking, Input::LockTaken) => (Self::Locked, vec![]),
            (Self::Locking, Input::LockGivenUp) => (Self::Idle, vec![]),
            (Self::Queued | Self::Locking, Input::Shared(outputs)) => publish(outputs, Origin::OtherProcess),

            (Self::Locked, Input::Admitted) => (Self::Running, vec![Effect::Launch]),
            (Self::Running, Input::Succeeded { outputs, used }) => publish(outputs, Origin::Ran(used)),
            // Its item left the list, so no stage needs the result.
            (
                Self::Running,
                Input::AttemptFailed { .. } | Input::Interrupted | Input::Damaged { .. } | Input::EngineFailed(_),
            ) if !context.listed => (Self::Idle, vec![]),
            (Self::Running, Input::AttemptFailed { failure, class, log, retry: Some(retry) }) if !context.stopping => {
                (Self::Backoff(retry.at), vec![Effect::Retry { failure, class, log, retry }])
            }
            (Self::Running, Input::AttemptFailed { failure, log, .. }) => {
                (Self::Failed, vec![Effect::Fail { failure, log }])
            }
            (Self::Running, Input::Interrupted) => (Self::Stopped, vec![Effect::Interrupt]),

            (Self::Idle | Self::Running, Input::Damaged { damage, give_up: false }) => {
                (Self::Idle, vec![Effect::Repair(damage)])
            }
            (Self::Idle | Self::Running, Input::Damaged { damage, give_up: true }) => {
                let failure = Failure::from(&damage.error);
                (Self::Failed, vec![Effect::Fail { failure, log: Vec::new() }])
            }
            (
                Self::Idle | Self::Queued | Self::Locking | Self::Locked | Self::Running,
                Input::EngineFailed(failure),
            ) => (Self::Failed, vec![Effect::Fail { failure, log: Vec::new() }]),

            (Self::Backoff(_), Input::PauseOver) => (Self::Idle, vec![]),
            (Self::Queued | Self::Locked | Self::Backoff(_), Input::Unlisted { .. } | Input::Stop) => {
                (Self::Idle, vec![])
            }
            // The item often comes back, so the task keeps running until the list is closed.
            (Self::Running, Input::Unlisted { closed: true }) => (Self::Running, vec![Effect::Kill]),
            (Self::Running, Input::Stop) => (Self::Running, vec![Effect::Terminate]),
            (Self::Done, Input::Reopen) => (Self::Idle, vec![]),
            (phase, _) => (phase, vec![]),
        }
    }

    /// Whether the task waits to be scheduled.
    pub(super) fn is_queued(self) -> bool {
        matches!(self, Self::Queued | Self::Locked)
    }

    /// Whether the task may hold a lock, resources, or a job.
    pub(super) fn is_in_flight(self) -> bool {
        matches!(self, Self::Queued | Self::Locking | Self::Locked | Self::Running)
    }

    /// Whether the task is finished for this run, unless its result turns out to be damaged.
    pub(super) fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Context = Context { stopping: false, listed: true };
    const STOPPING: Context = Context { stopping: true, listed: true };
    const UNLISTED: Context = Context { stopping: false, listed: false };

    fn failure() -> Failure {
        Failure { code: "a::b".into(), message: "m".into(), hint: None }
    }

    fn attempt_failed(retry: bool) -> Input {
        let retry = retry.then(|| Retry { at: Instant::now(), pause: Duration::from_secs(1), number: 1, max: 2 });
        Input::AttemptFailed { failure: failure(), class: FailureClass::Error, log: Vec::new(), retry }
    }

    fn succeeded() -> Input {
        Input::Succeeded { outputs: Outputs::new(), used: Used::default() }
    }

    fn next(phase: Phase, input: Input, context: Context) -> Phase {
        phase.on(input, context).0
    }

    #[test]
    fn a_miss_is_queued_locked_admitted_and_done() {
        let mut phase = Phase::Idle;
        for (input, expected) in [
            (Input::Miss, Phase::Queued),
            (Input::LockTaken, Phase::Locked),
            (Input::Admitted, Phase::Running),
            (succeeded(), Phase::Done),
        ] {
            phase = next(phase, input, RUNNING);
            assert_eq!(phase, expected);
        }
        assert!(phase.is_settled() && !phase.is_in_flight());
    }

    #[test]
    fn a_lock_that_arrives_too_late_is_released() {
        assert_eq!(next(Phase::Locking, Input::LockTaken, RUNNING), Phase::Locked);
        assert_eq!(next(Phase::Locking, Input::LockTaken, STOPPING), Phase::Idle);
        assert_eq!(next(Phase::Locking, Input::LockTaken, UNLISTED), Phase::Idle);
        assert_eq!(next(Phase::Locking, Input::Shared(Outputs::new()), STOPPING), Phase::Done, "the work is done");
    }

    #[test]
    fn no_task_is_retried_while_the_run_stops() {
        assert!(matches!(next(Phase::Running, attempt_failed(true), RUNNING), Phase::Backoff(_)));
        assert_eq!(next(Phase::Running, attempt_failed(true), STOPPING), Phase::Failed);
        assert_eq!(next(Phase::Running, attempt_failed(false), RUNNING), Phase::Failed);
    }

    #[test]
    fn a_task_whose_item_left_the_list_never_fails_and_keeps_a_finished_result() {
        for input in [attempt_failed(true), attempt_failed(false), Input::Interrupted] {
            let (phase, effects) = Phase::Running.on(input, UNLISTED);
            assert!(phase == Phase::Idle && effects.is_empty());
        }
        assert_eq!(next(Phase::Running, succeeded(), UNLISTED), Phase::Done);
        let (phase, effects) = Phase::Running.on(Input::Unlisted { closed: false }, UNLISTED);
        assert!(phase == Phase::Running && effects.is_empty(), "the item may come back");
        let (_, effects) = Phase::Running.on(Input::Unlisted { closed: true }, UNLISTED);
        assert!(matches!(effects[..], [Effect::Kill]));
    }

    #[test]
    fn settled_tasks_ignore_everything_but_a_damaged_result() {
        for phase in [Phase::Done, Phase::Failed, Phase::Skipped, Phase::Stopped] {
            for input in [Input::Miss, Input::LockTaken, Input::Admitted, Input::Stop, succeeded(), Input::PauseOver] {
                let (after, effects) = phase.on(input, RUNNING);
                assert!(after == phase && effects.is_empty(), "{phase:?} became {after:?}");
            }
        }
        assert_eq!(next(Phase::Done, Input::Reopen, RUNNING), Phase::Idle);
        assert_eq!(next(Phase::Failed, Input::Reopen, RUNNING), Phase::Failed);
    }

    #[test]
    fn a_stop_takes_tasks_out_of_the_queue_and_asks_running_ones_to_save() {
        for phase in [Phase::Queued, Phase::Locked, Phase::Backoff(Instant::now())] {
            assert_eq!(next(phase, Input::Stop, STOPPING), Phase::Idle);
        }
        assert!(matches!(Phase::Running.on(Input::Stop, STOPPING), (Phase::Running, effects) if effects.len() == 1));
        assert_eq!(next(Phase::Locking, Input::Stop, STOPPING), Phase::Locking, "its thread watches the flag");
    }
}
