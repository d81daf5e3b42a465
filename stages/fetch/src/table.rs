//! Converts the rows of a table to JSON values, so that tables and JSON share one reader.
//!
//! Every type has a value: anything other than text, numbers, lists and structs becomes its text (a
//! date, a decimal), and bytes that are not UTF-8 become null. A column that is not read is never
//! rejected for its type.

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch, RunArray};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, RunEndIndexType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

/// The rows of `batch`.
///
/// # Errors
/// A column other than `id` and `dataset` holds bytes that are not UTF-8.
pub(crate) fn rows(batch: &RecordBatch) -> Result<Vec<Value>, String> {
    let schema = batch.schema();
    let columns: Vec<(&String, &ArrayRef)> =
        schema.fields().iter().map(|field| field.name()).zip(batch.columns()).collect();
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let mut record = Map::new();
        for (name, column) in &columns {
            let cell = value(column, row);
            // An id may be arbitrary bytes; the record is then numbered.
            let label = ["id", "dataset"].contains(&name.as_str());
            if !label && cell.is_null() && column.is_valid(row) && bytes(column, row).is_some() {
                return Err(format!("column `{}` holds bytes that are not UTF-8", name.escape_debug()));
            }
            record.insert((*name).clone(), cell);
        }
        rows.push(Value::Object(record));
    }
    Ok(rows)
}

/// One cell of an array.
fn value(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    let items = |items: &dyn Array, first: usize, end: usize| (first..end).map(|item| value(items, item)).collect();
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => signed(array, row).into(),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => unsigned(array, row).into(),
        DataType::Float16 => f64::from(array.as_primitive::<Float16Type>().value(row)).into(),
        DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            bytes(array, row).and_then(|bytes| std::str::from_utf8(bytes).ok()).into()
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            items(list.values(), list.value_offsets()[row] as usize, list.value_offsets()[row + 1] as usize)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            items(list.values(), list.value_offsets()[row] as usize, list.value_offsets()[row + 1] as usize)
        }
        DataType::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list().value(row);
            items(&list, 0, list.len())
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>().value(row);
            items(&list, 0, list.len())
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>().value(row);
            items(&list, 0, list.len())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let pairs = fields.iter().zip(columns).map(|(field, column)| (field.name().clone(), value(column, row)));
            Value::Object(pairs.filter(|(_, value)| !value.is_null()).collect())
        }
        DataType::Map(_, _) => {
            let entries = array.as_map().value(row);
            let pairs = (0..entries.len()).map(|entry| {
                let key = match value(entries.column(0), entry) {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                (key, value(entries.column(1), entry))
            });
            Value::Object(pairs.filter(|(_, value)| !value.is_null()).collect())
        }
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let keys = dictionary.keys();
            let key = match keys.data_type() {
                DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                    usize::try_from(signed(keys, row)).ok()
                }
                _ => usize::try_from(unsigned(keys, row)).ok(),
            };
            key.filter(|key| *key < dictionary.values().len())
                .map_or(Value::Null, |key| value(dictionary.values(), key))
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => run::<Int16Type>(array, row),
            DataType::Int32 => run::<Int32Type>(array, row),
            _ => run::<Int64Type>(array, row),
        },
        DataType::Union(_, _) => value(&array.as_union().value(row), 0),
        // Decimals, dates, times, durations and intervals.
        _ => {
            let options = FormatOptions::new();
            let text = ArrayFormatter::try_new(array, &options).and_then(|format| format.value(row).try_to_string());
            text.ok().into()
        }
    }
}

