//! [`MemmapWriter`]: writes a [`crate::Memmap`] row by row. [`super::pack`] decides how documents
//! fill the rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use olmo_base::{Digest, IoContext as _};

use super::boundaries_csv::{self, CSV_BOUNDARIES};
use super::hashed_file::HashedFile;
use super::instance_filter::InstanceFilter;
use super::reader::{BOUNDARIES, Dtype, INPUT_IDS, LABEL_MASK, Manifest, shard_name};
use olmo_remote::RemoteFile;

use crate::error::DataError;
use crate::formats::{id_bytes, json_file};

/// Properties of a memmap that are known before its first token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Row length in tokens.
    pub sequence_length: usize,
    pub vocab_size: u32,
    /// Digest of the `tokenizer.json` that produced the ids.
    pub tokenizer: Digest,
    pub eos_token_id: u32,
    pub pad_token_id: u32,
}

/// Options of a memmap in addition to its [`Layout`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemmapOptions {
    /// `None`: the smallest type that holds the vocabulary.
    pub dtype: Option<Dtype>,
    /// Number of rows per id file; 0: a single file.
    pub rows_per_file: u64,
    /// Removes the labels of repetitive rows.
    pub instance_filter: Option<InstanceFilter>,
    /// Also writes `boundaries.csv.gz`, as Dolma and open-instruct do.
    pub csv_boundaries: bool,
    /// Hashes and writes in threads of their own. The bytes are the same.
    pub beside: bool,
}

/// Writes rows. The folder is not a memmap until [`MemmapWriter::finish`] has written
/// `manifest.json`.
pub struct MemmapWriter {
    dir: PathBuf,
    layout: Layout,
    options: MemmapOptions,
    dtype: Dtype,
    /// The id file being written.
    input_ids: Option<HashedFile>,
    /// Its label mask. There is none until a token is not a target.
    label_mask: Option<HashedFile>,
    /// Number of rows in each file, and the digests of all files.
    shards: Vec<u64>,
    blake3: BTreeMap<String, Digest>,
    boundaries: Vec<u64>,
    row_ids: Vec<u32>,
    row_mask: Vec<u8>,
    bytes: Vec<u8>,
    written: u64,
    labels: u64,
    padding: u64,
    filtered: u64,
    every_token_labelled: bool,
}

impl MemmapWriter {
    /// Starts a memmap in folder `dir`.
    pub fn create(dir: &Path, layout: Layout) -> Result<Self, DataError> {
        Self::with_options(dir, layout, MemmapOptions::default())
    }

    /// Starts a memmap in folder `dir`. Rejects a dtype that cannot hold every id of the
    /// vocabulary.
    pub fn with_options(dir: &Path, layout: Layout, options: MemmapOptions) -> Result<Self, DataError> {
        if layout.sequence_length == 0 {
            return Err(DataError::broken(dir, "a row must hold at least one token"));
        }
        let least = Dtype::for_vocabulary(layout.vocab_size);
        let dtype = options.dtype.unwrap_or(least);
        if dtype.bytes() < least.bytes() {
            let (dtype, vocab_size) = (dtype.as_str(), layout.vocab_size);
            return Err(DataError::Dtype { path: INPUT_IDS.into(), dtype, vocab_size });
        }
        Ok(Self {
            dir: dir.to_owned(),
            options,
            dtype,
            input_ids: None,
            label_mask: None,
            shards: Vec::new(),
            blake3: BTreeMap::new(),
            boundaries: Vec::new(),
            row_ids: Vec::with_capacity(layout.sequence_length),
            row_mask: Vec::with_capacity(layout.sequence_length),
            bytes: Vec::new(),
            written: 0,
            labels: 0,
            padding: 0,
            filtered: 0,
            every_token_labelled: true,
            layout,
        })
    }

    /// Number of tokens that fit in the current row; a full row is written immediately.
    pub fn room(&self) -> usize {
        self.layout.sequence_length - self.row_ids.len()
    }

    /// Row length in tokens.
    pub fn sequence_length(&self) -> usize {
        self.layout.sequence_length
    }

    /// Marks the next token as the first of a document.
    pub fn begin_document(&mut self) {
        self.boundaries.push(self.written + self.row_ids.len() as u64);
    }

    /// Appends tokens, across rows if necessary. Rejects an id outside the vocabulary.
    pub fn append(&mut self, mut ids: &[u32], mut label_mask: &[bool]) -> Result<(), DataError> {
        if let Some(at) = ids.iter().position(|id| *id >= self.layout.vocab_size) {
            return Err(DataError::OverVocabulary {
                path: self.dir.join(INPUT_IDS),
                position: self.written as usize + self.row_ids.len() + at,
                id: ids[at],
                vocab_size: self.layout.vocab_size,
            });
        }
        while !ids.is_empty() {
            let now = self.room().min(ids.len());
            let (row, rest) = ids.split_at(now);
            let (row_mask, rest_mask) = label_mask.split_at(now);
            self.row_ids.extend_from_slice(row);
            self.row_mask.extend(row_mask.iter().map(|label| u8::from(*label)));
            (ids, label_mask) = (rest, rest_mask);
            if self.room() == 0 {
                self.write_row()?;
            }
        }
        Ok(())
    }

