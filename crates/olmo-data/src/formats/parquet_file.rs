//! Parquet files whose bytes depend only on their rows: `created_by`, compression, row groups and
//! batches are fixed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use olmo_base::IoContext as _;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

use crate::error::DataError;

/// Number of rows that writers collect before appending, and that readers return at a time.
pub(super) const BATCH_ROWS: usize = 1024;
const ROW_GROUP_ROWS: usize = 16 * BATCH_ROWS;

/// Writes batches of one schema.
pub(super) struct Sink {
    path: PathBuf,
    schema: SchemaRef,
    writer: ArrowWriter<File>,
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
            .set_max_row_group_size(ROW_GROUP_ROWS);
        let properties = further(properties).build();
        let file = File::create(path).context(path)?;
        let writer =
            ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(|e| DataError::parquet(path, e))?;
        Ok(Self { path: path.to_owned(), schema, writer })
    }

    /// Appends rows, given as the columns of the schema.
    pub(super) fn write(&mut self, columns: Vec<arrow::array::ArrayRef>) -> Result<(), DataError> {
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| DataError::parquet(&self.path, e))
            .and_then(|batch| self.writer.write(&batch).map_err(|e| DataError::parquet(&self.path, e)))
    }

    pub(super) fn close(self) -> Result<(), DataError> {
        self.writer.close().map(drop).map_err(|e| DataError::parquet(&self.path, e))
    }
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
