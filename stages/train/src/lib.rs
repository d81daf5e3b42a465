//! Stage `train`: trains a language model with AdamW; a stopped run resumes bit for bit.
//!
//! [`params`] defines the params and derives the number of steps and the learning rates, [`rules`]
//! checks them, [`inherited`] has what a run takes from its initial weights, and [`setup`] opens the
//! inputs. `olmo-train` does the training.

mod inherited;
mod params;
mod rules;
mod setup;
mod stopping;

use olmo_stage::rules::{Finding, Question};
use olmo_stage::{Context, Stage, StageError};

pub use olmo_train::{LossNorm, Schedule, SchedulerName, SchedulerUnits};
pub use params::{Duration, DurationError, OptimizerParams, Params, SchedulerParams};

/// The stage.
pub struct Train;

impl Stage for Train {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn check(params: &Params, question: &Question) -> Vec<Finding> {
        let mut findings = rules::check(params, question);
        findings.extend(stopping::broken(params, |port| question.has(port)));
        findings
    }

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        olmo_train::train(setup::setup(params, context)?, context)
    }
}
