//! [`Format`]: the formats of a model folder, told apart by the names of its files.

use super::file_names::{CONFIG_FILE, INDEX_FILE, PYTORCH_FILE, PYTORCH_INDEX_FILE, WEIGHTS_FILE};

/// The format of a model folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `config.json` with safetensors: ours or Hugging Face's, by the content of the config.
    Safetensors,
    /// `config.json` with `pytorch_model.bin`: Hugging Face's, from before safetensors.
    PytorchBin,
    /// A step of OLMo-core's trainer.
    OlmoCore,
    /// An unsharded checkpoint of OLMo.
    Olmo,
    /// A GGUF file of any name, and no model in another format.
    Gguf,
}

impl Format {
    /// The format of a folder; `has` tells whether a file is in it (`NAME` or `FOLDER/NAME`). `None`
    /// if it is none that can be read, or [`Format::Gguf`].
    pub(crate) fn of(has: impl Fn(&str) -> bool) -> Option<Format> {
        if has(CONFIG_FILE) && (has("model_and_optim/.metadata") || has(".metadata")) {
            return Some(Format::OlmoCore);
        }
        if has("config.yaml") && !has(CONFIG_FILE) && (has("model.pt") || has(WEIGHTS_FILE)) {
            return Some(Format::Olmo);
        }
        // The order of `transformers`.
        match has(CONFIG_FILE) {
            true if has(WEIGHTS_FILE) || has(INDEX_FILE) => Some(Format::Safetensors),
            true if has(PYTORCH_FILE) || has(PYTORCH_INDEX_FILE) => Some(Format::PytorchBin),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_folder_tell_its_format() {
        let of = |names: &[&str]| Format::of(|name| names.contains(&name));
        assert_eq!(of(&["config.json", "model.safetensors"]), Some(Format::Safetensors));
        assert_eq!(of(&["config.json", "model.safetensors.index.json"]), Some(Format::Safetensors));
        assert_eq!(of(&["config.json", "model_and_optim/.metadata", "train/rank0.pt"]), Some(Format::OlmoCore));
        assert_eq!(of(&["config.json", ".metadata", "__0_0.distcp"]), Some(Format::OlmoCore));
        assert_eq!(of(&["config.yaml", "model.pt", "optim.pt"]), Some(Format::Olmo));
        assert_eq!(of(&["config.yaml", "model.safetensors"]), Some(Format::Olmo));
        assert_eq!(of(&["config.yaml", "model/rank0.pt"]), None);
        assert_eq!(of(&["model.safetensors"]), None);
        assert_eq!(of(&["config.json", "pytorch_model.bin"]), Some(Format::PytorchBin));
        assert_eq!(of(&["config.json", "pytorch_model.bin.index.json"]), Some(Format::PytorchBin));
        assert_eq!(of(&["config.json", "pytorch_model.bin", "model.safetensors"]), Some(Format::Safetensors));
    }
}
