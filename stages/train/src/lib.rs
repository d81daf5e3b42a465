//! Stage `train`: trains a language model with AdamW, and continues after a stop as if there had been none.
//!
//! [`params`] says what a user may set, [`duration`] and [`schedule`] what follows from it. [`batches`] hands out the data,
//! [`prefetch`] reads it ahead, [`trainer`] runs the steps, [`evaluation`] measures the loss on other data, [`checkpoint`] keeps and
//! finds complete states, [`saver`] writes them beside the training, [`memory`] says what fits, [`metrics`] keeps one record a step.
//!
//! Weights, metrics and checkpoints follow from params and inputs alone: a run that was stopped or killed and continued gives
//! the bytes of an unbroken one.

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

/// A failure of the model as one of this stage.
fn model_failure(error: ModelError) -> StageError {
    match error {
        ModelError::Io { path, source } => StageError::io(&path, source),
        ModelError::Config(problems) => {
            StageError::fail("train::model_config", format!("params.model: {}", problems.join("; ")))
        }
        other => StageError::fail("train::model", other.to_string()),
    }
}
