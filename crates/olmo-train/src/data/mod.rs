//! The batches of training data, read ahead.

mod batches;
mod prefetch;

pub use batches::{Batches, StepBatch, rows, too_few_rows};
pub use prefetch::Prefetch;
