//! The checkpoint folders of AI2's own trainers: OLMo-core's steps, and OLMo's unsharded
//! checkpoints.

mod core_config;
mod core_folder;
mod fields;
mod native_config;
mod native_folder;
mod training_state;

pub use core_folder::save_olmo_core;
pub(super) use core_folder::{open_olmo_core, optimizer_of_step, trainer_of_step};
pub use native_folder::save_olmo;
pub(super) use native_folder::{open_olmo, optimizer_of_checkpoint, trainer_of_checkpoint};
pub use training_state::{Done, OptimizerState, TrainerState};
