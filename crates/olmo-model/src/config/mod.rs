//! The architecture of a model: its config, the params that describe a new one, and AI2's presets.

#[expect(clippy::module_inception, reason = "the folder is named after its type")]
mod config;
mod params;
mod preset;
mod rope_scaling;
pub(crate) mod token_ids;

pub use config::{InitFnType, LayerNormType, ModelConfig};
pub use params::{MissingFields, ModelParams, Vocabulary};
pub use rope_scaling::RopeScaling;
