//! `olmo-worker parquet`: writes rows as a table, for commands of the engine.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use serde_json::{Map, Value};

/// Writes `input`, a JSON list of flat objects with the same keys, to the file at `path`. Whole numbers,
/// numbers and texts become columns of these types; anything else becomes JSON.
///
/// # Errors
/// `input` is no such list, or the file cannot be written.
pub(crate) fn write(input: &str, path: &Path) -> Result<(), String> {
    let rows: Vec<Map<String, Value>> = serde_json::from_str(input).map_err(|e| format!("not a list of rows: {e}"))?;
    let names: Vec<&String> = rows.first().map(|row| row.keys().collect()).unwrap_or_default();
    let columns = names.into_iter().map(|name| {
        let values: Vec<&Value> = rows.iter().map(|row| row.get(name).unwrap_or(&Value::Null)).collect();
        (name.clone(), column(&values), true)
    });
    let table = RecordBatch::try_from_iter_with_nullable(columns).map_err(|e| e.to_string())?;
    let failed = |e: &dyn std::fmt::Display| format!("cannot write {}: {e}", path.display());
    let file = File::create(path).map_err(|e| failed(&e))?;
    olmo_data::write_table(file, &table).map_err(|e| failed(&e))
}

fn column(values: &[&Value]) -> ArrayRef {
    let all = |is: fn(&Value) -> bool| values.iter().all(|value| value.is_null() || is(value));
    if all(Value::is_i64) {
        Arc::new(values.iter().map(|value| value.as_i64()).collect::<Int64Array>())
    } else if all(Value::is_number) {
        Arc::new(values.iter().map(|value| value.as_f64()).collect::<Float64Array>())
    } else {
        let text = |value: &&Value| match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        Arc::new(values.iter().map(text).collect::<StringArray>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::DataType;

    #[test]
    fn rows_become_typed_columns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.parquet");
        write(r#"[{"a": 1, "b": 0.5, "c": "x"}, {"a": null, "b": 2, "c": null}]"#, &path).unwrap();
        assert_eq!(&std::fs::read(&path).unwrap()[..4], b"PAR1");
        let one = serde_json::json!([1, null, 0.5, "x"]);
        let values: Vec<&Value> = one.as_array().unwrap().iter().collect();
        assert_eq!(column(&values[..2]).data_type(), &DataType::Int64);
        assert_eq!(column(&values[..3]).data_type(), &DataType::Float64);
        assert_eq!(column(&values).data_type(), &DataType::Utf8);
        assert!(write("{}", &path).unwrap_err().contains("not a list of rows"));
        assert!(write("[{\"a\": 1}]", Path::new("missing/t")).unwrap_err().contains("cannot write"));
    }
}
