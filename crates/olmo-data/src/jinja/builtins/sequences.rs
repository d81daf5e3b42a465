//! Operations of filters on sequences: paths into items, sorting, `map` and `select`.

use std::cmp::Ordering;
use std::rc::Rc;

use super::filters::{apply, argument_error};
use super::tests;
use crate::jinja::error::{Error, Result};
use crate::jinja::run::access::item;
use crate::jinja::run::{Args, Interpreter};
use crate::jinja::unicode;
use crate::jinja::value::Value;

/// `value` in lower case, if it is a text and case is ignored.
pub fn fold(value: Value, case_sensitive: bool) -> Value {
    match &value {
        Value::Text(text) if !case_sensitive => text.derive(text.as_str().to_lowercase()).into(),
        _ => value,
    }
}

/// `attribute="a.b,c"` as paths.
pub fn paths(attribute: Option<Value>) -> Vec<Option<Value>> {
    match &attribute {
        Some(Value::Text(text)) => text.as_str().split(',').map(|path| Some(path.into())).collect(),
        _ => vec![attribute],
    }
}

/// The value at a path such as `a.0.b` in `value`.
pub fn get_path(value: &Value, path: Option<&Value>) -> Result<Value> {
    get_path_or(value, path, None)
}

pub fn get_path_or(value: &Value, path: Option<&Value>, default: Option<&Value>) -> Result<Value> {
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

/// Sorts by the `key` of each item, like Python's `sorted`.
pub fn sort_by_key<T>(items: &mut [T], key: impl Fn(&T) -> Result<Value>, reverse: bool) -> Result<()>
where
    T: Clone,
{
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.iter() {
        keyed.push((key(item)?, item.clone()));
    }
    let mut failure = None;
    keyed.sort_by(|(a, _), (b, _)| {
        // Equal keys keep their order in both directions.
        match a.compare(b, "<") {
            Ok(ordering) => {
                let ordering = ordering.unwrap_or(Ordering::Equal);
                if reverse { ordering.reverse() } else { ordering }
            }
            Err(e) => {
                failure.get_or_insert(e);
                Ordering::Equal
            }
        }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    for (place, (_, item)) in items.iter_mut().zip(keyed) {
        *place = item;
    }
    Ok(())
}

pub fn map(interpreter: &Rc<Interpreter>, value: &Value, mut args: Args) -> Result<Value> {
    let items = value.items()?;
    let attribute = args.named.iter().any(|(name, _)| name == "attribute");
    let mut mapped = Vec::with_capacity(items.len());
    if args.positional.is_empty() && attribute {
        let path = args.get(0, "attribute");
        let default = args.get(0, "default").filter(|default| !matches!(default, Value::None));
        args.finish("map", 0)?;
        for item in items {
            mapped.push(get_path_or(&item, path.as_ref(), default.as_ref())?);
        }
        return Ok(Value::generator(mapped));
    }
    if args.positional.is_empty() {
        return Err(argument_error("map requires a filter argument"));
    }
    let filter = args.positional.remove(0);
    let Some(filter) = filter.as_text() else { return Err(Error::type_error("the filter's name is not a string")) };
    for item in items {
        let args = Args { positional: args.positional.clone(), named: args.named.clone() };
        mapped.push(apply(interpreter, filter.as_str(), item, args)?);
    }
    Ok(Value::generator(mapped))
}

pub fn select(interpreter: &Rc<Interpreter>, name: &str, value: &Value, mut args: Args) -> Result<Value> {
    let items = value.items()?;
    let path = if name.ends_with("attr") {
        if args.positional.is_empty() {
            return Err(argument_error("Missing parameter for attribute name"));
        }
        Some(args.positional.remove(0))
    } else {
        None
    };
    let test = if args.positional.is_empty() { None } else { Some(args.positional.remove(0)) };
    let wanted = name.starts_with("select");
    let mut kept = Vec::new();
    for item in items {
        let tested = get_path(&item, path.as_ref())?;
        let passed = match &test {
            None => tested.is_true(),
            Some(test) => {
                let Some(test) = test.as_text() else {
                    return Err(Error::type_error("the test's name is not a string"));
                };
                let args = Args { positional: args.positional.clone(), named: args.named.clone() };
                interpreter.spend(1)?;
                tests::apply(interpreter, test.as_str(), &tested, args)?
            }
        };
        if passed == wanted {
            kept.push(item);
        }
    }
    Ok(Value::generator(kept))
}
