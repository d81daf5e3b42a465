//! Tokenized documents: `tokens.parquet` (`input_ids`, `label_runs`) and a `manifest.json`. Large
//! sets are split into several such files, `tokens-1.parquet` and so on after the first, each
//! complete in itself.
//!
//! `label_runs` has the lengths of runs of tokens, in turn of such as are no targets and of targets;
//! the first may be 0. Older files have one Boolean per token, `label_mask`, and stay readable.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, ListArray, RecordBatch, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use olmo_base::Digest;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::json_file;
use crate::formats::parquet_file::{BATCH_ROWS, Sink, Source, items_of};

const MANIFEST: &str = "manifest.json";

/// A document's ids. `label_mask[i]` is true if token `i` is a target. Both have the same length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub input_ids: Vec<u32>,
    pub label_mask: Vec<bool>,
}

impl Document {
    /// Drops the tokens after the first `length`; returns their number.
    pub fn truncate(&mut self, length: usize) -> usize {
        let over = self.input_ids.len().saturating_sub(length);
        self.input_ids.truncate(length);
        self.label_mask.truncate(length);
        over
    }

    /// Number of trainable targets: the first token has no context to be predicted from.
    pub fn labels(&self) -> usize {
        self.label_mask.iter().skip(1).filter(|label| **label).count()
    }
}

/// `manifest.json` of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensManifest {
    pub format: u32,
    /// Digest of the `tokenizer.json` that produced the ids.
    pub tokenizer: Digest,
    /// All ids are below this; includes added tokens.
    pub vocab_size: u32,
    pub eos_token_id: u32,
    pub pad_token_id: u32,
    /// `tulu`, `plain`, …
    pub template: String,
    /// Number of documents in `tokens.parquet`.
    pub documents: u64,
    /// Number of documents dropped because nothing in them could be trained.
    pub dropped: u64,
    /// Number of documents truncated at `max_length`.
    pub truncated: u64,
    pub tokens: u64,
    /// Number of tokens that are targets.
    pub labels: u64,
    pub max_length: u64,
}

/// The name of file `part`, counted from 0.
pub fn part_name(part: usize) -> String {
    if part == 0 { "tokens.parquet".into() } else { format!("tokens-{part}.parquet") }
}

fn item(kind: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", kind, false))
}

fn list_of(kind: DataType) -> DataType {
    DataType::List(item(kind))
}

fn schema() -> Schema {
    let list = |name: &str| Field::new(name, list_of(DataType::UInt32), false);
    Schema::new(vec![list("input_ids"), list("label_runs")])
}

/// The columns of older files.
fn old_schema() -> Schema {
    let list = |name: &str, item: DataType| Field::new(name, list_of(item), false);
    Schema::new(vec![list("input_ids", DataType::UInt32), list("label_mask", DataType::Boolean)])
}

/// Ids are packed by the widths of their differences: quicker than a dictionary, and about as small.
/// Nobody looks for a range of ids, so there are no statistics.
fn properties(builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    let ids = ColumnPath::new(["input_ids", "list", "item"].map(str::to_owned).to_vec());
    builder
        .set_column_dictionary_enabled(ids.clone(), false)
        .set_column_encoding(ids.clone(), Encoding::DELTA_BINARY_PACKED)
        .set_column_compression(ids, Compression::UNCOMPRESSED)
        .set_statistics_enabled(EnabledStatistics::None)
}

/// Reads tokens; iterates over the documents in order.
pub struct TokensReader {
    dir: PathBuf,
    manifest: TokensManifest,
    part: usize,
    source: Source,
    waiting: std::vec::IntoIter<Document>,
    read: u64,
}

