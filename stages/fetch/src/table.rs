//! Rows of a table as JSON values, so that every format is read by one code.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, UInt64Type};
use serde_json::{Map, Value};

/// The rows of `batch`, of the columns that `wanted` says.
///
/// # Errors
/// A column of a type that no text or number can be made of, by name.
pub fn rows(batch: &RecordBatch, wanted: impl Fn(&str) -> bool) -> Result<Vec<Value>, String> {
    let schema = batch.schema();
    let mut columns = Vec::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if wanted(field.name()) {
            let place = |reason: String| format!("column `{}`: {reason}", field.name().escape_debug());
            columns.push((field.name().clone(), plain(column).map_err(place)?));
        }
    }
    let row = |row: usize| -> Map<String, Value> {
        columns.iter().map(|(name, column)| (name.clone(), value(column, row))).collect()
    };
    Ok((0..batch.num_rows()).map(|index| Value::Object(row(index))).collect())
}

/// `array` with text as Utf8, integers as Int64 or UInt64, lists and structs likewise inside.
fn plain(array: &ArrayRef) -> Result<ArrayRef, String> {
    let target = plain_type(array.data_type())?;
    if target == *array.data_type() {
        return Ok(array.clone());
    }
    cast(array, &target).map_err(|e| e.to_string())
}

fn plain_field(field: &FieldRef) -> Result<FieldRef, String> {
    Ok(Arc::new(Field::new(field.name(), plain_type(field.data_type())?, true)))
}

fn plain_type(found: &DataType) -> Result<DataType, String> {
    Ok(match found {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::LargeUtf8,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::UInt64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
        DataType::Boolean | DataType::Null => found.clone(),
        DataType::Dictionary(_, values) => plain_type(values)?,
        DataType::List(item) | DataType::LargeList(item) => DataType::LargeList(plain_field(item)?),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect::<Result<_, _>>()?),
        other => return Err(format!("holds {other}, which is neither text nor a number, nor made of them")),
    })
}

/// One cell of a plain array.
fn value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::LargeList(_) => {
            let items = array.as_list::<i64>().value(row);
            (0..items.len()).map(|item| value(&items, item)).collect()
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let pair = |(field, column): (&FieldRef, &ArrayRef)| (field.name().clone(), value(column, row));
            Value::Object(fields.iter().zip(columns).map(pair).filter(|(_, value)| !value.is_null()).collect())
        }
        _ => Value::Null,
    }
}
