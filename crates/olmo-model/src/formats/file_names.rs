//! The names of the files in a model folder.

/// Name of the config file, in both formats.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the weight file, in both formats.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The file of a GGUF export.
pub const GGUF_FILE: &str = "model.gguf";
/// How the names of GGUF files end.
pub(crate) const GGUF_ENDING: &str = ".gguf";
/// The index of the shards of a model in several files.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// The weights of a Hugging Face model as a file of `torch.save`, and the index of its shards.
pub(crate) const PYTORCH_FILE: &str = "pytorch_model.bin";
pub(crate) const PYTORCH_INDEX_FILE: &str = "pytorch_model.bin.index.json";
