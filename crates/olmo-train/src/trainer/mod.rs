//! Runs the steps and the evaluations.

mod evaluation;
mod parts;
mod rank_report;
mod run;

pub use run::train;
