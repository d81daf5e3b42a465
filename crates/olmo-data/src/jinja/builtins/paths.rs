//! The keys by which filters read, sort and group items: paths such as `a.0.b`, with or without case.

use crate::jinja::error::Result;
use crate::jinja::python::access::item;
use crate::jinja::unicode;
use crate::jinja::value::Value;

/// `value` in lower case, if it is a text and case is ignored.
pub(super) fn fold(value: Value, case_sensitive: bool) -> Value {
    match &value {
        Value::Text(text) if !case_sensitive => text.derive(text.as_str().to_lowercase()).into(),
        _ => value,
    }
}

/// `attribute="a.b,c"` as paths.
pub(super) fn paths(attribute: Option<Value>) -> Vec<Option<Value>> {
    match &attribute {
        Some(Value::Text(text)) => text.as_str().split(',').map(|path| Some(path.into())).collect(),
        _ => vec![attribute],
    }
}

/// The value at a path such as `a.0.b` in `value`.
pub(super) fn get_path(value: &Value, path: Option<&Value>) -> Result<Value> {
    get_path_or(value, path, None)
}

pub(super) fn get_path_or(value: &Value, path: Option<&Value>, default: Option<&Value>) -> Result<Value> {
    let steps: Vec<Value> = match path {
        None | Some(Value::None) => return Ok(value.clone()),
        Some(Value::Text(path)) => {
            let step = |step: &str| {
                let digits = !step.is_empty() && step.chars().all(unicode::is_digit);
                digits.then(|| step.parse().ok().map(Value::Int)).flatten().unwrap_or_else(|| step.into())
            };
            path.as_str().split('.').map(step).collect()
        }
        Some(other) => vec![other.clone()],
    };
    let mut found = value.clone();
    for step in steps {
        found = item(&found, &step)?;
        if let Some(default) = default
            && found.is_undefined()
        {
            found = default.clone();
        }
    }
    Ok(found)
}
