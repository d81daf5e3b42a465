//! Tokenized documents: `tokens.parquet` (`input_ids`, `label_runs`) and a `manifest.json`. Large
//! sets are split into several such files, `tokens-1.parquet` and so on after the first, each
//! complete in itself.
//!
//! `input_ids` has the bytes of each id, little-endian: two for a vocabulary of up to 65,536
//! tokens, otherwise three, or four beyond 2^24. `label_runs` has the lengths of runs of tokens, in turn of
//! such as are no targets and of targets; the first may be 0.
//!
//! Older files have lists of ids, and some of them one Boolean per token, `label_mask`. They stay
//! readable.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, LargeBinaryArray, ListArray, RecordBatch, UInt32Array};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use olmo_base::Digest;
use parquet::basic::Compression;
use parquet::file::properties::WriterPropertiesBuilder;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::documents::{Document, Documents};
use crate::formats::id_bytes::IdBytes;
use crate::formats::json_file;
use crate::formats::label_runs::{count_targets, mask_of};
use crate::formats::parquet_file::{Sink, Source, items_of};

const MANIFEST: &str = "manifest.json";

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
    let runs = Field::new("label_runs", list_of(DataType::UInt32), false);
    Schema::new(vec![Field::new("input_ids", DataType::LargeBinary, false), runs])
}

/// The columns of all files that can be read, the newest first.
fn schemas() -> [Schema; 3] {
    let list = |name: &str, item: DataType| Field::new(name, list_of(item), false);
    let ids = list("input_ids", DataType::UInt32);
    let [runs, mask] = [list("label_runs", DataType::UInt32), list("label_mask", DataType::Boolean)];
    [schema(), Schema::new(vec![ids.clone(), runs]), Schema::new(vec![ids, mask])]
}

