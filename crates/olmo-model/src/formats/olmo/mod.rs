//! The checkpoint folders of AI2's own trainers: OLMo-core's steps, and OLMo's unsharded
//! checkpoints.

mod core_config;
mod core_folder;
mod fields;
mod native_config;
mod native_folder;
mod tensors;

pub(super) use core_folder::core_config_of;
pub use core_folder::{load_olmo_core, save_olmo_core};
pub(super) use native_folder::{CONFIG_YAML, config_of};
pub use native_folder::{load_olmo, save_olmo};
