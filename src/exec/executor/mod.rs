//! Where the processes of stages run: the [`Executor`] trait, and this machine ([`Local`]).

mod api;
mod local;

pub use api::{Admission, Allocation, Executor, Process};
pub use local::Local;
