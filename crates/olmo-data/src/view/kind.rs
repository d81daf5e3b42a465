//! [`ArtifactKind`]: the kind of the artifact in a folder.

use std::path::Path;

use crate::error::DataError;

/// The kind of the artifact in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    Dataset,
    Tokens,
    Memmap,
}

/// The kind of the artifact in folder `dir`, detected from its files.
pub fn kind(dir: &Path) -> Result<ArtifactKind, DataError> {
    let has = |name: &str| dir.join(name).is_file();
    match () {
        _ if has("data.parquet") => Ok(ArtifactKind::Dataset),
        _ if has("tokens.parquet") => Ok(ArtifactKind::Tokens),
        _ if has("input_ids.npy") && has("manifest.json") => Ok(ArtifactKind::Memmap),
        _ if has("input_ids.npy") => Err(DataError::broken(
            dir,
            "has ids but no manifest.json; import them with stage memmap and set their dtype",
        )),
        _ => Err(DataError::broken(
            dir,
            "is not a dataset (data.parquet), tokens (tokens.parquet) or a memmap (input_ids.npy)",
        )),
    }
}
