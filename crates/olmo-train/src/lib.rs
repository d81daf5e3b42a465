//! Training of language models: the loop, gradients and updates, checkpoints, metrics and data.
//!
//! [`train`] runs a [`Setup`] to its end. [`data`] reads the batches ahead, a [`learner`] computes
//! gradients and updates weights on its device, [`checkpoint`] writes and finds complete states,
//! [`memory`] estimates what fits, [`metrics`] keeps one record per step, and [`early_stopping`] may end a
//! run before its last one. Only the learner knows
//! the device. [`ranks`] are the processes that train together; each runs all of this, and the first
//! one writes. Params and contracts belong to the stages, which turn them into a [`Setup`].
//!
//! Weights, metrics and checkpoints depend only on the setup and its inputs: a run that was stopped
//! or killed and then resumed produces the same bytes as an uninterrupted run.

mod checkpoint;
pub mod data;
pub mod early_stopping;
mod failure;
pub mod learner;
pub mod memory;
mod metrics;
mod ranks;
mod schedule;
mod setup;
mod shard;
mod trainer;

pub use failure::model_failure;
pub use learner::{CrossEntropy, LossNorm, OptimizerSettings, Reduce};
pub use schedule::{Schedule, SchedulerName, SchedulerUnits};
pub use setup::{Initial, Origin, Setup};
pub use shard::Strategy;
pub use trainer::train;
