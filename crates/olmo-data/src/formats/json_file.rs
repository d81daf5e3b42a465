//! Reads and writes the small JSON files of artifacts: `manifest.json`, `special_tokens.json`.

use std::path::Path;

use olmo_base::IoContext as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::DataError;

/// The format number in every JSON file written here.
pub(crate) const FORMAT: u32 = 1;

/// Reads the JSON file at `path`; it must contain `"format": 1`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let text = std::fs::read(path).context(path)?;
    let refuse = |reason: String| DataError::Manifest { path: path.to_owned(), reason };
    let value: Value = serde_json::from_slice(&text).map_err(|e| refuse(format!("is not JSON: {e}")))?;
    match value.get("format").map(|format| format.as_u64()) {
        Some(Some(format)) if format == u64::from(FORMAT) => {}
        Some(Some(format)) => return Err(refuse(format!("has format {format}, but this build reads format {FORMAT}"))),
        _ => return Err(refuse(format!("has no `format` number; this build reads format {FORMAT}"))),
    }
    serde_json::from_value(value).map_err(|e| refuse(e.to_string()))
}

/// Writes `value` as pretty JSON with a final newline.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), DataError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| DataError::Manifest { path: path.to_owned(), reason: e.to_string() })?;
    text.push('\n');
    Ok(std::fs::write(path, text).context(path)?)
}
