//! Runs the steps and the evaluations.

mod evaluation;
mod run;

pub use run::train;
