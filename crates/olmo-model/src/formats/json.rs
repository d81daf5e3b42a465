//! Writes the JSON files of a model folder.

use std::path::Path;

use olmo_base::IoContext as _;
use serde_json::Value;

use crate::error::ModelError;

/// Writes an indented JSON file with a trailing newline; creates the folder.
pub(crate) fn write_json(folder: &Path, name: &str, value: Value) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).context(folder)?;
    let path = folder.join(name);
    Ok(std::fs::write(&path, format!("{value:#}\n")).context(&path)?)
}
