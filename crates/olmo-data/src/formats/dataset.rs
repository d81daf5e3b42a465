//! Datasets: documents (`text`) or conversations (`messages`) in `data.parquet`, with a
//! `manifest.json` that records the kind and the number.
//!
//! Conversations may lack the columns `tools` and `documents`, and their messages `trained` and
//! `fields`: older datasets stay readable.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, ListArray, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conversation::{Conversation, Message};
use crate::error::DataError;
use crate::formats::json_file;
use crate::formats::parquet_file::{BATCH_ROWS, Sink, Source};

pub use crate::formats::rows::{ChatRows, Rows, TextRows};

const DATA: &str = "data.parquet";
const MANIFEST: &str = "manifest.json";

/// The content of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Documents: column `text`.
    Text,
    /// Conversations: columns `dataset`, `id`, `messages`, `tools`, `documents`.
    Messages,
}

impl Kind {
    /// The name for people.
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
    /// Number of documents or conversations in `data.parquet`.
    pub records: u64,
    /// Number of bad source lines that were skipped.
    pub skipped: u64,
}

/// The manifest of the dataset in folder `dir`.
pub fn manifest(dir: &Path) -> Result<DatasetManifest, DataError> {
    json_file::read(&dir.join(MANIFEST))
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

/// The documents of the dataset in folder `dir`, in order, about a thousand at a time.
pub fn text_rows(dir: &Path) -> Result<impl Iterator<Item = Result<TextRows, DataError>> + use<>, DataError> {
    Ok(open(dir, Kind::Text)?.map(|batch| Ok(TextRows::new(&batch?))))
}

/// The conversations of the dataset in folder `dir`, in order, about a thousand at a time.
pub fn chat_rows(dir: &Path) -> Result<impl Iterator<Item = Result<ChatRows, DataError>> + use<>, DataError> {
    let path = dir.join(DATA);
    Ok(open(dir, Kind::Messages)?.map(move |batch| ChatRows::new(&path, &batch?)))
}

/// Copies of the documents of the dataset in folder `dir`, in order, about a thousand at a time.
pub fn text_batches(dir: &Path) -> Result<impl Iterator<Item = Result<Vec<String>, DataError>> + use<>, DataError> {
    let texts = |rows: TextRows| (0..rows.count()).map(|row| rows.text(row).to_owned()).collect();
    Ok(text_rows(dir)?.map(move |rows| rows.map(texts)))
}

/// Copies of the conversations of the dataset in folder `dir`, in order, about a thousand at a time.
pub fn message_batches(
    dir: &Path,
) -> Result<impl Iterator<Item = Result<Vec<Conversation>, DataError>> + use<>, DataError> {
    let conversations = |rows: ChatRows| (0..rows.count()).map(|row| rows.conversation(row)).collect();
    Ok(chat_rows(dir)?.map(move |rows| rows.and_then(conversations)))
}

fn open(dir: &Path, expected: Kind) -> Result<Source, DataError> {
    let found = manifest(dir)?.kind;
    if found != expected {
        return Err(DataError::Kind { path: dir.join(DATA), expected: expected.as_str(), found: found.as_str() });
    }
    let schemas: &[Schema] = match expected {
        Kind::Text => &[text_schema()],
        Kind::Messages => &[messages_schema(), old_messages_schema()],
    };
    Source::open(&dir.join(DATA), schemas)
}

fn text_schema() -> Schema {
    Schema::new(vec![Field::new("text", DataType::Utf8, false)])
}

/// The fields of a message; `trained` and `fields` are null in most.
fn message_fields() -> Fields {
    Fields::from(vec![
        Field::new("role", DataType::Utf8, false),
        Field::new("content", DataType::Utf8, true),
        Field::new("trained", DataType::Boolean, true),
        // A JSON object.
        Field::new("fields", DataType::Utf8, true),
    ])
}

fn message_item(fields: Fields) -> Field {
    Field::new("item", DataType::Struct(fields), false)
}

/// The columns of conversations; `tools` and `documents` hold JSON.
fn messages_schema() -> Schema {
    Schema::new(vec![
        Field::new("dataset", DataType::Utf8, false),
        Field::new("id", DataType::Utf8, false),
        Field::new("messages", DataType::List(Arc::new(message_item(message_fields()))), false),
        Field::new("tools", DataType::Utf8, true),
        Field::new("documents", DataType::Utf8, true),
    ])
}

/// The columns of conversations when messages had only role and content.
fn old_messages_schema() -> Schema {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let item = message_item(Fields::from(vec![text("role"), text("content")]));
    Schema::new(vec![text("dataset"), text("id"), Field::new("messages", DataType::List(Arc::new(item)), false)])
}

/// Writes a dataset of one kind; [`DatasetWriter::finish`] completes it.
pub struct DatasetWriter<T> {
    dir: PathBuf,
    sink: Sink,
    waiting: Vec<T>,
    records: u64,
}

/// Record types of a [`DatasetWriter`]: `String` or [`Conversation`].
pub trait Record: Sized {
    const KIND: Kind;
    fn schema() -> Schema;
    /// The columns of these rows.
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;
}

impl Record for String {
    const KIND: Kind = Kind::Text;

    fn schema() -> Schema {
        text_schema()
    }

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![Arc::new(StringArray::from_iter_values(rows))]
    }
}

