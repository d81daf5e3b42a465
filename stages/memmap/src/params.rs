//! Params of stage `memmap`.

use olmo_data::{Dtype, InstanceFilter, MemmapOptions, Pack};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an id is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdType {
    /// The smallest that holds the vocabulary.
    #[default]
    Auto,
    /// Two bytes.
    Uint16,
    /// Four bytes.
    Uint32,
}

impl IdType {
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Auto => None,
            Self::Uint16 => Some(Dtype::Uint16),
            Self::Uint32 => Some(Dtype::Uint32),
        }
    }
}

/// Params of stage `memmap`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemmapParams {
    /// Tokens in a row: the model's `max_sequence_length` or less. Null: as many as the longest document has, rounded up to a
    /// multiple of 64, and at most as many as stage `tokenize` keeps; only where whole documents are packed.
    #[serde(default)]
    #[schemars(range(min = 2))]
    pub sequence_length: Option<u64>,
    /// `whole` fills rows with whole documents and pads the rest, `best_fit` does so with next to no padding, `concat` runs on
    /// over the ends of rows and drops the tail, `padded` puts one document into a row.
    #[serde(default = "whole")]
    pub pack: Pack,
    /// How an id is written: `auto` takes the smaller of `uint16` and `uint32` that holds the vocabulary. Files that are
    /// imported do not say what they hold, so it has to be said here.
    #[serde(default)]
    pub dtype: IdType,
    /// A file of ids holds about so many MiB, further rows go into the next one; 0 puts all into one file.
    #[serde(default)]
    pub file_mib: u64,
    /// Takes the labels from rows that repeat themselves, as OLMo's `data.instance_filter` does; null takes them from none.
    #[serde(default)]
    #[schemars(with = "InstanceFilter", extend("type" = ["object", "null"]))]
    pub instance_filter: Option<InstanceFilter>,
    /// Writes `boundaries.csv.gz` too: `start,end` of each document, as Dolma and open-instruct have it.
    #[serde(default)]
    pub csv_boundaries: bool,
}

fn whole() -> Pack {
    Pack::Whole
}

impl MemmapParams {
    /// Options of the writer for rows of `sequence_length` ids of `vocab_size` kinds.
    pub fn options(&self, sequence_length: u64, vocab_size: u32) -> MemmapOptions {
        let dtype = self.dtype.dtype();
        let width = dtype.unwrap_or(Dtype::for_vocabulary(vocab_size)).bytes() as u64;
        let rows = (self.file_mib << 20) / (sequence_length * width);
        MemmapOptions {
            dtype,
            rows_per_file: if self.file_mib == 0 { 0 } else { rows.max(1) },
            instance_filter: self.instance_filter,
            csv_boundaries: self.csv_boundaries,
        }
    }
}
