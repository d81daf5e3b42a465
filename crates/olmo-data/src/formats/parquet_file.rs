//! Parquet files whose bytes depend only on their rows: `created_by`, compression, row groups and
//! batches are fixed.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use arrow::array::{ListArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use olmo_base::{IoContext as _, WritebackFile};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};

use crate::error::DataError;

/// Number of rows that writers collect before appending, and that readers return at a time.
pub(super) const BATCH_ROWS: usize = 1024;
const ROW_GROUP_ROWS: usize = 16 * BATCH_ROWS;
/// Number of bytes after which a row group ends early, because it stays in memory until then.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Writes batches of one schema.
pub(super) struct Sink {
    path: PathBuf,
    schema: SchemaRef,
    writer: Writer,
}

enum Writer {
    Here(Box<FileWriter>),
    /// A thread of its own, which ends with its channel, or with its first error.
    Beside(SyncSender<RecordBatch>, JoinHandle<Result<(), ParquetError>>),
    /// It has failed.
    Gone,
}

struct FileWriter(ArrowWriter<WritebackFile>);

impl FileWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.0.write(batch)?;
        if self.0.in_progress_size() >= ROW_GROUP_BYTES { self.0.flush() } else { Ok(()) }
    }

    fn close(self) -> Result<(), ParquetError> {
        self.0.close().map(drop)
    }
}

/// Number of batches that may wait for a writer beside.
const WAITING: usize = 4;

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
            .set_statistics_enabled(EnabledStatistics::None)
            .set_max_row_group_size(ROW_GROUP_ROWS);
        let properties = further(properties).build();
        let file = File::create(path).context(path)?;
        let writer = ArrowWriter::try_new(WritebackFile::new(file), schema.clone(), Some(properties));
        let writer = FileWriter(writer.map_err(|e| DataError::parquet(path, e))?);
        Ok(Self { path: path.to_owned(), schema, writer: Writer::Here(Box::new(writer)) })
    }

    /// Compresses and writes in a thread of its own from now on. The bytes are the same.
    pub(super) fn beside(mut self) -> Result<Self, DataError> {
        let Writer::Here(mut writer) = self.writer else { return Ok(self) };
        let (batches, to_write) = sync_channel::<RecordBatch>(WAITING);
        let write = move || {
            to_write.into_iter().try_for_each(|batch| writer.write(&batch))?;
            writer.close()
        };
        let thread = std::thread::Builder::new().name("parquet".into()).spawn(write).context(&self.path)?;
        self.writer = Writer::Beside(batches, thread);
        Ok(self)
    }

    /// Appends rows, given as the columns of the schema.
    pub(super) fn write(&mut self, columns: Vec<arrow::array::ArrayRef>) -> Result<(), DataError> {
        let batch =
            RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| DataError::parquet(&self.path, e))?;
        match &mut self.writer {
            Writer::Here(writer) => return writer.write(&batch).map_err(|e| DataError::parquet(&self.path, e)),
            Writer::Beside(batches, _) if batches.send(batch).is_ok() => return Ok(()),
            Writer::Beside(..) | Writer::Gone => {}
        }
        // The thread says why it takes nothing more.
        std::mem::replace(&mut self.writer, Writer::Gone).close(&self.path)?;
        Err(DataError::parquet(&self.path, "an earlier write has failed"))
    }

    pub(super) fn close(self) -> Result<(), DataError> {
        self.writer.close(&self.path)
    }
}

impl Writer {
    fn close(self, path: &Path) -> Result<(), DataError> {
        let closed = match self {
            Writer::Here(writer) => writer.close(),
            Writer::Beside(batches, thread) => {
                drop(batches);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            Writer::Gone => Ok(()),
        };
        closed.map_err(|e| DataError::parquet(path, e))
    }
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
