//! Attributes, items and slices of values.

use std::rc::Rc;

use crate::jinja::error::{Error, Result};
use crate::jinja::python::attributes::{Known, known};
use crate::jinja::session::Session;
use crate::jinja::text::TextBuilder;
use crate::jinja::value::{RangeValue, Undefined, Value};

/// `object.name`: first Python's attributes, then keys.
pub(crate) fn attribute(object: &Value, name: &str) -> Result<Value> {
    object.defined()?;
    if let Some(value) = own_attribute(object, name)? {
        return Ok(value);
    }
    match object {
        Value::Dict(dict) => Ok(dict.get_str(name).cloned().unwrap_or_else(|| missing(object, name))),
        _ => Ok(missing(object, name)),
    }
}

/// Python's attribute; `None` if there is none.
fn own_attribute(object: &Value, name: &str) -> Result<Option<Value>> {
    if name.starts_with("__") && name.ends_with("__") {
        return Ok(Some(unsafe_attribute(object, name)));
    }
    match object {
        Value::Namespace(dict) => return Ok(dict.borrow().get_str(name).cloned()),
        Value::Loop(state) => {
            if let Some(value) = state.attribute(name)? {
                return Ok(Some(value));
            }
        }
        Value::Group(items) => match name {
            "grouper" => return Ok(items.first().cloned()),
            "list" => return Ok(items.get(1).cloned()),
            _ => {}
        },
        Value::Cycler(cycler) if name == "current" => return Ok(cycler.items.get(cycler.at.get()).cloned()),
        Value::Macro(value) => match name {
            "name" => return Ok(Some(value.node.name.as_str().into())),
            "arguments" | "catch_kwargs" | "catch_varargs" | "caller" => {
                return Err(Error::unsupported(format!("the attribute `{name}` of a macro")));
            }
            _ => {}
        },
        _ => {}
    }
    Ok(match known(object, name) {
        Known::Method => Some(Value::Method(Rc::new((object.clone(), name.to_owned())))),
        Known::Unsafe => Some(unsafe_attribute(object, name)),
        Known::Unsupported => {
            let kind = object.type_name();
            return Err(Error::unsupported(format!("the attribute `{name}` of a value of type `{kind}`")));
        }
        Known::Missing => None,
    })
}

fn unsafe_attribute(object: &Value, name: &str) -> Value {
    let message = format!("access to attribute '{name}' of '{}' object is unsafe.", object.type_name());
    Value::Undefined(Rc::new(Undefined { exception: "SecurityError", message }))
}

fn missing(object: &Value, name: &str) -> Value {
    Value::undefined(match object {
        Value::Dict(_) => format!("'dict object' has no attribute '{name}'"),
        other => format!("'{} object' has no attribute '{name}'", other.type_name()),
    })
}

/// `object[index]`: first keys and positions, then Python's attributes.
pub(crate) fn item(object: &Value, index: &Value) -> Result<Value> {
    object.defined()?;
    let found = match object {
        Value::Dict(dict) => dict.get(index).cloned(),
        Value::List(_) | Value::Tuple(_) | Value::Group(_) | Value::Text(_) | Value::Range(_) => match index.as_int() {
            Some(index) => {
                let length = object.len()? as i128;
                let at = if index < 0 { index + length } else { index };
                if (0..length).contains(&at) { Some(nth(object, at as usize)) } else { None }
            }
            None => None,
        },
        Value::Markup(_) => return Err(Error::unsupported("a part of a result of `safe` or `escape`")),
        _ => None,
    };
    if let Some(value) = found {
        return Ok(value);
    }
    match index {
        Value::Text(name) => match own_attribute(object, name.as_str())? {
            Some(value) => Ok(value),
            None => Ok(missing(object, name.as_str())),
        },
        index => {
            let index = index.repr().map_or_else(|_| "…".into(), |text| text.as_str().to_owned());
            Ok(Value::undefined(format!("{} object has no element {index}", object.type_name())))
        }
    }
}

fn nth(object: &Value, at: usize) -> Value {
    match object {
        Value::Text(text) => {
            let start = text.byte_of(at);
            let end = start + text.as_str()[start..].chars().next().map_or(0, char::len_utf8);
            text.slice(start..end).into()
        }
        Value::Range(range) => range.get(at),
        other => other.as_items().and_then(|items| items.get(at)).cloned().unwrap_or(Value::None),
    }
}

/// `object[start:stop:step]`.
pub(crate) fn slice(session: &Session, object: &Value, parts: [&Value; 3]) -> Result<Value> {
    object.defined()?;
    let sliceable =
        matches!(object, Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Group(_) | Value::Range(_));
    if !sliceable {
        return match object {
            Value::Markup(_) => Err(Error::unsupported("a part of a result of `safe` or `escape`")),
            other => Err(Error::type_error(format!("'{}' object is not subscriptable", other.type_name()))),
        };
    }
    let mut bounds = [None; 3];
    for (bound, part) in bounds.iter_mut().zip(parts) {
        *bound = match part {
            Value::None => None,
            other => match other.as_int() {
                Some(value) => Some(value),
                None => return Err(Error::type_error("slice indices must be integers or None")),
            },
        };
    }
    let step = bounds[2].unwrap_or(1);
    if step == 0 {
        return Err(Error::value_error("slice step cannot be zero"));
    }
    let length = object.len()? as i128;
    let clamp = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) if bound < 0 => (bound + length).max(if step > 0 { 0 } else { -1 }),
        Some(bound) => bound.min(if step > 0 { length } else { length - 1 }),
    };
    let (start, stop) = if step > 0 {
        (clamp(bounds[0], 0), clamp(bounds[1], length))
    } else {
        (clamp(bounds[0], length - 1), clamp(bounds[1], -1))
    };
    let range = RangeValue { start, stop, step };
    let count = range.len();
    session.spend(count)?;
    if let Value::Text(text) = object {
        if step == 1 {
            let from = text.byte_of(start as usize);
            let to = if count == 0 { from } else { text.byte_of(stop as usize) };
            return Ok(text.slice(from..to).into());
        }
        let chars: Vec<usize> = text.as_str().char_indices().map(|(at, _)| at).chain([text.as_str().len()]).collect();
        let mut builder = TextBuilder::default();
        for index in 0..count {
            let at = (start + step * index as i128) as usize;
            builder.push(&text.slice(chars[at]..chars[at + 1]));
        }
        return Ok(builder.finish().into());
    }
    if let Value::Range(range) = object {
        let at = |index: i128| range.start + range.step * index;
        return Ok(Value::Range(RangeValue { start: at(start), stop: at(stop), step: range.step * step }));
    }
    let items = (0..count).map(|index| nth(object, (start + step * index as i128) as usize)).collect();
    Ok(if matches!(object, Value::List(_)) { Value::list(items) } else { Value::tuple(items) })
}
