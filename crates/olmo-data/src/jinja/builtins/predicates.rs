//! Jinja2's tests: the predicates after `is`.

use std::rc::Rc;

use super::names::{is_filter, is_test};
use crate::jinja::arguments::Args;
use crate::jinja::error::{Error, Result};
use crate::jinja::python::{comparison, operators};
use crate::jinja::session::Session;
use crate::jinja::syntax::ast::{Binary, Comparison};
use crate::jinja::value::Value;

/// Whether `value` passes the test `name`.
pub(crate) fn apply(session: &Session, name: &str, value: &Value, mut args: Args) -> Result<bool> {
    let operator = match name {
        "eq" | "equalto" | "==" => Some(Comparison::Equal),
        "ne" | "!=" => Some(Comparison::NotEqual),
        "gt" | "greaterthan" | ">" => Some(Comparison::Greater),
        "ge" | ">=" => Some(Comparison::GreaterEqual),
        "lt" | "lessthan" | "<" => Some(Comparison::Less),
        "le" | "<=" => Some(Comparison::LessEqual),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if let Some(operator) = operator {
        let other = args.require(0, "other")?;
        args.finish(name, 1)?;
        return comparison::holds(session, operator, value, &other);
    }
    let modulo = |divisor: &Value| operators::binary(session, Binary::Mod, value, divisor);
    let passed = match name {
        "odd" => modulo(&Value::Int(2))?.equals(&Value::Int(1)),
        "even" => modulo(&Value::Int(2))?.equals(&Value::Int(0)),
        "divisibleby" => {
            let by = args.require(0, "num")?;
            args.finish(name, 1)?;
            return Ok(modulo(&by)?.equals(&Value::Int(0)));
        }
        "sameas" => {
            let other = args.require(0, "other")?;
            args.finish(name, 1)?;
            return same(value, &other);
        }
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "filter" => value.as_text().is_some_and(|text| is_filter(text.as_str())),
        "test" => value.as_text().is_some_and(|text| is_test(text.as_str())),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_text().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => match value {
            // It has a length and items.
            Value::Undefined(_) => true,
            other => {
                other.as_text().is_some()
                    || other.as_items().is_some()
                    || matches!(other, Value::Dict(_) | Value::Range(_))
            }
        },
        "iterable" => {
            value.as_text().is_some()
                || value.as_items().is_some()
                || matches!(
                    value,
                    Value::Undefined(_)
                        | Value::Dict(_)
                        | Value::View(..)
                        | Value::Range(_)
                        | Value::Generator(_)
                        | Value::Loop(_)
                )
        }
        "callable" => matches!(
            value,
            Value::Macro(_)
                | Value::Method(_)
                | Value::Function(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "escaped" => matches!(value, Value::Markup(_)),
        "lower" | "upper" => {
            let text = value.to_text()?;
            let wanted = if name == "lower" { char::is_lowercase } else { char::is_uppercase };
            let other = if name == "lower" { char::is_uppercase } else { char::is_lowercase };
            text.as_str().chars().any(wanted) && !text.as_str().chars().any(other)
        }
        _ => return Err(Error::syntax(format!("No test named '{name}'."))),
    };
    args.finish(name, 0)?;
    Ok(passed)
}

/// Python's `is`.
fn same(a: &Value, b: &Value) -> Result<bool> {
    Ok(match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Int(_), Value::Int(_)) | (Value::Text(_), Value::Text(_)) | (Value::Float(_), Value::Float(_)) => {
            return Err(Error::unsupported(
                "`sameas` of numbers or strings: the result depends on Python's memory layout",
            ));
        }
        _ => false,
    })
}
