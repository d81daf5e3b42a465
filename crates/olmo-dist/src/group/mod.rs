//! The ranks after the rendezvous: collectives over TCP, and the detection of failures.

mod control;
mod engine;
mod exchange;
mod process_group;
mod shared;
mod wire;

pub use process_group::{Pending, ProcessGroup};
