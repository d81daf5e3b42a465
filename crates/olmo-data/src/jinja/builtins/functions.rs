//! The global functions of chat templates.

use std::cell::Cell;
use std::rc::Rc;

use crate::jinja::arguments::Args;
use crate::jinja::error::{Error, Result};
use crate::jinja::session::Session;
use crate::jinja::value::{CyclerValue, Dict, JoinerValue, RangeValue, Value};

/// Length of the longest range in transformers' sandbox.
const LONGEST_RANGE: usize = 100_000;

const NAMES: [&str; 8] =
    ["range", "dict", "namespace", "cycler", "joiner", "lipsum", "raise_exception", "strftime_now"];

/// The global variable `name`.
pub(crate) fn global(name: &str) -> Option<Value> {
    NAMES.into_iter().find(|known| *known == name).map(Value::Function)
}

pub(crate) fn private_attribute(name: &str) -> Error {
    let message =
        format!("Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{name}'.");
    Error::raised("SecurityError", message)
}

pub(crate) fn call(session: &Session, name: &str, mut args: Args) -> Result<Value> {
    match name {
        "raise_exception" => {
            let message = args.require(0, "message")?;
            args.finish(name, 1)?;
            Err(Error::raised("TemplateError", message.to_text()?.as_str()))
        }
        "strftime_now" => {
            let format = args.require(0, "format")?;
            args.finish(name, 1)?;
            let Some(date) = &session.date else {
                return Err(Error::unsupported(
                    "`strftime_now` without a date: the system clock is never used; set the param `date`, such as `date: 2026-01-31`",
                ));
            };
            let Some(format) = format.as_text() else {
                return Err(Error::type_error("strftime() argument 1 must be str"));
            };
            Ok(date.format(format.as_str())?.into())
        }
        "range" => range(args),
        "dict" => Ok(Value::Dict(Rc::new(dict(args, "dict")?))),
        "namespace" => {
            let dict = dict(args, "namespace")?;
            let private =
                dict.pairs().iter().filter_map(|(key, _)| key.as_text()).find(|key| key.as_str().starts_with('_'));
            match private {
                Some(name) => Err(private_attribute(name.as_str())),
                None => Ok(session.namespace(dict)),
            }
        }
        "cycler" => {
            if args.positional.is_empty() {
                return Err(Error::raised("RuntimeError", "at least one item has to be provided"));
            }
            let items = std::mem::take(&mut args.positional);
            args.finish(name, 0)?;
            Ok(Value::Cycler(Rc::new(CyclerValue { items, at: Cell::new(0) })))
        }
        "joiner" => {
            let separator = args.get(0, "sep").map_or(Ok(", ".into()), |sep| sep.to_text())?;
            args.finish(name, 1)?;
            Ok(Value::Joiner(Rc::new(JoinerValue { separator, used: Cell::new(false) })))
        }
        _ => Err(Error::unsupported(format!("the function `{name}`"))),
    }
}

fn range(args: Args) -> Result<Value> {
    args.finish("range", 3)?;
    let mut bounds = Vec::new();
    for bound in &args.positional {
        match bound.defined()?.as_int() {
            Some(bound) => bounds.push(bound),
            None => {
                let kind = bound.type_name();
                return Err(Error::type_error(format!("'{kind}' object cannot be interpreted as an integer")));
            }
        }
    }
    let range = match bounds.as_slice() {
        [stop] => RangeValue { start: 0, stop: *stop, step: 1 },
        [start, stop] => RangeValue { start: *start, stop: *stop, step: 1 },
        [_, _, 0] => return Err(Error::value_error("range() arg 3 must not be zero")),
        [start, stop, step] => RangeValue { start: *start, stop: *stop, step: *step },
        _ => return Err(Error::type_error("range expected at least 1 argument, got 0")),
    };
    let small = |value: i128| value.abs() < 1 << 100;
    if !small(range.start) || !small(range.stop) || !small(range.step) || range.len() > LONGEST_RANGE {
        let message = format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({LONGEST_RANGE}).");
        return Err(Error::raised("OverflowError", message));
    }
    Ok(Value::Range(range))
}

fn dict(mut args: Args, what: &str) -> Result<Dict> {
    let mut dict = Dict::default();
    match args.positional.first() {
        None => {}
        Some(Value::Dict(from)) => dict = Dict::clone(from),
        Some(pairs) => {
            for pair in pairs.defined()?.items()? {
                match pair.items()?.as_slice() {
                    [key, value] => {
                        key.check_hashable()?;
                        dict.insert(key.clone(), value.clone());
                    }
                    _ => return Err(Error::value_error("dictionary update sequence element has not length 2")),
                }
            }
        }
    }
    for (name, value) in args.named.drain(..) {
        dict.insert(name.into(), value);
    }
    args.finish(what, 1)?;
    Ok(dict)
}
