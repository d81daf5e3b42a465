//! The work on one task ([`Job`]), in a thread of its own. A job runs one attempt and commits the
//! outputs to the store. It owns nothing but its attempt, and reports everything to the scheduler
//! as a [`JobEvent`].

mod attempt;
mod items;
mod judge;
mod message;
mod stopped;
mod task;

pub(super) use message::{Control, End, JobEvent, JobHandle, Message, wait_for_lock};
pub(super) use stopped::is_damage;
pub(super) use task::Job;
