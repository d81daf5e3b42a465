//! How documents become rows of equal length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::memmap::Manifest;
use crate::memmap_writer::MemmapWriter;
use crate::tokens::Document;

/// How documents become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pack {
    /// A row takes whole documents, in order, as long as they fit, then padding. A document
    /// longer than a row is cut off.
    Whole,
    /// Documents run on over the ends of rows and the tail that fills no row is dropped: OLMo's
    /// layout for pre-training.
    Concat,
    /// One document a row, cut off or padded: the layout of OLMo's `prepare_tulu_data.py`.
    Padded,
}

/// Puts documents into the rows of a [`MemmapWriter`], in order.
pub struct Packer {
    pack: Pack,
    writer: MemmapWriter,
    dropped: u64,
    truncated: u64,
}

impl Packer {
    pub fn new(pack: Pack, writer: MemmapWriter) -> Self {
        Self { pack, writer, dropped: 0, truncated: 0 }
    }

    /// Adds a document. One without a trainable token (after cutting) is dropped and counted.
    pub fn push(&mut self, mut document: Document) -> Result<(), DataError> {
        let cut = match self.pack {
            Pack::Concat => 0,
            Pack::Whole | Pack::Padded => document.truncate(self.writer.sequence_length()),
        };
        if document.labels() == 0 {
            self.dropped += 1;
            return Ok(());
        }
        self.truncated += u64::from(cut > 0);
        if self.pack == Pack::Whole && document.input_ids.len() > self.writer.room() {
            self.writer.pad_row()?;
        }
        self.writer.begin_document();
        self.writer.append(&document.input_ids, &document.label_mask)?;
        if self.pack == Pack::Padded { self.writer.pad_row() } else { Ok(()) }
    }

    /// Completes the last row (or drops it, by the mode) and the files.
    pub fn finish(mut self) -> Result<Manifest, DataError> {
        if self.pack != Pack::Concat {
            self.writer.pad_row()?;
        }
        self.writer.finish(self.dropped, self.truncated)
    }
}
