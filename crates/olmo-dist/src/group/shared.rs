//! [`Shared`]: what the threads of a process group know together: whether the group has failed, and
//! the state of each rank.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{DistError, Failure};
use crate::rendezvous::Limits;

/// How the group ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaving {
    #[default]
    No,
    /// In good order: the other ranks are notified and have confirmed it.
    Close,
    /// At once.
    Abort,
}

#[derive(Debug, Default)]
struct State {
    /// The first failure.
    failure: Option<Failure>,
    /// The failure was sent to all ranks.
    is_sent: bool,
    leaving: Leaving,
    /// The control thread has ended.
    has_ended: bool,
}

/// What is known about a rank.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Number of collective operations that the rank has joined.
    pub(super) joined: AtomicU64,
    /// The rank has closed its group in good order.
    pub(super) is_closed: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) rank: usize,
    pub(super) limits: Limits,
    pub(super) peers: Vec<Peer>,
    /// Number of collective operations that this rank has joined.
    pub(super) joined: AtomicU64,
    /// Readable as soon as the group has failed.
    pub(super) alarm: OwnedFd,
    /// Readable if the control thread has something to do.
    pub(super) wake: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn new(rank: usize, size: usize, limits: Limits) -> std::io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self {
            rank,
            limits,
            peers: (0..size).map(|_| Peer::default()).collect(),
            joined: AtomicU64::new(0),
            alarm: event()?,
            wake: event()?,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if the group has failed.
    pub(super) fn check(&self) -> Result<(), DistError> {
        self.failure().map_or(Ok(()), |failure| Err(failure.into()))
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.state().failure.clone()
    }

    /// Ends the group with `failure`, unless it has failed already. Returns the first failure. The
    /// control thread sends it to the other ranks.
    pub(super) fn fail(&self, failure: Failure) -> Failure {
        let first = self.state().failure.get_or_insert(failure).clone();
        signal(&self.alarm);
        signal(&self.wake);
        first
    }

    /// Waits until the failure was sent to all ranks that can be reached, but not for long.
    pub(super) fn wait_until_sent(&self) {
        let is_open = |state: &mut State| state.failure.is_some() && !state.is_sent && !state.has_ended;
        let _ = self.changed.wait_timeout_while(self.state(), Duration::from_secs(2), is_open);
    }

    pub(super) fn set_sent(&self) {
        self.state().is_sent = true;
        self.changed.notify_all();
    }

    pub(super) fn leaving(&self) -> Leaving {
        self.state().leaving
    }

    pub(super) fn leave(&self, leaving: Leaving) {
        self.state().leaving = leaving;
        signal(&self.wake);
    }

    pub(super) fn set_ended(&self) {
        self.state().has_ended = true;
        self.changed.notify_all();
    }
}

fn signal(event: &OwnedFd) {
    // It fails only if the event is set already.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}
