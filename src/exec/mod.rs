//! Running one stage's process: the supervisor that holds it, the attempt's folder through which
//! engine and stage talk, and the worker that holds the built-in stages.
//!
//! Nothing here decides what runs when (that is [`crate::run`]) or keeps results (the store).

pub mod attempt;
mod backend;
pub mod command;
mod error;
mod executor;
mod inquiry;
pub mod item_list;
mod launch;
pub(crate) mod machine;
mod order;
mod processes;
mod redact;
pub mod rules;
mod stage_log;
pub mod supervise;
mod worker;

pub use attempt::{Attempt, Work};
pub use backend::Backend;
pub use error::ExecError;
pub use executor::{Admission, AdmissionRequest, Allocation, Executor, Grant, Local, Process};
pub use launch::{Ended, Launch, Supervised};
pub use machine::{Shortage, memory_limit};
pub use worker::Worker;
