//! Datasets: documents (`text`) or conversations (`messages`) in `data.parquet`, with a
//! `manifest.json` that says which and how many.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::json;
use crate::parquet_file::{BATCH_ROWS, Sink, Source};
use crate::template::{Message, Role};

const DATA: &str = "data.parquet";
const MANIFEST: &str = "manifest.json";

/// What a dataset holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Documents: column `text`.
    Text,
    /// Conversations: columns `dataset`, `id`, `messages`.
    Messages,
}

impl Kind {
    /// What a person calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text documents",
            Self::Messages => "conversations",
        }
    }
}

/// `manifest.json` of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    pub format: u32,
    pub kind: Kind,
    /// Documents or conversations in `data.parquet`.
    pub records: u64,
    /// Bad source lines that were left out.
    pub skipped: u64,
}

/// A conversation and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The source's name for the part it belongs to, in evaluations the family.
    pub dataset: String,
    pub id: String,
    pub messages: Vec<Message>,
}

/// The manifest of the dataset in folder `dir`.
pub fn manifest(dir: &Path) -> Result<DatasetManifest, DataError> {
    json::read(&dir.join(MANIFEST))
}

/// All documents of the dataset in folder `dir`.
pub fn read_text(dir: &Path) -> Result<Vec<String>, DataError> {
    let mut all = Vec::new();
    for batch in text_batches(dir)? {
        all.append(&mut batch?);
    }
    Ok(all)
}

/// All conversations of the dataset in folder `dir`.
pub fn read_messages(dir: &Path) -> Result<Vec<Conversation>, DataError> {
    let mut all = Vec::new();
    for batch in message_batches(dir)? {
        all.append(&mut batch?);
    }
    Ok(all)
}

/// The documents of the dataset in folder `dir`, about a thousand at a time, in order.
pub fn text_batches(dir: &Path) -> Result<impl Iterator<Item = Result<Vec<String>, DataError>> + use<>, DataError> {
    let source = open(dir, Kind::Text)?;
    Ok(source.map(|batch| batch.map(|batch| strings(batch.column(0)))))
}

/// The conversations of the dataset in folder `dir`, about a thousand at a time, in order.
pub fn message_batches(
    dir: &Path,
) -> Result<impl Iterator<Item = Result<Vec<Conversation>, DataError>> + use<>, DataError> {
    let path = dir.join(DATA);
    let source = open(dir, Kind::Messages)?;
    Ok(source.map(move |batch| conversations(&path, &batch?)))
}

fn open(dir: &Path, expected: Kind) -> Result<Source, DataError> {
    let found = manifest(dir)?.kind;
    if found != expected {
        return Err(DataError::Kind { path: dir.join(DATA), expected: expected.as_str(), found: found.as_str() });
    }
    Source::open(&dir.join(DATA), &schema(expected))
}

fn message_fields() -> Fields {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Fields::from(vec![text("role"), text("content")])
}

fn schema(kind: Kind) -> Schema {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    match kind {
        Kind::Text => Schema::new(vec![text("text")]),
        Kind::Messages => {
            let item = Field::new("item", DataType::Struct(message_fields()), false);
            let messages = Field::new("messages", DataType::List(Arc::new(item)), false);
            Schema::new(vec![text("dataset"), text("id"), messages])
        }
    }
}

/// A column whose type [`Source::open`] has checked.
fn strings(column: &ArrayRef) -> Vec<String> {
    let column = column.as_string::<i32>();
    (0..column.len()).map(|row| column.value(row).to_owned()).collect()
}

fn conversations(path: &Path, batch: &RecordBatch) -> Result<Vec<Conversation>, DataError> {
    let lists = batch.column(2).as_list::<i32>();
    let records = strings(batch.column(0)).into_iter().zip(strings(batch.column(1))).enumerate();
    let read = |(row, (dataset, id)): (usize, (String, String))| {
        let turns = lists.value(row);
        let turns = turns.as_struct();
        let roles = strings(turns.column(0));
        let contents = strings(turns.column(1));
        let messages = roles.into_iter().zip(contents).map(|(role, content)| {
            let role: Role = role.parse().map_err(|e| DataError::broken(path, format!("conversation {id}: {e}")))?;
            Ok(Message { role, content })
        });
        Ok(Conversation { dataset, messages: messages.collect::<Result<_, DataError>>()?, id })
    };
    records.map(read).collect()
}

