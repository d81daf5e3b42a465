//! The names of the files in a model folder.

/// Name of the config file, in both formats.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the weight file, in both formats.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The index of the shards of a model in several files.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
