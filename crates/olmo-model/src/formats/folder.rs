//! Recognises folders that this program cannot read as a model, and explains how to convert them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::file_names::{CONFIG_FILE, INDEX_FILE, PYTORCH_INDEX_FILE, WEIGHTS_FILE};
use super::files::ModelFiles;
use super::format::Format;
use crate::error::ModelError;

const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Rejects files that are something other than a model. Looks at names, and at small JSON files.
///
/// # Errors
/// [`ModelError::Folder`]: what the folder contains, and the command that converts it.
pub(crate) fn check(files: &ModelFiles) -> Result<(), ModelError> {
    let names: BTreeSet<&str> = files.names().map(|name| name.split('/').next().unwrap_or(name)).collect();
    match (Contents { files, names }).fault() {
        None => Ok(()),
        Some(reason) => Err(ModelError::folder(files.shown(), reason)),
    }
}

struct Contents<'f> {
    files: &'f ModelFiles,
    /// Names of the files and folders directly in the folder.
    names: BTreeSet<&'f str>,
}

impl<'f> Contents<'f> {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The first name that ends with `end`.
    fn ending(&self, end: &str) -> Option<&'f str> {
        self.names.iter().copied().find(|name| name.ends_with(end))
    }

    /// The file `name` as JSON; null if it cannot be read.
    fn json(&self, name: &str) -> Value {
        self.files.object(name).map(Value::Object).unwrap_or_default()
    }

    fn fault(&self) -> Option<String> {
        if self.names.is_empty() {
            return Some(format!("is an empty folder; a model has {CONFIG_FILE} and {WEIGHTS_FILE}"));
        }
        let single = self.has(WEIGHTS_FILE);
        let weights = single || self.has(INDEX_FILE);
        if let Some(reason) = self.adapter(weights) {
            return Some(reason);
        }
        if single && self.has(INDEX_FILE) && !self.index_is_of_one_file() {
            return Some(format!(
                "has both {WEIGHTS_FILE} and {INDEX_FILE}, and readers differ in which they take; remove the one that is \
                 left over"
            ));
        }
        if Format::of(|name| self.files.has(name)).is_some() || self.files.gguf_file().is_some() {
            return None;
        }
        Some(self.checkpoint().unwrap_or_else(|| self.missing(weights)))
    }

    /// `transformers` applies an adapter found next to a model.
    fn adapter(&self, weights: bool) -> Option<String> {
        let file = ADAPTER_WEIGHTS.into_iter().chain([ADAPTER_CONFIG]).find(|name| self.has(name))?;
        let config = self.json(ADAPTER_CONFIG);
        let base = config.get("base_model_name_or_path").and_then(Value::as_str);
        let base = base.map(|base| format!(" for `{}`", base.escape_debug())).unwrap_or_default();
        let beside = if weights { ", which is applied to the model beside it" } else { ", not a model" };
        Some(format!(
            "has {file}: an adapter{base}{beside}. Merge it in its folder and take `merged`: python -c \"from peft import \
             AutoPeftModelForCausalLM as M; M.from_pretrained('.').merge_and_unload().save_pretrained('merged')\""
        ))
    }

    /// Whether the index lists only the single file, so that both mean the same.
    fn index_is_of_one_file(&self) -> bool {
        let index = self.json(INDEX_FILE);
        let map = index.get("weight_map").and_then(Value::as_object);
        map.is_some_and(|map| map.values().all(|file| file == WEIGHTS_FILE))
    }

    /// A checkpoint in a format that must be converted by another program.
    fn checkpoint(&self) -> Option<String> {
        if self.has("model_and_optim") || self.has(".metadata") || self.ending(".distcp").is_some() {
            return Some(format!(
                "has parts of a distributed checkpoint of OLMo-core, but not {CONFIG_FILE} with .metadata or \
                 model_and_optim/.metadata; take the whole folder of the step"
            ));
        }
        if self.has("config.yaml") && (self.has(WEIGHTS_FILE) || self.has("model")) {
            return Some(
                "is a checkpoint of OLMo (it has config.yaml), whose weights are sharded. Take the repository of the same \
                 model whose name ends with `-hf` or `hf`, or unshard it first in a checkout of OLMo: \
                 python scripts/unshard.py CHECKPOINT UNSHARDED --model-only"
                    .into(),
            );
        }
        if let Some(file) = self.ending(".gguf") {
            return Some(format!("has several GGUF files, {file} among them; name the file of the model itself"));
        }
        if let Some(file) = self.names.iter().find(|name| name.starts_with("pytorch_model") && name.ends_with(".bin")) {
            let part = if self.has(CONFIG_FILE) { PYTORCH_INDEX_FILE } else { CONFIG_FILE };
            return Some(format!("has {file} but no {part}; take the whole folder that `save_pretrained` wrote"));
        }
        for (file, reader) in [("tf_model.h5", "from_tf"), ("flax_model.msgpack", "from_flax")] {
            if self.has(file) {
                return Some(format!(
                    "has {file} and not {WEIGHTS_FILE}. Convert it with a version 4 of transformers in its folder and take \
                     `converted`: python -c \"from transformers import AutoModelForCausalLM as M; \
                     M.from_pretrained('.', {reader}=True).save_pretrained('converted')\""
                ));
            }
        }
        let pickles = [".pth", ".ckpt", ".pt", ".bin"];
        let file = pickles.into_iter().find_map(|end| self.ending(end))?;
        Some(format!(
            "has {file}, a file of PyTorch's, and not {WEIGHTS_FILE}; load it with the program that wrote it, put its weights \
             into a model of transformers, and take the folder that `model.save_pretrained('converted')` writes"
        ))
    }

    /// Why a folder without any known checkpoint is not a model.
    fn missing(&self, weights: bool) -> String {
        let inner = |name: &&str| Format::of(|file| self.files.has(&format!("{name}/{file}"))).is_some();
        let inner: Vec<&str> = self.names.iter().copied().filter(inner).collect();
        let place = match &inner[..] {
            [] => String::new(),
            [one] => format!("; the folder `{one}` in it is a model: name that one"),
            [first, ..] => format!("; {} folders in it are models, `{first}` first: name one", inner.len()),
        };
        let what = match (weights, self.has(CONFIG_FILE)) {
            (true, _) => {
                format!("has weights but no {CONFIG_FILE}; take the whole folder that `save_pretrained` wrote")
            }
            (false, true) => {
                let shards = self.names.iter().filter(|name| name.ends_with(".safetensors")).count();
                match shards {
                    0 => format!(
                        "has {CONFIG_FILE} but no weights ({WEIGHTS_FILE} or pytorch_model.bin); take the whole folder that \
                         `save_pretrained` wrote"
                    ),
                    _ => format!(
                        "has {shards} safetensors files, but neither {WEIGHTS_FILE} nor {INDEX_FILE}, which says which of \
                         them are the model; take the whole folder that `save_pretrained` wrote"
                    ),
                }
            }
            (false, false) => format!("is no model: it has neither {CONFIG_FILE} nor {WEIGHTS_FILE}"),
        };
        what + &place
    }
}
