//! Executors start the processes of stages: the [`Executor`] trait, and its implementation for this
//! machine ([`Local`]).

mod api;
mod local;

pub use api::{Admission, Allocation, Executor, Process};
pub use local::Local;
