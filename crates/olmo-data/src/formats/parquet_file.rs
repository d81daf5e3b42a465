//! Parquet files whose bytes depend only on their rows: `created_by`, compression, row groups and
//! batches are fixed.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use arrow::array::{ListArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use olmo_base::{IoContext as _, WritebackFile};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;

use crate::error::DataError;

/// Number of rows that writers collect before appending, and that readers return at a time.
pub(super) const BATCH_ROWS: usize = 1024;
const ROW_GROUP_ROWS: usize = 16 * BATCH_ROWS;
/// Number of bytes, before compression, after which a row group ends early: it stays in memory
/// until then.
const ROW_GROUP_BYTES: usize = 8 << 20;
/// Number of row groups that are compressed at the same time, if more than one may be.
const LANES: usize = 2;

/// Writes batches of one schema.
pub(super) struct Sink {
    path: PathBuf,
    schema: SchemaRef,
    group: RowGroup,
    writer: Writer,
}

/// The batches of a row group.
#[derive(Default)]
struct RowGroup {
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl RowGroup {
    fn push(&mut self, batch: RecordBatch) -> Result<(), ArrowError> {
        for column in batch.columns() {
            self.bytes += column.to_data().get_slice_memory_size()?;
        }
        self.rows += batch.num_rows();
        self.batches.push(batch);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= ROW_GROUP_ROWS || self.bytes >= ROW_GROUP_BYTES
    }

    /// Encodes and compresses the rows into one chunk for each column.
    fn encode(self, mut columns: Vec<ArrowColumnWriter>) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
        for batch in &self.batches {
            let mut writers = columns.iter_mut();
            for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                compute_leaves(field, array)?
                    .iter()
                    .zip(writers.by_ref())
                    .try_for_each(|(leaf, writer)| writer.write(leaf))?;
            }
        }
        columns.into_iter().map(ArrowColumnWriter::close).collect()
    }
}

enum Writer {
    Here(Box<FileWriter>),
    /// A thread of its own, which ends with its channel, or with its first error.
    Beside(SyncSender<RowGroup>, JoinHandle<Result<(), ParquetError>>),
    /// It has failed.
    Gone,
}

struct FileWriter {
    file: SerializedFileWriter<WritebackFile>,
    columns: ArrowRowGroupWriterFactory,
    /// Number of row groups that were begun.
    groups: usize,
}

type Encoding = JoinHandle<Result<Vec<ArrowColumnChunk>, ParquetError>>;

impl FileWriter {
    fn next_columns(&mut self) -> Result<Vec<ArrowColumnWriter>, ParquetError> {
        self.groups += 1;
        self.columns.create_column_writers(self.groups - 1)
    }

    fn write(&mut self, group: RowGroup) -> Result<(), ParquetError> {
        let columns = self.next_columns()?;
        self.append(group.encode(columns)?)
    }

    fn append(&mut self, chunks: Vec<ArrowColumnChunk>) -> Result<(), ParquetError> {
        let mut group = self.file.next_row_group()?;
        chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(&mut group))?;
        group.close().map(drop)
    }

    /// Writes all `groups`, [`LANES`] of which are encoded at the same time.
    fn write_all(mut self, groups: impl Iterator<Item = RowGroup>) -> Result<(), ParquetError> {
        let mut encoding: VecDeque<Encoding> = VecDeque::new();
        for group in groups {
            if encoding.len() == LANES {
                self.append_encoded(&mut encoding)?;
            }
            let columns = self.next_columns()?;
            let thread = std::thread::Builder::new().name("parquet".into()).spawn(move || group.encode(columns))?;
            encoding.push_back(thread);
        }
        while !encoding.is_empty() {
            self.append_encoded(&mut encoding)?;
        }
        self.close()
    }

    fn append_encoded(&mut self, encoding: &mut VecDeque<Encoding>) -> Result<(), ParquetError> {
        let Some(first) = encoding.pop_front() else { return Ok(()) };
        self.append(first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
    }

    fn close(self) -> Result<(), ParquetError> {
        self.file.close().map(drop)
    }
}

impl Sink {
    pub(super) fn create(path: &Path, schema: Schema) -> Result<Self, DataError> {
        Self::with(path, schema, |properties| properties)
    }