/// Compressing ids takes longer than encoding text saves.
fn properties(builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    builder.set_column_compression(ColumnPath::from("input_ids"), Compression::UNCOMPRESSED)
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
        let source = Source::open(&dir.join(part_name(0)), &schemas())?;
        Ok(Self { dir: dir.to_owned(), manifest, part: 0, source, waiting: Vec::new().into_iter(), read: 0 })
    }

    pub fn manifest(&self) -> &TokensManifest {
        &self.manifest
    }

    fn documents(&self, batch: &RecordBatch) -> Result<Vec<Document>, DataError> {
        let (ids, labels) = (batch.column(0), batch.column(1).as_list::<i32>());
        let kind = IdBytes::for_vocabulary(self.manifest.vocab_size);
        let read_ids = |row: usize| match ids.data_type() {
            DataType::LargeBinary => kind.read(ids.as_binary::<i64>().value(row)),
            _ => {
                let ids = ids.as_list::<i32>();
                Some(ids.values().as_primitive::<UInt32Type>().values()[items_of(ids, row)].to_vec())
            }
        };
        let mask = labels.values().as_boolean_opt();
        let broken = |reason| DataError::broken(&self.dir.join(part_name(self.part)), reason);
        let read = |row: usize| {
            let input_ids = read_ids(row).ok_or_else(|| broken("the bytes of a document end within an id"))?;
            let labels_of_row = items_of(labels, row);
            let label_mask = match mask {
                Some(mask) => Some(labels_of_row.map(|token| mask.value(token)).collect()),
                None => mask_of(&labels.values().as_primitive::<UInt32Type>().values()[labels_of_row], input_ids.len()),
            };
            match label_mask.filter(|mask: &Vec<bool>| mask.len() == input_ids.len()) {
                Some(label_mask) => Ok(Document { input_ids, label_mask }),
                None => Err(broken("a document has different numbers of ids and labels")),
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
            self.source = Source::open(&next, &schemas())?;
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

/// Maximum number of bytes of ids to hand to Parquet at a time, unless one document has more.
const MOST_BYTES: usize = 64 << 20;

/// Writes one file of documents.
pub struct TokensWriter {
    sink: Sink,
    kind: IdBytes,
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
    /// Starts the file at `path`; in an artifact its name comes from [`part_name`]. All ids will be
    /// below `vocab_size`.
    pub fn create(path: &Path, vocab_size: u32) -> Result<Self, DataError> {
        let sink = Sink::with(path, schema(), properties)?;
        Ok(Self { sink, kind: IdBytes::for_vocabulary(vocab_size), counts: TokensCounts::default() })
    }

    /// Appends the documents of all `chunks`. The bytes of the file do not depend on how documents
    /// are spread over chunks.
    pub fn write(&mut self, chunks: &[Documents]) -> Result<(), DataError> {
        let documents: Vec<(&[u32], &[u32])> = chunks.iter().flat_map(Documents::iter).collect();
        let mut rest = documents.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = |(ids, _): &&(&[u32], &[u32])| {
                bytes += ids.len() * self.kind.count();
                bytes <= MOST_BYTES
            };
            let count = rest.iter().take_while(fit).count().max(1);
            let (now, later) = rest.split_at(count);
            self.write_some(now)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes documents, given by their ids and runs.
    fn write_some(&mut self, documents: &[(&[u32], &[u32])]) -> Result<(), DataError> {
        let tokens: usize = documents.iter().map(|(ids, _)| ids.len()).sum();
        let mut bytes = Vec::with_capacity(tokens * self.kind.count());
        let mut runs = Vec::with_capacity(documents.iter().map(|(_, runs)| runs.len()).sum());
        for (ids, of_this) in documents {
            self.kind.append(ids, &mut bytes);
            runs.extend_from_slice(of_this);
            self.counts.labels += count_targets(of_this);
        }
        self.counts.documents += documents.len() as u64;
        self.counts.tokens += tokens as u64;
        let ends = OffsetBuffer::from_lengths(documents.iter().map(|(ids, _)| ids.len() * self.kind.count()));
        let ids = LargeBinaryArray::new(ends, Buffer::from_vec(bytes), None);
        let ends = OffsetBuffer::from_lengths(documents.iter().map(|(_, runs)| runs.len()));
        let runs = ListArray::new(item(DataType::UInt32), ends, Arc::new(UInt32Array::from(runs)), None);
        let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(runs)];
        self.sink.write(columns)
    }

    /// Counts of what was written so far.
    pub fn counts(&self) -> TokensCounts {
        self.counts
    }

    /// Completes the file.
    pub fn close(self) -> Result<TokensCounts, DataError> {
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
    use crate::formats::label_runs::LabelRuns;

    fn write(path: &Path, vocab_size: u32, documents: &[Document]) -> TokensCounts {
        let mut writer = TokensWriter::create(path, vocab_size).unwrap();
        // In chunks of several sizes.
        for (i, some) in documents.chunks(700).enumerate() {
            let mut chunks = Vec::new();
            for some in some.chunks(i * 100 + 200) {
                let mut chunk = Documents::default();
                for one in some {
                    chunk.push(&one.input_ids, &LabelRuns::of(&one.label_mask));
                }
                chunks.push(chunk);
            }
            writer.write(&chunks).unwrap();
        }
        writer.close().unwrap()
    }

    fn document(n: u32) -> Document {
        let length = n % 7 + 1;
        Document {
            input_ids: (0..length).map(|i| n * 1000 + i).collect(),
            label_mask: (0..length).map(|i| i % 2 == 1).collect(),
        }
    }

    #[test]
    fn files_with_lists_of_ids_stay_readable() {
        let list = |values: ArrayRef, lengths: [usize; 2]| -> ArrayRef {
            let item = Arc::new(Field::new("item", values.data_type().clone(), false));
            Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), values, None))
        };
        let mask: ArrayRef = Arc::new(arrow::array::BooleanArray::from(vec![false, true, true]));
        let runs: ArrayRef = Arc::new(UInt32Array::from(vec![1, 1, 0, 1]));
        let [_, with_runs, with_mask] = schemas();
        for (schema, labels) in [(with_runs, list(runs, [2, 2])), (with_mask, list(mask, [2, 1]))] {
            let dir = tempfile::tempdir().unwrap();
            let mut sink = Sink::create(&dir.path().join(part_name(0)), schema).unwrap();
            sink.write(vec![list(Arc::new(UInt32Array::from(vec![5, 6, 7])), [2, 1]), labels]).unwrap();
            sink.close().unwrap();
            let counts = TokensCounts { documents: 2, tokens: 3, labels: 2 };
            finish(dir.path(), manifest(10), counts).unwrap();
            let read: Vec<Document> = TokensReader::open(dir.path()).unwrap().collect::<Result<_, _>>().unwrap();
            let document = |input_ids: &[u32], label_mask: &[bool]| Document {
                input_ids: input_ids.into(),
                label_mask: label_mask.into(),
            };
            assert_eq!(read, [document(&[5, 6], &[false, true]), document(&[7], &[true])]);
        }
    }

    #[test]
    fn bytes_that_end_within_an_id_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(part_name(0)), 10, &[document(1)]);
        finish(dir.path(), manifest(1 << 20), TokensCounts { documents: 1, tokens: 2, labels: 1 }).unwrap();
        let error = TokensReader::open(dir.path()).unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.ends_with("the bytes of a document end within an id"), "{error}");
    }

    fn manifest(vocab_size: u32) -> TokensManifest {
        TokensManifest {
            format: 1,
            tokenizer: Digest::of(b"tokenizer"),
            vocab_size,
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
            let documents: Vec<Document> = range.map(document).collect();
            counts += write(&dir.path().join(part_name(part)), 3_000_000, &documents);
        }
        let manifest = finish(dir.path(), manifest(3_000_000), counts).unwrap();
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