    /// Fills the current row with untrained padding, unless the row is empty.
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
        if self.options.instance_filter.is_some_and(|filter| filter.repeats(&self.row_ids)) {
            self.filtered += 1;
            self.row_mask.fill(0);
        }
        let mut input_ids = match self.input_ids.take() {
            Some(file) => file,
            None => {
                self.shards.push(0);
                self.new_file(INPUT_IDS, self.shards.len() - 1)?
            }
        };
        self.bytes.clear();
        match self.dtype {
            // Below `vocab_size`, which fits this dtype.
            Dtype::Uint16 => id_bytes::append::<2>(&self.row_ids, &mut self.bytes),
            Dtype::Uint32 => id_bytes::append::<4>(&self.row_ids, &mut self.bytes),
        }
        input_ids.write(&self.bytes)?;
        self.input_ids = Some(input_ids);
        // Sums of few bytes, which the compiler adds many at a time.
        let sum = |some: &[u8]| some.iter().fold(0_u8, |sum, label| sum.wrapping_add(*label));
        let labelled: u64 = self.row_mask.chunks(128).map(|some| u64::from(sum(some))).sum();
        // The first token has no context to be predicted from.
        self.labels += labelled - self.row_mask.first().map_or(0, |first| u64::from(*first));
        if self.every_token_labelled && labelled < self.row_mask.len() as u64 {
            self.begin_label_masks()?;
        }
        if !self.every_token_labelled {
            let label_mask = match self.label_mask.take() {
                Some(file) => file,
                None => self.new_file(LABEL_MASK, self.shards.len() - 1)?,
            };
            self.label_mask.insert(label_mask).write(&self.row_mask)?;
        }
        self.written += self.row_ids.len() as u64;
        self.row_ids.clear();
        self.row_mask.clear();
        if let Some(rows) = self.shards.last_mut() {
            *rows += 1;
            if *rows == self.options.rows_per_file {
                self.close_file()?;
            }
        }
        Ok(())
    }

    fn new_file(&self, name: &str, shard: usize) -> Result<HashedFile, DataError> {
        HashedFile::create(&self.dir.join(shard_name(name, shard)), self.options.beside)
    }

    /// Writes the label masks of all rows so far, whose tokens are all targets.
    fn begin_label_masks(&mut self) -> Result<(), DataError> {
        self.every_token_labelled = false;
        let row = vec![1; self.layout.sequence_length];
        for (shard, rows) in self.shards.iter().enumerate() {
            let mut file = self.new_file(LABEL_MASK, shard)?;
            (0..*rows).try_for_each(|_| file.write(&row))?;
            // The last one goes on.
            if shard + 1 < self.shards.len() {
                self.blake3.insert(shard_name(LABEL_MASK, shard), file.finish()?);
            } else {
                self.label_mask = Some(file);
            }
        }
        Ok(())
    }

    fn close_file(&mut self) -> Result<(), DataError> {
        let Some(shard) = self.shards.len().checked_sub(1) else { return Ok(()) };
        if let Some(file) = self.input_ids.take() {
            self.blake3.insert(shard_name(INPUT_IDS, shard), file.finish()?);
        }
        if let Some(file) = self.label_mask.take() {
            self.blake3.insert(shard_name(LABEL_MASK, shard), file.finish()?);
        }
        Ok(())
    }

    /// Completes the files. Drops a partial row, with the boundaries in it.
    pub fn finish(mut self, mut dropped: u64, mut truncated: u64) -> Result<Manifest, DataError> {
        if self.shards.is_empty() {
            // Without a row, there is an empty file.
            self.input_ids = Some(self.new_file(INPUT_IDS, 0)?);
            self.shards.push(0);
        }
        self.close_file()?;
        let kept = self.boundaries.partition_point(|start| *start < self.written);
        dropped += (self.boundaries.len() - kept) as u64;
        // A tail that does not start with a document truncates the document before it.
        if !self.row_ids.is_empty() && kept > 0 && self.boundaries.get(kept) != Some(&self.written) {
            truncated += 1;
        }
        self.boundaries.truncate(kept);
        let mut boundaries = HashedFile::create(&self.dir.join(BOUNDARIES), false)?;
        for start in &self.boundaries {
            boundaries.write(&start.to_le_bytes())?;
        }
        self.blake3.insert(BOUNDARIES.to_owned(), boundaries.finish()?);
        if self.options.csv_boundaries {
            let path = self.dir.join(CSV_BOUNDARIES);
            boundaries_csv::write(&path, &self.boundaries, self.written)?;
            let (digest, _) = Digest::of_file(&path).context(&path)?;
            self.blake3.insert(CSV_BOUNDARIES.to_owned(), digest);
        }
        let sequence_length = self.layout.sequence_length as u64;
        let manifest = Manifest {
            format: json_file::FORMAT,
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
            filtered: self.filtered,
            shards: if self.shards.len() > 1 { self.shards } else { Vec::new() },
            remote: Vec::new(),
            blake3: self.blake3,
        };
        manifest.write(&self.dir)?;
        Ok(manifest)
    }
}

impl Manifest {
    /// The manifest of rows whose ids stay in `files` on a server. Only the whole rows of each file
    /// are used.
    pub fn of_remote(layout: &Layout, dtype: Dtype, files: Vec<RemoteFile>) -> Self {
        let sequence_length = layout.sequence_length as u64;
        let rows: Vec<u64> = files.iter().map(|file| file.size / (sequence_length * dtype.bytes() as u64)).collect();
        let instances = rows.iter().sum::<u64>();
        Self {
            format: json_file::FORMAT,
            dtype,
            count: instances * sequence_length,
            sequence_length,
            instances,
            labels: instances * (sequence_length - 1),
            vocab_size: layout.vocab_size,
            tokenizer: layout.tokenizer,
            eos_token_id: layout.eos_token_id,
            pad_token_id: layout.pad_token_id,
            documents: instances,
            dropped: 0,
            truncated: 0,
            padding: 0,
            filtered: 0,
            shards: if rows.len() > 1 { rows } else { Vec::new() },
            remote: files,
            blake3: BTreeMap::new(),
        }
    }
}
