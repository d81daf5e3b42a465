//! Tokenized documents: `tokens.parquet` (`input_ids`, `label_mask`) and a `manifest.json`. Large
//! sets are split into several such files, `tokens-1.parquet` and so on after the first, each
//! complete in itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, ListArray, RecordBatch, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use olmo_base::Digest;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::json_file;
use crate::formats::parquet_file::{BATCH_ROWS, Sink, Source};

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

fn schema() -> Schema {
    let list =
        |name: &str, item: DataType| Field::new(name, DataType::List(Arc::new(Field::new("item", item, false))), false);
    Schema::new(vec![list("input_ids", DataType::UInt32), list("label_mask", DataType::Boolean)])
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
        let source = Source::open(&dir.join(part_name(0)), &[schema()])?;
        Ok(Self { dir: dir.to_owned(), manifest, part: 0, source, waiting: Vec::new().into_iter(), read: 0 })
    }

    pub fn manifest(&self) -> &TokensManifest {
        &self.manifest
    }

    fn documents(&self, batch: &RecordBatch) -> Result<Vec<Document>, DataError> {
        let (ids, masks) = (batch.column(0).as_list::<i32>(), batch.column(1).as_list::<i32>());
        let read = |row: usize| {
            let input_ids = ids.value(row).as_primitive::<UInt32Type>().values().to_vec();
            let label_mask: Vec<bool> = masks.value(row).as_boolean().values().iter().collect();
            if input_ids.len() != label_mask.len() {
                let path = self.dir.join(part_name(self.part));
                return Err(DataError::broken(&path, "a document has different numbers of ids and labels"));
            }
            Ok(Document { input_ids, label_mask })
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
            self.source = Source::open(&next, &[schema()])?;
            self.part += 1;
        }
    }
}

impl Iterator for TokensReader {
    type Item = Result<Document, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(document) = self.waiting.next() {
                return Some(Ok(document));
            }
            match self.batch() {
                Ok(Some(documents)) => {
                    self.read += documents.len() as u64;
                    self.waiting = documents.into_iter();
                }
                Ok(None) => return None,
                Err(e) => {
                    // Nothing more can be read.
                    self.read = self.manifest.documents;
                    return Some(Err(e));
                }
            }
        }
    }
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
        Ok(Self { sink: Sink::create(path, schema())?, waiting: Vec::new(), counts: TokensCounts::default() })
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
        let offsets = OffsetBuffer::from_lengths(self.waiting.iter().map(|document| document.input_ids.len()));
        let ids: Vec<u32> = self.waiting.iter().flat_map(|d| d.input_ids.iter().copied()).collect();
        let labels: Vec<bool> = self.waiting.iter().flat_map(|d| d.label_mask.iter().copied()).collect();
        let list = |item: DataType, values: ArrayRef| -> ArrayRef {
            Arc::new(ListArray::new(Arc::new(Field::new("item", item, false)), offsets.clone(), values, None))
        };
        self.sink.write(vec![
            list(DataType::UInt32, Arc::new(UInt32Array::from(ids))),
            list(DataType::Boolean, Arc::new(BooleanArray::from(labels))),
        ])?;
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
    fn documents_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut counts = TokensCounts::default();
        // The second of three files is empty.
        for (part, range) in [0..1500, 1500..1500, 1500..2500].into_iter().enumerate() {
            let mut writer = TokensWriter::create(&dir.path().join(part_name(part))).unwrap();
            range.for_each(|n| writer.push(document(n)).unwrap());
            counts += writer.close().unwrap();
        }
        let manifest = TokensManifest {
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
        };
        let manifest = finish(dir.path(), manifest, counts).unwrap();
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
