//! The table of built-in stages, and the worker's commands on it.
//!
//! A worker process runs one attempt: it reads `request.json` from the attempt's folder and writes
//! all results to that folder. Its standard output and error are only a log.

mod answer;
mod choices;
mod cli;
mod data;
mod inference;
mod parquet;
mod raw;
mod table;

pub use cli::main;
pub use data::Data;
#[cfg(feature = "libtorch")]
pub use table::compile_kernels;
pub use table::{STAGES, check, describe, description, devices, run};
