//! Stage `train`: trains a language model with AdamW; a stopped run resumes bit for bit.
//!
//! [`params`] defines the params and derives the number of steps and the learning rates. [`data`]
//! reads the batches ahead, [`trainer`] runs the steps and measures the loss on held-out data,
//! [`checkpoint`] writes and finds complete states, [`memory`] estimates what fits, and [`metrics`]
//! keeps one record per step.
//!
//! Weights, metrics and checkpoints depend only on params and inputs: a run that was stopped or
//! killed and then resumed produces the same bytes as an uninterrupted run.

mod backend;
mod checkpoint;
mod data;
mod failure;
mod memory;
mod metrics;
mod params;
mod rules;
mod setup;
mod trainer;

use olmo_stage::rules::{Finding, Question};
use olmo_stage::{Context, Stage, StageError};

pub use params::{
    Duration, DurationError, LossNorm, ModelParams, OptimizerParams, Params, Schedule, SchedulerName, SchedulerParams,
};

/// The stage.
pub struct Train;

impl Stage for Train {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        rules::check(params, question)
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        params.check()?;
        let setup = setup::Setup::new(params, context)?;
        trainer::train(setup, context)
    }
}
