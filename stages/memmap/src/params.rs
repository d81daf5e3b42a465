//! Params of stage `memmap`.

use olmo_data::{Dtype, InstanceFilter, MemmapOptions, Pack};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Type of a stored token id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdType {
    /// The smallest type that holds the vocabulary.
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
    /// Row length in tokens, at most the model's `max_sequence_length`. Null: the length of the
    /// longest document, rounded up to a multiple of 64 but never above the `max_length` of stage
    /// `tokenize`; works only where whole documents are packed.
    #[serde(default)]
    #[schemars(range(min = 2))]
    pub sequence_length: Option<u64>,
    /// How to fill rows: `whole` packs whole documents in order and pads the rest, `best_fit` packs
    /// whole documents with almost no padding, `concat` continues documents across rows and drops
    /// the tail, `padded` puts one document in each row.
    #[serde(default = "whole")]
    pub pack: Pack,
    /// Type of a stored token id: `uint16`, `uint32`, or `auto` for the smaller one that holds the
    /// vocabulary. Imported files do not record their type, so set it for them.
    #[serde(default)]
    pub dtype: IdType,
    /// Approximate size of an id file in MiB, after which a new file begins; 0: a single file.
    #[serde(default)]
    pub file_mib: u64,
    /// Removes the labels of repetitive rows, as OLMo's `data.instance_filter` does; null: no
    /// filter.
    #[serde(default)]
    #[schemars(with = "InstanceFilter", extend("type" = ["object", "null"]))]
    pub instance_filter: Option<InstanceFilter>,
    /// Also writes `boundaries.csv.gz`, the `start,end` of each document, as Dolma and
    /// open-instruct do.
    #[serde(default)]
    pub csv_boundaries: bool,
}

fn whole() -> Pack {
    Pack::Whole
}

impl MemmapParams {
    /// Writer options for rows of `sequence_length` ids from a vocabulary of `vocab_size`, with this
    /// number of threads.
    pub fn options(&self, sequence_length: u64, vocab_size: u32, threads: usize) -> MemmapOptions {
        let dtype = self.dtype.dtype();
        let width = dtype.unwrap_or(Dtype::for_vocabulary(vocab_size)).bytes() as u64;
        let rows = (self.file_mib << 20) / (sequence_length * width);
        MemmapOptions {
            dtype,
            rows_per_file: if self.file_mib == 0 { 0 } else { rows.max(1) },
            instance_filter: self.instance_filter,
            csv_boundaries: self.csv_boundaries,
            beside: threads > 1,
        }
    }
}
