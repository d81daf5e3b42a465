//! The messages between the scheduler and its jobs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use olmo_base::{ActionKey, ArtifactId};
use olmo_stage::{Event, Failure};

use crate::exec::item_list::{ItemRecord, Items};
use crate::run::cache::{Cache, Lookup, Outputs};
use crate::run::event::Used;
use crate::spec::FailureClass;
use crate::store::{KeyLock, Output, StoreError};

/// A request from the scheduler to a running job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Let the stage save its state and stop.
    Terminate,
    /// Let the stage save its state and continue.
    Save,
    /// Kill it.
    Kill,
}

/// A report from a job to the scheduler.
pub(crate) enum JobEvent {
    /// Another process holds the key's lock.
    Waiting { holder: Option<u32> },
    /// This process has the lock, and the result is still missing.
    Locked(KeyLock),
    /// Another process has made the result meanwhile.
    Shared(Outputs),
    /// The wait for the lock was given up, or failed.
    NotLocked(Option<StoreError>),
    /// List items of earlier attempts.
    Items(Items),
    /// A process was started.
    Started { attempt: u32, continues: bool, after: Option<String> },
    /// A list item is in the store, or items left their list.
    Item { record: ItemRecord, step: u64 },
    /// Progress, metrics, or a message from the stage.
    Stage(Event),
    /// The attempt ended.
    Ended(End),
}

/// How a job ended.
pub(crate) enum End {
    Succeeded {
        outputs: BTreeMap<String, Output>,
        used: Used,
    },
    Failed {
        failure: Failure,
        class: FailureClass,
        log: Vec<String>,
    },
    Interrupted,
    /// An input is damaged, so no process was started.
    Damaged {
        artifact: ArtifactId,
        error: StoreError,
    },
}

/// A message to the scheduler.
pub(crate) enum Message {
    Job(usize, Box<JobEvent>),
    Signal(i32),
    /// Running stages should save their state (SIGUSR1).
    Save,
}

/// Sends the events of one task to the scheduler.
#[derive(Clone)]
pub(crate) struct JobHandle {
    pub task: usize,
    pub to: Sender<Message>,
}

impl JobHandle {
    /// Sends `event`. If the scheduler is gone, the process is exiting; the event is dropped.
    pub(crate) fn send(&self, event: JobEvent) {
        let _ = self.to.send(Message::Job(self.task, Box::new(event)));
    }
}

/// Waits for the lock of `key` without holding any resources. With `forced`, an existing result is
/// ignored, but one that appears during the wait is shared.
pub(crate) fn wait_for_lock(cache: &Cache, key: ActionKey, forced: bool, stop: &AtomicBool, scheduler: &JobHandle) {
    let mut reported = false;
    let locked = cache.store().lock_key_wait(key, &mut || {
        if !std::mem::replace(&mut reported, true) {
            scheduler.send(JobEvent::Waiting { holder: cache.store().lock_holder(key) });
        }
        !stop.load(Ordering::Relaxed)
    });
    let event = match locked {
        Err(e) => JobEvent::NotLocked(Some(e)),
        Ok(None) => JobEvent::NotLocked(None),
        Ok(Some(lock)) if forced && !reported => JobEvent::Locked(lock),
        Ok(Some(lock)) => match cache.lookup(key) {
            Ok(Lookup::Hit(outputs)) => JobEvent::Shared(outputs),
            Ok(_) => JobEvent::Locked(lock),
            Err(e) => JobEvent::NotLocked(Some(e)),
        },
    };
    scheduler.send(event);
}
