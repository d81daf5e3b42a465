//! Runs one task ([`Job`]) in its own thread: one attempt, whose outputs are committed to the
//! store. A job owns only its attempt. It never decides what runs next and never writes the run's
//! record; it reports everything to the scheduler as a [`JobEvent`].

mod attempt;
mod items;
mod judge;
mod message;
mod stopped;
mod task;

pub(super) use message::{Control, End, JobEvent, JobHandle, Message, wait_for_lock};
pub(super) use task::Job;