/// The bytes of a cell; `None` if it has another type.
fn bytes(array: &dyn Array, row: usize) -> Option<&[u8]> {
    match array.data_type() {
        DataType::Binary => Some(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Some(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => Some(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => Some(array.as_fixed_size_binary().value(row)),
        _ => None,
    }
}

fn signed(array: &dyn Array, row: usize) -> i64 {
    match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        _ => array.as_primitive::<Int64Type>().value(row),
    }
}

fn unsigned(array: &dyn Array, row: usize) -> u64 {
    match array.data_type() {
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        _ => array.as_primitive::<UInt64Type>().value(row),
    }
}

/// A cell of a run-end encoded array.
fn run<E: RunEndIndexType>(array: &dyn Array, row: usize) -> Value {
    let Some(runs) = array.as_any().downcast_ref::<RunArray<E>>() else { return Value::Null };
    value(runs.values(), runs.get_physical_index(row))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray, Float32Array,
        Int32Array, ListViewArray, MapArray, StringArray, StringViewArray, StructArray, TimestampMicrosecondArray,
        UInt64Array, UnionArray,
    };
    use arrow::buffer::{OffsetBuffer, ScalarBuffer};
    use arrow::datatypes::{Field, Fields, UnionFields};
    use serde_json::json;

    use super::*;

    fn second(array: impl Array + 'static) -> Value {
        value(&array, 1)
    }

    #[test]
    fn every_type_has_a_value() {
        let words = || Arc::new(StringArray::from(vec!["a", "b", "c", "d"])) as ArrayRef;
        let item = || Arc::new(Field::new("item", DataType::Utf8, true));
        assert_eq!(second(StringViewArray::from(vec!["a", "b"])), json!("b"));
        assert_eq!(second(BinaryArray::from(vec!["a".as_bytes(), "b".as_bytes()])), json!("b"));
        assert_eq!(second(BinaryArray::from(vec![&b"a"[..], &b"\xff"[..]])), Value::Null);
        assert_eq!(second(FixedSizeBinaryArray::from(vec![b"aa", b"bb"])), json!("bb"));
        assert_eq!(second(UInt64Array::from(vec![1, u64::MAX])), json!(u64::MAX));
        assert_eq!(second(Float32Array::from(vec![1.0, 0.5])), json!(0.5));
        assert_eq!(
            second(Decimal128Array::from(vec![1, 1250]).with_precision_and_scale(9, 2).unwrap()),
            json!("12.50")
        );
        assert_eq!(second(TimestampMicrosecondArray::from(vec![0, 1_000_000])), json!("1970-01-01T00:00:01"));
        let dictionary: DictionaryArray<Int8Type> = vec!["x", "y", "x"].into_iter().collect();
        assert_eq!(second(dictionary), json!("y"));
        let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![1, 4]), words().slice(0, 2).as_ref()).unwrap();
        assert_eq!(second(runs), json!("b"));
        assert_eq!(second(FixedSizeListArray::new(item(), 2, words(), None)), json!(["c", "d"]));
        let (offsets, sizes) = (ScalarBuffer::from(vec![0, 2]), ScalarBuffer::from(vec![1, 1]));
        assert_eq!(second(ListViewArray::new(item(), offsets, sizes, words(), None)), json!(["c"]));
        let entries =
            Fields::from(vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8, true)]);
        let pairs = StructArray::new(entries.clone(), vec![words(), words()], None);
        let field = Arc::new(Field::new("entries", DataType::Struct(entries), false));
        let map = MapArray::new(field, OffsetBuffer::from_lengths([1, 3]), pairs, None, false);
        assert_eq!(second(map), json!({"b": "b", "c": "c", "d": "d"}));
        let fields = UnionFields::try_new(
            [0, 1],
            [Field::new("n", DataType::Int32, true), Field::new("t", DataType::Utf8, true)],
        );
        let numbers = Arc::new(Int32Array::from(vec![7])) as ArrayRef;
        let union =
            UnionArray::try_new(fields.unwrap(), vec![0, 1].into(), Some(vec![0, 2].into()), vec![numbers, words()]);
        assert_eq!(second(union.unwrap()), json!("c"));
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error_of_their_column() {
        let column = Arc::new(BinaryArray::from(vec![&b"a"[..], &b"\xff"[..]])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
        assert_eq!(rows(&batch).unwrap_err(), "column `text` holds bytes that are not UTF-8");
    }
}