impl Record for Conversation {
    const KIND: Kind = Kind::Messages;

    fn schema() -> Schema {
        messages_schema()
    }

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        let turns: Vec<&Message> = rows.iter().flat_map(|row| &row.messages).collect();
        // An object without keys is written as null.
        let fields = |turn: &&Message| {
            (!turn.fields.is_empty()).then(|| serde_json::to_string(&turn.fields).expect("JSON can be written"))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(turns.iter().map(|turn| turn.role.as_str()))),
            Arc::new(turns.iter().map(|turn| turn.content.as_deref()).collect::<StringArray>()),
            Arc::new(turns.iter().map(|turn| turn.trained).collect::<BooleanArray>()),
            Arc::new(turns.iter().map(fields).collect::<StringArray>()),
        ];
        let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.messages.len()));
        let messages = StructArray::new(message_fields(), columns, None);
        let messages = ListArray::new(Arc::new(message_item(message_fields())), offsets, Arc::new(messages), None);
        let json = |value: &Option<Value>| value.as_ref().map(Value::to_string);
        vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.dataset))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.id))),
            Arc::new(messages),
            Arc::new(rows.iter().map(|row| json(&row.tools)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| json(&row.documents)).collect::<StringArray>()),
        ]
    }
}

impl<T: Record> DatasetWriter<T> {
    /// Starts the dataset in folder `dir`.
    pub fn create(dir: &Path) -> Result<Self, DataError> {
        let sink = Sink::create(&dir.join(DATA), T::schema())?;
        Ok(Self { dir: dir.to_owned(), sink, waiting: Vec::with_capacity(BATCH_ROWS), records: 0 })
    }

    /// Compresses and writes in a thread of its own from now on. The bytes are the same.
    pub fn beside(self) -> Result<Self, DataError> {
        Ok(Self { sink: self.sink.beside()?, ..self })
    }

