//! Reads and writes the JSON files of a model folder.

use std::path::Path;

use olmo_base::IoContext as _;
use serde_json::{Map, Value};

use super::file_names::CONFIG_FILE;
use super::lfs_pointer::lfs_pointer;
use crate::error::ModelError;

/// The unparsed fields of the config.
pub(crate) fn read_config(folder: &Path) -> Result<Map<String, Value>, ModelError> {
    read_object(&folder.join(CONFIG_FILE))
}

/// The JSON object in the file `path`.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, ModelError> {
    let text = std::fs::read(path).context(path)?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ModelError::folder(path, "is not a JSON object")),
        Err(error) => {
            let reason = lfs_pointer(&text).unwrap_or_else(|| format!("is not JSON: {error}"));
            Err(ModelError::folder(path, reason))
        }
    }
}

/// Writes an indented JSON file with a trailing newline; creates the folder.
pub(crate) fn write_json(folder: &Path, name: &str, value: Value) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).context(folder)?;
    let path = folder.join(name);
    Ok(std::fs::write(&path, format!("{value:#}\n")).context(&path)?)
}
