//! [`MemmapWriter`]: writes a [`crate::Memmap`] row by row. How documents become rows is
//! [`crate::pack`]'s matter.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use olmo_stage::Digest;

use crate::error::DataError;
use crate::json;
use crate::memmap::{BOUNDARIES, Dtype, INPUT_IDS, LABEL_MASK, MANIFEST, Manifest};

/// What is known of a memmap before its first token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens in a row.
    pub sequence_length: usize,
    pub vocab_size: u32,
    /// Digest of the `tokenizer.json` that made the ids.
    pub tokenizer: Digest,
    pub eos_token_id: u32,
    pub pad_token_id: u32,
}

/// A file that is hashed while it is written.
struct HashedFile {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl HashedFile {
    fn create(path: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&path).map_err(DataError::io(&path))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 18, file), path, hasher: blake3::Hasher::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(DataError::io(&self.path))
    }

    fn finish(mut self) -> Result<Digest, DataError> {
        self.file.flush().map_err(DataError::io(&self.path))?;
        let hex = self.hasher.finalize().to_hex();
        Ok(Digest::from_hex(&hex).expect("blake3 writes 64 lower-case digits"))
    }
}

/// Writes rows. Until [`MemmapWriter::finish`] has written `manifest.json` the folder is no memmap.
pub struct MemmapWriter {
    dir: PathBuf,
    layout: Layout,
    dtype: Dtype,
    input_ids: HashedFile,
    label_mask: HashedFile,
    boundaries: Vec<u64>,
    row_ids: Vec<u32>,
    row_mask: Vec<u8>,
    written: u64,
    labels: u64,
    padding: u64,
    every_token_labelled: bool,
}

impl MemmapWriter {
    /// Starts a memmap in folder `dir`.
    pub fn create(dir: &Path, layout: Layout) -> Result<Self, DataError> {
        if layout.sequence_length == 0 {
            return Err(DataError::broken(dir, "a row must hold at least one token"));
        }
        Ok(Self {
            input_ids: HashedFile::create(dir.join(INPUT_IDS))?,
            label_mask: HashedFile::create(dir.join(LABEL_MASK))?,
            dir: dir.to_owned(),
            dtype: Dtype::for_vocabulary(layout.vocab_size),
            boundaries: Vec::new(),
            row_ids: Vec::with_capacity(layout.sequence_length),
            row_mask: Vec::with_capacity(layout.sequence_length),
            written: 0,
            labels: 0,
            padding: 0,
            every_token_labelled: true,
            layout,
        })
    }

    /// Tokens that the current row still takes; a full row is written at once.
    pub fn room(&self) -> usize {
        self.layout.sequence_length - self.row_ids.len()
    }

    /// Tokens in a row.
    pub fn sequence_length(&self) -> usize {
        self.layout.sequence_length
    }

    /// The next token is the first of a document.
    pub fn begin_document(&mut self) {
        self.boundaries.push(self.written + self.row_ids.len() as u64);
    }

    /// Appends tokens, over the ends of rows. Refuses an id outside the vocabulary.
    pub fn append(&mut self, ids: &[u32], label_mask: &[bool]) -> Result<(), DataError> {
        for (id, label) in ids.iter().zip(label_mask) {
            if *id >= self.layout.vocab_size {
                return Err(DataError::OverVocabulary {
                    path: self.input_ids.path.clone(),
                    position: self.written as usize + self.row_ids.len(),
                    id: *id,
                    vocab_size: self.layout.vocab_size,
                });
            }
            self.row_ids.push(*id);
            self.row_mask.push(u8::from(*label));
            if self.room() == 0 {
                self.write_row()?;
            }
        }
        Ok(())
    }

    /// Fills the current row with padding that is not trained, if it holds anything.
    pub fn pad_row(&mut self) -> Result<(), DataError> {
        if self.row_ids.is_empty() {
            return Ok(());
        }
        self.padding += self.room() as u64;
        self.row_ids.resize(self.layout.sequence_length, self.layout.pad_token_id);
        self.row_mask.resize(self.layout.sequence_length, 0);
        self.write_row()
    }

    fn write_row(&mut self) -> Result<(), DataError> {
        let bytes: Vec<u8> = match self.dtype {
            // Below `vocab_size`, which this dtype holds.
            Dtype::Uint16 => self.row_ids.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect(),
            Dtype::Uint32 => self.row_ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        };
        self.input_ids.write(&bytes)?;
        self.label_mask.write(&self.row_mask)?;
        self.labels += self.row_mask.iter().skip(1).map(|label| u64::from(*label)).sum::<u64>();
        self.every_token_labelled &= self.row_mask.iter().all(|label| *label == 1);
        self.written += self.row_ids.len() as u64;
        self.row_ids.clear();
        self.row_mask.clear();
        Ok(())
    }

    /// Completes the files. A row that is not full is dropped, with the boundaries in it.
    pub fn finish(mut self, mut dropped: u64, mut truncated: u64) -> Result<Manifest, DataError> {
        let kept = self.boundaries.partition_point(|start| *start < self.written);
        dropped += (self.boundaries.len() - kept) as u64;
        // A tail that does not start with a document cuts the one before it.
        if !self.row_ids.is_empty() && kept > 0 && self.boundaries.get(kept) != Some(&self.written) {
            truncated += 1;
        }
        self.boundaries.truncate(kept);
        let mut boundaries = HashedFile::create(self.dir.join(BOUNDARIES))?;
        for start in &self.boundaries {
            boundaries.write(&start.to_le_bytes())?;
        }
        let mut blake3 = BTreeMap::new();
        blake3.insert(INPUT_IDS.to_owned(), self.input_ids.finish()?);
        blake3.insert(BOUNDARIES.to_owned(), boundaries.finish()?);
        let mask_path = self.label_mask.path.clone();
        let mask = self.label_mask.finish()?;
        if self.every_token_labelled {
            std::fs::remove_file(&mask_path).map_err(DataError::io(&mask_path))?;
        } else {
            blake3.insert(LABEL_MASK.to_owned(), mask);
        }
        let sequence_length = self.layout.sequence_length as u64;
        let manifest = Manifest {
            format: json::FORMAT,
            dtype: self.dtype,
            count: self.written,
            sequence_length,
            instances: self.written / sequence_length,
            labels: self.labels,
            vocab_size: self.layout.vocab_size,
            tokenizer: self.layout.tokenizer,
            eos_token_id: self.layout.eos_token_id,
            pad_token_id: self.layout.pad_token_id,
            documents: kept as u64,
            dropped,
            truncated,
            padding: self.padding,
            blake3,
        };
        json::write(&self.dir.join(MANIFEST), &manifest)?;
        Ok(manifest)
    }
}
