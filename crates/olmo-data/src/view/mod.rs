//! Views of data for people: [`preview`] shows what is trained, [`stats`] counts, [`audit`] finds
//! problems.

pub mod audit;
pub mod histogram;
pub mod html;
pub mod preview;
mod sequences;
pub mod stats;

pub use sequences::{Sequence, Sequences};

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

/// Escapes control characters and text-direction marks in `text`, for a terminal.
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