impl TokensReader {
    /// Opens the tokens in folder `dir`.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let manifest = json_file::read(&dir.join(MANIFEST))?;
        let source = Source::open(&dir.join(part_name(0)), &[schema(), old_schema()])?;
        Ok(Self { dir: dir.to_owned(), manifest, part: 0, source, waiting: Vec::new().into_iter(), read: 0 })
    }

    pub fn manifest(&self) -> &TokensManifest {
        &self.manifest
    }

    fn documents(&self, batch: &RecordBatch) -> Result<Vec<Document>, DataError> {
        let (ids, labels) = (batch.column(0).as_list::<i32>(), batch.column(1).as_list::<i32>());
        let all_ids = ids.values().as_primitive::<UInt32Type>().values();
        let mask = labels.values().as_boolean_opt();
        let read = |row: usize| {
            let input_ids = all_ids[items_of(ids, row)].to_vec();
            let labels_of_row = items_of(labels, row);
            let label_mask = match mask {
                Some(mask) => Some(labels_of_row.map(|token| mask.value(token)).collect()),
                None => mask_of(&labels.values().as_primitive::<UInt32Type>().values()[labels_of_row], input_ids.len()),
            };
            match label_mask.filter(|mask: &Vec<bool>| mask.len() == input_ids.len()) {
                Some(label_mask) => Ok(Document { input_ids, label_mask }),
                None => {
                    let path = self.dir.join(part_name(self.part));
                    Err(DataError::broken(&path, "a document has different numbers of ids and labels"))
                }
            }
        };
        (0..batch.num_rows()).map(read).collect()
    }

    /// The next batch, moving on to the next file as needed; `None` after the last.
    fn batch(&mut self) -> Result<Option<Vec<Document>>, DataError> {
        loop {
            if let Some(batch) = self.source.next() {
                return self.documents(&batch?).map(Some);
            }
            if self.read == self.manifest.documents {
                return Ok(None);
            }
            let next = self.dir.join(part_name(self.part + 1));
            if self.read > self.manifest.documents || !next.exists() {
                let reason = format!("has {} documents, but its manifest says {}", self.read, self.manifest.documents);
                return Err(DataError::broken(&self.dir.join(part_name(self.part)), reason));
            }
            self.source = Source::open(&next, &[schema(), old_schema()])?;
            self.part += 1;
        }
    }

    /// The documents in order, about a thousand at a time.
    pub fn batches(mut self) -> impl Iterator<Item = Result<Vec<Document>, DataError>> {
        std::iter::from_fn(move || self.next_batch())
    }

    fn next_batch(&mut self) -> Option<Result<Vec<Document>, DataError>> {
        let batch = self.batch().transpose()?;
        self.read = match &batch {
            Ok(documents) => self.read + documents.len() as u64,
            // Nothing more can be read.
            Err(_) => self.manifest.documents,
        };
        Some(batch)
    }
}

impl Iterator for TokensReader {
    type Item = Result<Document, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(document) = self.waiting.next() {
                return Some(Ok(document));
            }
            match self.next_batch()? {
                Ok(documents) => self.waiting = documents.into_iter(),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// Appends the lengths of the runs of equal labels in `mask`, in turn of false and true.
fn append_runs(mask: &[bool], runs: &mut Vec<u32>) {
    let (mut rest, mut label) = (mask, false);
    while !rest.is_empty() {
        let run = rest.iter().position(|other| *other != label).unwrap_or(rest.len());
        runs.push(run as u32);
        (rest, label) = (&rest[run..], !label);
    }
}

/// The labels with these runs; `None` if they are more than `most`.
fn mask_of(runs: &[u32], most: usize) -> Option<Vec<bool>> {
    let mut mask = Vec::with_capacity(most);
    for (i, run) in runs.iter().enumerate() {
        let end = mask.len().checked_add(*run as usize).filter(|end| *end <= most)?;
        mask.resize(end, i % 2 == 1);
    }
    Some(mask)
}

/// Writes one file of documents.
pub struct TokensWriter {
    sink: Sink,
    waiting: Vec<Document>,
    counts: TokensCounts,
}

/// The contents of a file of documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensCounts {
    pub documents: u64,
    pub tokens: u64,
    /// Number of tokens that are targets.
    pub labels: u64,
}

impl TokensWriter {
    /// Starts the file at `path`; in an artifact its name comes from [`part_name`].
    pub fn create(path: &Path) -> Result<Self, DataError> {
        Ok(Self { sink: Sink::with(path, schema(), properties)?, waiting: Vec::new(), counts: TokensCounts::default() })
    }

    pub fn push(&mut self, document: Document) -> Result<(), DataError> {
        self.counts.documents += 1;
        self.counts.tokens += document.input_ids.len() as u64;
        self.counts.labels += document.labels() as u64;
        self.waiting.push(document);
        if self.waiting.len() == BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Counts of what was pushed so far.
    pub fn counts(&self) -> TokensCounts {
        self.counts
    }

    fn flush(&mut self) -> Result<(), DataError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut ids = Vec::with_capacity(self.waiting.iter().map(|document| document.input_ids.len()).sum());
        let (mut runs, mut counts) = (Vec::new(), Vec::with_capacity(self.waiting.len()));
        for document in &self.waiting {
            ids.extend_from_slice(&document.input_ids);
            let before = runs.len();
            append_runs(&document.label_mask, &mut runs);
            counts.push(runs.len() - before);
        }
        let list = |lengths: OffsetBuffer<i32>, values: Vec<u32>| -> ArrayRef {
            Arc::new(ListArray::new(item(DataType::UInt32), lengths, Arc::new(UInt32Array::from(values)), None))
        };
        let lengths = self.waiting.iter().map(|document| document.input_ids.len());
        let columns =
            vec![list(OffsetBuffer::from_lengths(lengths), ids), list(OffsetBuffer::from_lengths(counts), runs)];
        self.sink.write(columns)?;
        self.waiting.clear();
        Ok(())
    }

