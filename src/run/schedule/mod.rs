//! [`Scheduler`]: decides what runs when. It alone owns the state of a run. Jobs and signals send
//! it messages, and it blocks on nothing else.
//!
//! | file | role |
//! |---|---|
//! | `phase` | the states of one task and the transitions between them; pure |
//! | `tracker` | the states of all tasks, and which may have changed; pure |
//! | `queue` | queued tasks, in the order in which they should start; pure |
//! | `weight` | the length of the path from a stage to the end of the run |
//! | `scheduler` | the loop, cache lookups, and the execution of effects |
//! | `dispatch` | key locks, admission, and the start of jobs |
//! | `events` | messages from jobs |
//! | `stop`, `shutdown` | signals and `--fail-fast` |
//! | `journal` | writes events to the record and reports them to the watcher |
//!
//! Once the inputs of a task are known, its key is looked up in the cache. On a hit, the task is
//! done. On a miss, it is queued. When it is scheduled, it takes the lock of its key (a thread
//! waits if another process holds it), then CPUs, memory and GPUs, and then a job runs it. A task
//! that needs more than is free keeps later tasks from taking what it waits for, so it never
//! starves.

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
