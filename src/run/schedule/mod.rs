//! [`Scheduler`]: decides what runs when. It alone owns the state of a run; jobs and signals send it
//! messages, and it waits for nothing else.
//!
//! | file | role |
//! |---|---|
//! | `phase` | the states of one task and the transitions between them; pure |
//! | `tracker` | the states of all tasks, and which may have changed; pure |
//! | `queue` | tasks that wait, in the order in which they should start; pure |
//! | `weight` | the length of the path from a stage to the end of the run |
//! | `scheduler` | the loop, cache lookups, and the effects of transitions |
//! | `dispatch` | key locks, admission, and the start of jobs |
//! | `events` | messages from jobs |
//! | `stop`, `shutdown` | signals and `--fail-fast` |
//! | `journal` | writes events into the record, and shows them |
//!
//! A task whose inputs are known is looked up by its key: a hit is done. A miss is queued. Once it is
//! scheduled it takes the key's lock (if another process holds it, a thread waits for it), then
//! processors, memory and GPUs, and a job runs it. A task that is too large for what is free keeps
//! later ones from overtaking it, so it is never starved.

mod dispatch;
mod events;
mod journal;
mod phase;
mod queue;
mod scheduler;
mod shutdown;
pub(super) mod signals;
mod stop;
#[cfg(test)]
mod tests;
mod tracker;
mod weight;

pub(super) use scheduler::{Ending, ForcedStages, Scheduler};
