//! Runs the process of one stage: the supervisor that watches it, the attempt's folder through
//! which the engine and the stage communicate, and the worker with the built-in stages.
//!
//! This module decides neither what runs when (see [`crate::run`]) nor where results are kept (see
//! the store).

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
