//! The flat array of a model's weights, and its initialisation.

mod init;
#[expect(clippy::module_inception, reason = "the folder is named after its type")]
mod parameters;
mod random;

pub use parameters::Parameters;