    pub fn push(&mut self, record: T) -> Result<(), DataError> {
        self.waiting.push(record);
        self.records += 1;
        if self.waiting.len() == BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Number of records pushed so far.
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

    /// Completes the files; `skipped` is the number of skipped source lines.
    pub fn finish(mut self, skipped: u64) -> Result<DatasetManifest, DataError> {
        self.flush()?;
        self.sink.close()?;
        let manifest = DatasetManifest { format: json_file::FORMAT, kind: T::KIND, records: self.records, skipped };
        json_file::write(&self.dir.join(MANIFEST), &manifest)?;
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::conversation::Role;

    fn conversation(n: usize) -> Conversation {
        let turns = (0..n % 4 + 1).map(|turn| Message::new(Role::ALL[turn], format!("turn {turn} 🦀 {n}")));
        Conversation {
            dataset: format!("part{}", n % 3),
            id: format!("id{n}"),
            messages: turns.collect(),
            ..Conversation::default()
        }
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
    fn a_thread_of_its_own_writes_the_same_bytes_and_says_why_it_cannot() {
        let (here, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(here.path(), (0..20_000).map(conversation));
        let mut writer = DatasetWriter::create(beside.path()).unwrap().beside().unwrap();
        (0..20_000).for_each(|n| writer.push(conversation(n)).unwrap());
        writer.finish(2).unwrap();
        for name in [DATA, MANIFEST] {
            let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(name)).unwrap();
            assert_eq!(read(&here), read(&beside), "{name}");
        }
        #[cfg(target_os = "linux")]
        {
            let schema = text_schema();
            let mut sink = Sink::create(Path::new("/dev/full"), schema).unwrap().beside().unwrap();
            let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..1024).map(|n| "text ".repeat(100 + n))));
            let failed = (0..1000).find_map(|_| sink.write(vec![text.clone()]).err());
            let failed = failed.or_else(|| sink.close().err()).unwrap().to_string();
            assert!(failed.contains("/dev/full") && failed.contains("No space left"), "{failed}");
        }
    }

    #[test]
    fn what_messages_hold_in_addition_comes_back_in_its_order() {
        let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let fields = r#"{"z":1.0,"tool_calls":[{"name":"f","arguments":{"b":1,"a":null}}],"a":"é"}"#;
        let call = Message { content: None, trained: Some(false), fields: object(fields), role: Role::Assistant };
        let answer = Message { trained: Some(true), ..Message::new(Role::Tool, "") };
        let tools = r#"[{"name":"f","description":"","parameters":{"y":{},"x":{}}}]"#;
        let chat = Conversation {
            messages: vec![Message::new(Role::User, "Hi"), call, answer],
            tools: Some(serde_json::from_str(tools).unwrap()),
            documents: Some(Value::Array(vec![])),
            ..Conversation::default()
        };
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), [chat.clone(), conversation(3)]);
        let read = read_messages(dir.path()).unwrap();
        assert_eq!(read, [chat, conversation(3)]);
        // Equality of maps ignores the order.
        assert_eq!(Value::Object(read[0].messages[1].fields.clone()).to_string(), fields);
        assert_eq!(read[0].tools.as_ref().unwrap().to_string(), tools);
    }

    #[test]
    fn datasets_of_role_and_content_alone_stay_readable() {
        let dir = tempfile::tempdir().unwrap();
        let schema = old_messages_schema();
        let text = |texts: &[&str]| -> ArrayRef { Arc::new(StringArray::from_iter_values(texts)) };
        let DataType::List(item) = schema.field(2).data_type().clone() else { unreachable!() };
        let DataType::Struct(fields) = item.data_type().clone() else { unreachable!() };
        let turns = StructArray::new(fields, vec![text(&["user", "assistant"]), text(&["Hi", "Hello"])], None);
        let messages = ListArray::new(item, OffsetBuffer::from_lengths([2]), Arc::new(turns), None);
        let mut sink = Sink::create(&dir.path().join(DATA), schema).unwrap();
        sink.write(vec![text(&["d"]), text(&["7"]), Arc::new(messages)]).unwrap();
        sink.close().unwrap();
        let manifest = DatasetManifest { format: json_file::FORMAT, kind: Kind::Messages, records: 1, skipped: 0 };
        json_file::write(&dir.path().join(MANIFEST), &manifest).unwrap();
        let messages = vec![Message::new(Role::User, "Hi"), Message::new(Role::Assistant, "Hello")];
        let expected = Conversation { dataset: "d".into(), id: "7".into(), messages, ..Conversation::default() };
        assert_eq!(read_messages(dir.path()).unwrap(), [expected]);
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
        assert!(error.to_string().contains("contains text documents, but conversations are expected"), "{error}");
    }

    #[test]
    fn a_manifest_of_another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ["One.".to_owned()]);
        let path = dir.path().join(MANIFEST);
        let text = std::fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 2");
        std::fs::write(&path, text).unwrap();
        assert!(read_text(dir.path()).unwrap_err().to_string().contains("has format 2, but this build reads format 1"));
    }
}
