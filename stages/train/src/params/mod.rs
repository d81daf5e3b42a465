//! The params, and the number of steps and the learning rates that follow from them.

mod duration;
#[expect(clippy::module_inception, reason = "the folder is named after its type")]
mod params;

pub(crate) use duration::Interval;
pub use duration::{Duration, DurationError};
pub use params::*;
