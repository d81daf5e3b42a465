//! Runs the steps and the evaluations.

mod evaluation;
mod rank_report;
mod run;

pub use run::train;
