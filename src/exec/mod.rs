//! Running one stage's process: the supervisor that holds it, the attempt's folder through which
//! engine and stage talk, and the worker that holds the built-in stages.
//!
//! Nothing here decides what runs when (that is [`crate::run`]) or keeps results (the store).

pub mod attempt;
pub mod backend;
pub mod command;
mod error;
mod executor;
mod grant;
pub mod item_list;
pub(crate) mod machine;
pub mod rules;
pub mod supervise;
mod worker;

pub use attempt::{Attempt, Work};
pub use error::ExecError;
pub use executor::{Admission, Allocation, Executor, Local, Process};
pub use grant::{AdmissionRequest, Grant};
pub use machine::{Shortage, memory_limit};
pub use supervise::{Ended, Launch, Supervised};
pub use worker::Worker;
