//! The batches of training data, read ahead.

mod batches;
mod prefetch;

pub(crate) use batches::{Batches, StepBatch, rows};
pub(crate) use prefetch::Prefetch;
