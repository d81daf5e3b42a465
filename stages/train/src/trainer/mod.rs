//! Runs the steps and the evaluations.

mod evaluation;
mod on_gpu;
mod run;

pub(crate) use run::train;
