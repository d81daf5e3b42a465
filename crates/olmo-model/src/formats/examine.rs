//! Checks whether files form a loadable model, without reading its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::file_names::{CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE};
use super::folder::{self, Files};
use super::format::Format;
use super::json::read_object;
use super::olmo::{self, CONFIG_YAML};
use super::weight_files::{Entry, entries};
use super::{huggingface, native};
use crate::config::ModelConfig;
use crate::error::{ModelError, shortened};

/// The config of the model in `files` (names relative to its folder, and their paths), native or
/// Hugging Face. Messages call the folder `shown`. Compares the names and shapes in the headers of
/// safetensors with the config; of checkpoints of OLMo and OLMo-core, only the config is read.
///
/// # Errors
/// See [`crate::load`], as far as names, configs and headers show.
pub fn examine(shown: &Path, files: &BTreeMap<String, PathBuf>) -> Result<ModelConfig, ModelError> {
    folder::check_files(shown, files)?;
    let place = |name: &str| files.get(name).cloned().unwrap_or_else(|| shown.join(name));
    // Messages call a file in the store by its name in the model.
    let named = |name: &str| if place(name).ends_with(name) { place(name) } else { shown.join(name) };
    let rename = |error: ModelError, name: &str| match error {
        ModelError::Folder { path, reason } if path == place(name) => ModelError::folder(&named(name), reason),
        other => other,
    };
    match Format::of(|name| files.contains_key(name)) {
        Some(Format::OlmoCore) => return olmo::core_config_of(&place(CONFIG_FILE)).map_err(|e| rename(e, CONFIG_FILE)),
        Some(Format::Olmo) => return olmo::config_of(&place(CONFIG_YAML)).map_err(|e| rename(e, CONFIG_YAML)),
        _ => {}
    }
    let fields = read_object(&place(CONFIG_FILE)).map_err(|error| rename(error, CONFIG_FILE))?;
    let (config, parts) = if fields.contains_key(huggingface::MODEL_TYPE) {
        let config = huggingface::understand(&named(CONFIG_FILE), &fields)?;
        let parts = huggingface::parts(&config);
        (config, parts)
    } else {
        let config = native::understand(&named(CONFIG_FILE), fields)?;
        let parts = native::parts(&config);
        (config, parts)
    };
    let mut found: BTreeMap<String, Entry> = BTreeMap::new();
    for name in weight_files(files, &named(INDEX_FILE))? {
        found.extend(entries(&place(&name)).map_err(|error| rename(error, &name))?);
    }
    let mut problems = Vec::new();
    for part in parts {
        problems.extend(part.misfit(found.get(&part.name).map(|entry| &entry.shape[..])));
    }
    if problems.is_empty() {
        return Ok(config);
    }
    let error = ModelError::Tensors { path: named(WEIGHTS_FILE), problems: shortened(problems) };
    Err(huggingface::explain_head(error))
}

/// Names of the weight files.
fn weight_files(files: &Files, index: &Path) -> Result<Vec<String>, ModelError> {
    if files.contains_key(WEIGHTS_FILE) {
        return Ok(vec![WEIGHTS_FILE.to_owned()]);
    }
    let fields = match files.get(INDEX_FILE) {
        Some(path) => read_object(path)?,
        None => return Err(ModelError::folder(index, "is missing")),
    };
    let map = fields.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| ModelError::folder(index, "has no `weight_map`"))?;
    let mut names: Vec<String> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    let missing: Vec<String> =
        names.iter().filter(|name| !files.contains_key(*name)).map(|name| format!("`{name}`")).collect();
    if missing.is_empty() {
        return Ok(names);
    }
    let reason = format!(
        "names {} shards, and {} of them are not in the folder: {}; fetch them too",
        names.len(),
        missing.len(),
        shortened(missing).join(", ")
    );
    Err(ModelError::folder(index, reason))
}
