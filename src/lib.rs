//! The engine of olmo-pipe. It turns a YAML experiment into a graph of cached stages, runs each
//! stage as a supervised process, and keeps every result in a content-addressed store. It knows
//! nothing about machine learning and depends on no tensor crate (tested).
//!
//! [`spec`] reads and checks experiments, [`graph`] orders their stages, [`key`] computes cache
//! keys, [`store`] keeps results, [`exec`] runs the process of a stage, [`run`] decides what runs
//! when, [`artifacts`] answers what the store holds and where it came from, [`ui`] shows
//! output to people, and [`cli`] is the command line on top of them.

pub mod artifacts;
pub mod builtin;
pub mod cli;
pub mod exec;
pub mod recipes;
pub mod run;
pub mod ui;

pub use olmo_spec as spec;
pub use olmo_spec::graph;
pub use olmo_store as store;
pub use olmo_store::key;

#[cfg(test)]
#[path = "../tests/support/mutations.rs"]
mod mutations;
