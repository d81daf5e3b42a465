//! Values of a sweep.

use serde_json::Value;

/// A text that is equal for equal values; `1` and `1.0` are equal.
pub(crate) fn canonical(value: &Value) -> String {
    fn even(value: &Value) -> Value {
        match value {
            Value::Number(number) => match number.as_f64() {
                Some(f) if number.is_f64() && f.fract() == 0.0 && f.abs() < 9e15 => Value::from(f as i64),
                _ => value.clone(),
            },
            Value::Array(items) => items.iter().map(even).collect(),
            Value::Object(map) => {
                let sorted: std::collections::BTreeMap<&String, &Value> = map.iter().collect();
                Value::Object(sorted.into_iter().map(|(key, value)| (key.clone(), even(value))).collect())
            }
            _ => value.clone(),
        }
    }
    even(value).to_string()
}
