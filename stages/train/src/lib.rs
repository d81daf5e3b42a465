//! Stage `train`: trains a language model with AdamW; a stopped run resumes bit for bit.
//!
//! [`params`] defines the params; [`duration`] and [`schedule`] derive the number of steps and the
//! learning rates. [`batches`] provides the data and [`prefetch`] reads it ahead, [`trainer`] runs
//! the steps, [`evaluation`] measures the loss on held-out data, [`checkpoint`] stores and finds
//! complete states, [`saver`] writes them in the background, [`memory`] estimates what fits, and
//! [`metrics`] keeps one record per step.
//!
//! Weights, metrics and checkpoints depend only on params and inputs: a run that was stopped or
//! killed and then resumed produces the same bytes as an uninterrupted run.

mod backend;
mod batches;
mod checkpoint;
mod duration;
mod evaluation;
mod memory;
mod metrics;
mod params;
mod prefetch;
mod rules;
mod saver;
mod schedule;
mod setup;
mod trainer;

use olmo_model::ModelError;
use olmo_stage::rules::{Finding, Question};
use olmo_stage::{Context, Stage, StageError};

pub use duration::{Duration, DurationError};
pub use params::{LossNorm, ModelParams, OptimizerParams, Params, SchedulerName, SchedulerParams};
pub use schedule::Schedule;

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

/// Converts an error of the model to an error of this stage.
fn model_failure(error: ModelError) -> StageError {
    match error {
        ModelError::Io { path, source } => StageError::io(&path, source),
        ModelError::Config(problems) => {
            StageError::fail("train::model_config", format!("params.model: {}", problems.join("; ")))
        }
        other => StageError::fail("train::model", other.to_string()),
    }
}
