//! Data for a person: [`preview`] shows what is trained, [`stats`] counts, [`audit`] looks for what goes wrong.

pub mod audit;
pub mod histogram;
pub mod html;
pub mod preview;
mod sequences;
pub mod stats;

pub use sequences::{Sequence, Sequences};

use std::path::Path;

use crate::error::DataError;

/// What the artifact in a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    Dataset,
    Tokens,
    Memmap,
}

/// What the artifact in folder `dir` is, told by its files.
pub fn kind(dir: &Path) -> Result<ArtifactKind, DataError> {
    let has = |name: &str| dir.join(name).is_file();
    match () {
        _ if has("data.parquet") => Ok(ArtifactKind::Dataset),
        _ if has("tokens.parquet") => Ok(ArtifactKind::Tokens),
        _ if has("input_ids.npy") && has("manifest.json") => Ok(ArtifactKind::Memmap),
        _ if has("input_ids.npy") => Err(DataError::broken(
            dir,
            "holds ids without a manifest.json; import them with stage memmap, which asks for their dtype",
        )),
        _ => Err(DataError::broken(
            dir,
            "is no dataset (data.parquet), tokens (tokens.parquet) or memmap (input_ids.npy)",
        )),
    }
}

/// `text` for a terminal: control characters and marks of direction are written out.
pub fn plain(text: &str) -> String {
    let hidden =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    text.chars()
        .flat_map(|c| match c {
            '\n' | '\t' => vec![c],
            c if c.is_control() || hidden(c) => c.escape_default().collect(),
            c => vec![c],
        })
        .collect()
}
