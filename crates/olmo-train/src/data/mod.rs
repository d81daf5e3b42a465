//! The batches of training data, read ahead.

mod batches;
mod prefetch;

pub use batches::{Batches, too_few_rows};
pub(crate) use batches::{StepBatch, rows};
pub(crate) use prefetch::Prefetch;
