//! The engine of olmo-pipe: YAML experiments become a graph of cached stages, run as supervised
//! processes, with every result in a content-addressed store. It knows nothing of machine
//! learning and has no tensor crate in its dependencies (tested).
//!
//! [`spec`] reads and checks, [`graph`] orders, [`key`] names what a stage would make, [`store`]
//! keeps it, [`exec`] holds a stage's process, [`run`] decides what runs when, [`artifacts`]
//! answers what the store holds and why, [`report`] says it in text, and [`cli`] is the command
//! line over all of these.

pub mod artifacts;
pub mod builtin;
pub mod cli;
pub mod exec;
pub mod recipes;
pub mod report;
pub mod run;

pub use olmo_spec as spec;
pub use olmo_spec::graph;
pub use olmo_store as store;
pub use olmo_store::key;

#[cfg(test)]
#[path = "../tests/support/mutations.rs"]
mod mutations;