    /// Like [`Sink::create`], with further properties of columns.
    pub(super) fn with(
        path: &Path,
        schema: Schema,
        further: impl FnOnce(WriterPropertiesBuilder) -> WriterPropertiesBuilder,
    ) -> Result<Self, DataError> {
        let schema = Arc::new(schema);
        let properties = WriterProperties::builder()
            .set_created_by("olmo-pipe".into())
            .set_compression(Compression::LZ4_RAW)
            // Few values occur twice, and nobody looks for a range of them.
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None);
        let properties = further(properties).build();
        let file = WritebackFile::new(File::create(path).context(path)?);
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))
            .and_then(ArrowWriter::into_serialized_writer)
            .map(|(file, columns)| FileWriter { file, columns, groups: 0 })
            .map_err(|e| DataError::parquet(path, e))?;
        let writer = Writer::Here(Box::new(writer));
        Ok(Self { path: path.to_owned(), schema, group: RowGroup::default(), writer })
    }

    /// Compresses and writes in threads of its own from now on. The bytes are the same.
    pub(super) fn beside(mut self) -> Result<Self, DataError> {
        let Writer::Here(writer) = self.writer else { return Ok(self) };
        let (groups, to_write) = sync_channel::<RowGroup>(0);
        let write = move || writer.write_all(to_write.into_iter());
        let thread = std::thread::Builder::new().name("parquet".into()).spawn(write).context(&self.path)?;
        self.writer = Writer::Beside(groups, thread);
        Ok(self)
    }

    /// Appends rows, given as the columns of the schema.
    pub(super) fn write(&mut self, columns: Vec<arrow::array::ArrayRef>) -> Result<(), DataError> {
        RecordBatch::try_new(self.schema.clone(), columns)
            .and_then(|batch| self.group.push(batch))
            .map_err(|e| DataError::parquet(&self.path, e))?;
        if self.group.is_full() { self.end_group() } else { Ok(()) }
    }

    fn end_group(&mut self) -> Result<(), DataError> {
        let group = std::mem::take(&mut self.group);
        match &mut self.writer {
            Writer::Here(writer) => return writer.write(group).map_err(|e| DataError::parquet(&self.path, e)),
            Writer::Beside(groups, _) if groups.send(group).is_ok() => return Ok(()),
            Writer::Beside(..) | Writer::Gone => {}
        }
        // The thread says why it takes nothing more.
        std::mem::replace(&mut self.writer, Writer::Gone).close(&self.path)?;
        Err(DataError::parquet(&self.path, "an earlier write has failed"))
    }

    pub(super) fn close(mut self) -> Result<(), DataError> {
        if self.group.rows > 0 {
            self.end_group()?;
        }
        self.writer.close(&self.path)
    }
}

impl Writer {
    fn close(self, path: &Path) -> Result<(), DataError> {
        let closed = match self {
            Writer::Here(writer) => writer.close(),
            Writer::Beside(groups, thread) => {
                drop(groups);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            Writer::Gone => Ok(()),
        };
        closed.map_err(|e| DataError::parquet(path, e))
    }
}

/// Writes `table` as a whole, as Parquet with Snappy: a result for people and their tools.
///
/// # Errors
/// The file cannot be written.
pub fn write_table(file: File, table: &RecordBatch) -> Result<(), ParquetError> {
    let properties =
        WriterProperties::builder().set_created_by("olmo-pipe".into()).set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(file, table.schema(), Some(properties))?;
    writer.write(table)?;
    writer.close().map(drop)
}

/// Where the items of `row` lie in the values of a list column.
pub(super) fn items_of(list: &ListArray, row: usize) -> Range<usize> {
    let bounds = list.value_offsets();
    bounds[row] as usize..bounds[row + 1] as usize
}

/// The batches of the file at `path`, which must have the columns of one of `schemas`.
pub(super) struct Source {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
}

impl Source {
    pub(super) fn open(path: &Path, schemas: &[Schema]) -> Result<Self, DataError> {
        let file = File::open(path).context(path)?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| DataError::parquet(path, e))?;
        let found = builder.schema().fields();
        if !schemas.iter().any(|schema| found == schema.fields()) {
            let names = |fields: &arrow::datatypes::Fields| {
                fields.iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
            };
            let reason = format!(
                "has the columns [{}], expected [{}]",
                names(found),
                schemas.first().map(|schema| names(schema.fields())).unwrap_or_default()
            );
            return Err(DataError::parquet(path, reason));
        }
        let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| DataError::parquet(path, e))?;
        Ok(Self { path: path.to_owned(), reader })
    }
}

impl Iterator for Source {
    type Item = Result<RecordBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.next().map(|batch| batch.map_err(|e| DataError::parquet(&self.path, e)))
    }
}