    /// Completes the file.
    pub fn close(mut self) -> Result<TokensCounts, DataError> {
        self.flush()?;
        self.sink.close()?;
        Ok(self.counts)
    }
}

/// Writes the manifest to folder `dir` as the last step, which completes the tokens. The counts are
/// for all files together.
pub fn finish(dir: &Path, mut manifest: TokensManifest, counts: TokensCounts) -> Result<TokensManifest, DataError> {
    manifest.format = json_file::FORMAT;
    (manifest.documents, manifest.tokens, manifest.labels) = (counts.documents, counts.tokens, counts.labels);
    json_file::write(&dir.join(MANIFEST), &manifest)?;
    Ok(manifest)
}

impl std::ops::AddAssign for TokensCounts {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.labels += other.labels;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(n: u32) -> Document {
        let length = n % 7 + 1;
        Document {
            input_ids: (0..length).map(|i| n * 1000 + i).collect(),
            label_mask: (0..length).map(|i| i % 2 == 1).collect(),
        }
    }

    #[test]
    fn labels_come_back_from_their_runs() {
        for (mask, runs) in
            [(vec![], vec![]), (vec![true], vec![0, 1]), (vec![false, true, true, false], vec![1, 2, 1])]
        {
            let mut written = Vec::new();
            append_runs(&mask, &mut written);
            assert_eq!(written, runs);
            assert_eq!(mask_of(&runs, mask.len()), Some(mask));
        }
        assert_eq!(mask_of(&[1, u32::MAX], 8), None);
    }

    #[test]
    fn files_with_a_boolean_per_token_stay_readable() {
        let dir = tempfile::tempdir().unwrap();
        let list = |values: ArrayRef| -> ArrayRef {
            let item = Arc::new(Field::new("item", values.data_type().clone(), false));
            Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([2, 1]), values, None))
        };
        let mut sink = Sink::create(&dir.path().join(part_name(0)), old_schema()).unwrap();
        let labels = arrow::array::BooleanArray::from(vec![false, true, true]);
        sink.write(vec![list(Arc::new(UInt32Array::from(vec![5, 6, 7]))), list(Arc::new(labels))]).unwrap();
        sink.close().unwrap();
        let counts = TokensCounts { documents: 2, tokens: 3, labels: 2 };
        finish(dir.path(), manifest(), counts).unwrap();
        let read: Vec<Document> = TokensReader::open(dir.path()).unwrap().collect::<Result<_, _>>().unwrap();
        let document = |input_ids: &[u32], label_mask: &[bool]| Document {
            input_ids: input_ids.into(),
            label_mask: label_mask.into(),
        };
        assert_eq!(read, [document(&[5, 6], &[false, true]), document(&[7], &[true])]);
    }

    fn manifest() -> TokensManifest {
        TokensManifest {
            format: 1,
            tokenizer: Digest::of(b"tokenizer"),
            vocab_size: 3_000_000,
            eos_token_id: 0,
            pad_token_id: 1,
            template: "tulu".into(),
            documents: 0,
            dropped: 3,
            truncated: 0,
            tokens: 0,
            labels: 0,
            max_length: 8,
        }
    }

    #[test]
    fn documents_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut counts = TokensCounts::default();
        // The second of three files is empty.
        for (part, range) in [0..1500, 1500..1500, 1500..2500].into_iter().enumerate() {
            let mut writer = TokensWriter::create(&dir.path().join(part_name(part))).unwrap();
            range.for_each(|n| writer.push(document(n)).unwrap());
            counts += writer.close().unwrap();
        }
        let manifest = finish(dir.path(), manifest(), counts).unwrap();
        let reader = TokensReader::open(dir.path()).unwrap();
        assert_eq!(reader.manifest(), &manifest);
        let documents: Vec<Document> = reader.collect::<Result<_, _>>().unwrap();
        assert_eq!(documents, (0..2500).map(document).collect::<Vec<_>>());
        assert_eq!(manifest.tokens, documents.iter().map(|d| d.input_ids.len() as u64).sum::<u64>());
        assert_eq!(manifest.labels, documents.iter().map(|d| d.labels() as u64).sum::<u64>());
        std::fs::remove_file(dir.path().join(part_name(2))).unwrap();
        let error = TokensReader::open(dir.path()).unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.ends_with("has 1500 documents, but its manifest says 2500"), "{error}");
    }
}