/// Writes a dataset of one kind; [`DatasetWriter::finish`] makes it complete.
pub struct DatasetWriter<T> {
    dir: PathBuf,
    sink: Sink,
    waiting: Vec<T>,
    records: u64,
}

/// What a [`DatasetWriter`] writes: `String` or [`Conversation`].
pub trait Record: Sized {
    const KIND: Kind;
    /// The columns of these rows.
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;
}

impl Record for String {
    const KIND: Kind = Kind::Text;

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![Arc::new(StringArray::from_iter_values(rows))]
    }
}

impl Record for Conversation {
    const KIND: Kind = Kind::Messages;

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        let turns: Vec<&Message> = rows.iter().flat_map(|row| &row.messages).collect();
        let turns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(turns.iter().map(|turn| turn.role.as_str()))),
            Arc::new(StringArray::from_iter_values(turns.iter().map(|turn| &turn.content))),
        ];
        let fields = message_fields();
        let item = Arc::new(Field::new("item", DataType::Struct(fields.clone()), false));
        let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.messages.len()));
        let messages = ListArray::new(item, offsets, Arc::new(StructArray::new(fields, turns, None)), None);
        vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.dataset))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.id))),
            Arc::new(messages),
        ]
    }
}

impl<T: Record> DatasetWriter<T> {
    /// Starts the dataset in folder `dir`.
    pub fn create(dir: &Path) -> Result<Self, DataError> {
        let sink = Sink::create(&dir.join(DATA), schema(T::KIND))?;
        Ok(Self { dir: dir.to_owned(), sink, waiting: Vec::with_capacity(BATCH_ROWS), records: 0 })
    }

    pub fn push(&mut self, record: T) -> Result<(), DataError> {
        self.waiting.push(record);
        self.records += 1;
        if self.waiting.len() == BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Records pushed so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn flush(&mut self) -> Result<(), DataError> {
        if !self.waiting.is_empty() {
            self.sink.write(T::columns(&self.waiting))?;
            self.waiting.clear();
        }
        Ok(())
    }

    /// Completes the files; `skipped` counts the source lines that were left out.
    pub fn finish(mut self, skipped: u64) -> Result<DatasetManifest, DataError> {
        self.flush()?;
        self.sink.close()?;
        let manifest = DatasetManifest { format: json::FORMAT, kind: T::KIND, records: self.records, skipped };
        json::write(&self.dir.join(MANIFEST), &manifest)?;
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(n: usize) -> Conversation {
        let turns = (0..n % 4 + 1).map(|turn| Message::new(Role::ALL[turn % 3], format!("turn {turn} 🦀 {n}")));
        Conversation { dataset: format!("part{}", n % 3), id: format!("id{n}"), messages: turns.collect() }
    }

    fn write<T: Record>(dir: &Path, records: impl IntoIterator<Item = T>) {
        let mut writer = DatasetWriter::create(dir).unwrap();
        records.into_iter().for_each(|record| writer.push(record).unwrap());
        writer.finish(2).unwrap();
    }

    #[test]
    fn conversations_come_back_as_they_were_written_and_the_bytes_are_the_same_each_time() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&a, &b] {
            write(dir.path(), (0..3000).map(conversation));
        }
        assert_eq!(read_messages(a.path()).unwrap(), (0..3000).map(conversation).collect::<Vec<_>>());
        assert_eq!(manifest(a.path()).unwrap().records, 3000);
        assert_eq!(manifest(a.path()).unwrap().skipped, 2);
        for name in [DATA, MANIFEST] {
            assert_eq!(std::fs::read(a.path().join(name)).unwrap(), std::fs::read(b.path().join(name)).unwrap());
        }
    }

    #[test]
    fn documents_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let documents: Vec<String> = (0..2500).map(|n| format!("Document {n}\nwith a second line, é")).collect();
        write(dir.path(), documents.clone());
        assert_eq!(read_text(dir.path()).unwrap(), documents);
    }

    #[test]
    fn documents_are_not_read_as_conversations() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ["One.".to_owned()]);
        let error = read_messages(dir.path()).unwrap_err();
        assert!(error.to_string().contains("holds text documents, but conversations are wanted"), "{error}");
    }

    #[test]
    fn a_manifest_of_another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ["One.".to_owned()]);
        let path = dir.path().join(MANIFEST);
        let text = std::fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 2");
        std::fs::write(&path, text).unwrap();
        assert!(read_text(dir.path()).unwrap_err().to_string().contains("has format 2, this build reads format 1"));
    }
}
