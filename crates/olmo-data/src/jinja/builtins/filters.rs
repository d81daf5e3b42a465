//! Jinja2's filters, and transformers' `tojson`.

use std::cmp::Ordering;
use std::rc::Rc;

use super::names::is_filter;
use super::paths::{fold, get_path, get_path_or, paths};
use super::predicates;
use super::text_filters::{escape, file_size, indent, title, url_encode};
use crate::jinja::arguments::Args;
use crate::jinja::error::{Error, Result};
use crate::jinja::python::access::attribute;
use crate::jinja::python::attributes::{Known, known};
use crate::jinja::python::comparison::sort_by_key;
use crate::jinja::python::{formatting, methods, operators, tojson};
use crate::jinja::session::Session;
use crate::jinja::syntax::ast::Binary;
use crate::jinja::text::{Text, TextBuilder, join};
use crate::jinja::unicode;
use crate::jinja::value::{Items, Value};

/// The text of a value used as a string.
fn soft(value: &Value) -> Result<Text> {
    match value {
        Value::Markup(_) => Err(Error::unsupported("a filter on a result of `safe` or `escape`")),
        other => other.to_text(),
    }
}

fn int_arg(value: Option<Value>, default: i128) -> Result<i128> {
    match value {
        None => Ok(default),
        Some(value) => value.defined()?.as_int().ok_or_else(|| {
            Error::type_error(format!("'{}' object cannot be interpreted as an integer", value.type_name()))
        }),
    }
}

fn spaces(count: i128) -> Result<Text> {
    match usize::try_from(count) {
        Ok(count) if count > 1 << 16 => Err(Error::limit("an indentation has more than 65536 spaces")),
        count => Ok(" ".repeat(count.unwrap_or(0)).into()),
    }
}

fn flag(value: Option<Value>) -> bool {
    value.is_some_and(|value| value.is_true())
}

/// Applies filter `name` to `value`.
pub(crate) fn apply(session: &Session, name: &str, value: Value, mut args: Args) -> Result<Value> {
    let of_text = matches!(
        name,
        "trim"
            | "upper"
            | "lower"
            | "capitalize"
            | "title"
            | "replace"
            | "string"
            | "length"
            | "count"
            | "default"
            | "d"
    );
    session.spend(match value.as_text() {
        Some(text) if of_text => 1 + text.as_str().len() / 16,
        Some(text) => 1 + text.as_str().len(),
        // These read one item, so the length of the list does not matter.
        None if matches!(name, "first" | "last" | "length" | "count" | "default" | "d") => 1,
        None => value.weight().size.saturating_mul(2),
    })?;
    let most;
    let result = match name {
        "default" | "d" => {
            most = 2;
            let default = args.get(0, "default_value").unwrap_or_else(|| "".into());
            let boolean = flag(args.get(1, "boolean"));
            if value.is_undefined() || boolean && !value.is_true() { default } else { value }
        }
        "length" | "count" => {
            most = 0;
            value.len()?.into()
        }
        "string" => {
            most = 0;
            match value {
                Value::Markup(_) => value,
                other => other.to_text()?.into(),
            }
        }
        "trim" => {
            most = 1;
            let chars = args.get(0, "chars");
            methods::strip(&soft(&value)?, chars.as_ref(), true, true)?.into()
        }
        "upper" | "lower" | "capitalize" | "title" => {
            most = 0;
            let text = soft(&value)?;
            let s = text.as_str();
            text.derive(match name {
                "upper" => s.to_uppercase(),
                "lower" => s.to_lowercase(),
                "capitalize" => methods::capitalize(s),
                _ => title(s),
            })
            .into()
        }
        "replace" => {
            most = 3;
            let (from, to) = (args.require(0, "old")?, args.require(1, "new")?);
            let count = match args.get(2, "count") {
                None | Some(Value::None) => usize::MAX,
                count => usize::try_from(int_arg(count, -1)?).unwrap_or(usize::MAX),
            };
            methods::replace(session, &soft(&value)?, &soft(&from)?, &soft(&to)?, count)?.into()
        }
        "tojson" => {
            most = 4;
            let ensure_ascii = flag(args.get(0, "ensure_ascii"));
            let indent = match args.get(1, "indent") {
                None | Some(Value::None) => None,
                Some(Value::Text(text)) => Some(text),
                Some(other) => Some(spaces(int_arg(Some(other), 0)?)?),
            };
            let separators = match args.get(2, "separators") {
                None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
                Some(pair) => match pair.items()?.as_slice() {
                    [Value::Text(items), Value::Text(keys)] => (items.clone(), keys.clone()),
                    _ => return Err(Error::value_error("separators is not a pair of strings")),
                },
            };
            let sort_keys = flag(args.get(3, "sort_keys"));
            tojson::dump(session, &value, &tojson::Options { ensure_ascii, indent, separators, sort_keys })?.into()
        }
        "join" => {
            most = 2;
            let separator = args.get(0, "d").map_or(Ok("".into()), |d| soft(&d))?;
            let path = args.get(1, "attribute");
            let mut parts = Vec::new();
            for item in value.items()? {
                let part = soft(&get_path(&item, path.as_ref())?)?;
                session.spend(1 + (part.as_str().len() + separator.as_str().len()) / 16)?;
                parts.push(part);
            }
            join(&parts, &separator).into()
        }
        "first" => {
            most = 0;
            let first = match &value {
                Value::Generator(generator) => generator.items.borrow_mut().pop_front(),
                other => match other.as_items() {
                    Some(items) => items.first().cloned(),
                    None => other.items()?.into_iter().next(),
                },
            };
            first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty."))
        }
        "last" => {
            most = 0;
            if matches!(value, Value::Generator(_)) {
                return Err(Error::type_error("'generator' object is not reversible"));
            }
            let last = match value.as_items() {
                Some(items) => items.last().cloned(),
                None => value.items()?.pop(),
            };
            last.unwrap_or_else(|| Value::undefined("No last item, sequence was empty."))
        }
        "list" => {
            most = 0;
            Value::list(value.items()?)
        }
        "reverse" => {
            most = 0;
            match &value {
                Value::Text(text) => {
                    let mut out = TextBuilder::default();
                    let mut chars: Vec<(usize, char)> = text.as_str().char_indices().collect();
                    chars.reverse();
                    session.spend(chars.len() / 4)?;
                    for (at, c) in chars {
                        out.push(&text.slice(at..at + c.len_utf8()));
                    }
                    out.finish().into()
                }
                Value::Markup(_) => return Err(Error::unsupported("a filter on a result of `safe` or `escape`")),
                other => {
                    let mut items = other.items()?;
                    items.reverse();
                    Value::generator(items)
                }
            }
        }
        "items" => {
            most = 0;
            match &value {
                Value::Undefined(_) => Value::generator(Vec::new()),
                Value::Dict(dict) => {
                    let pairs = dict.pairs().iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
                    Value::generator(pairs.collect())
                }
                _ => return Err(Error::type_error("Can only get item pairs from a mapping.")),
            }
        }
        "abs" => {
            most = 0;
            match value.defined()? {
                Value::Float(value) => Value::Float(value.abs()),
                other => match other.as_int() {
                    Some(value) => Value::Int(value.abs()),
                    None => {
                        return Err(Error::type_error(format!("bad operand type for abs(): '{}'", other.type_name())));
                    }
                },
            }
        }
        "int" => {
            most = 2;
            let default = args.get(0, "default").unwrap_or(Value::Int(0));
            let base = int_arg(args.get(1, "base"), 10)?;
            to_int(&value, base)?.unwrap_or(default)
        }
        "float" => {
            most = 1;
            let default = args.get(0, "default").unwrap_or(Value::Float(0.0));
            match value.defined()? {
                Value::Text(text) => operators::parse_float(text.as_str()).map_or(default, Value::Float),
                other => other.as_float().map_or(default, Value::Float),
            }
        }
        "round" => {
            most = 2;
            let precision = int_arg(args.get(0, "precision"), 0)?;
            let method = args.get(1, "method").unwrap_or_else(|| "common".into());
            round(&value, precision, method.as_text().map_or("", Text::as_str))?
        }
        "sum" => {
            most = 2;
            let path = args.get(0, "attribute");
            let mut sum = args.get(1, "start").unwrap_or(Value::Int(0));
            if matches!(sum, Value::Text(_)) {
                return Err(Error::type_error("sum() can't sum strings [use ''.join(seq) instead]"));
            }
            for item in value.items()? {
                sum = operators::binary(session, Binary::Add, &sum, &get_path(&item, path.as_ref())?)?;
            }
            sum
        }
        "min" | "max" => {
            most = 2;
            let case_sensitive = flag(args.get(0, "case_sensitive"));
            let path = args.get(1, "attribute");
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let operator = if name == "min" { "<" } else { ">" };
            let mut best: Option<(Value, Value)> = None;
            for item in value.items()? {
                let key = fold(get_path(&item, path.as_ref())?, case_sensitive);
                let better = match &best {
                    Some((other, _)) => key.compare(other, operator)? == Some(wanted),
                    None => true,
                };
                if better {
                    best = Some((key, item));
                }
            }
            best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item)
        }
        "sort" => {
            most = 3;
            let reverse = flag(args.get(0, "reverse"));
            let case_sensitive = flag(args.get(1, "case_sensitive"));
            let paths = paths(args.get(2, "attribute"));
            let mut items = value.items()?;
            let key = |item: &Value| -> Result<Value> {
                let keys = paths.iter().map(|path| Ok(fold(get_path(item, path.as_ref())?, case_sensitive)));
                Ok(Value::list(keys.collect::<Result<_>>()?))
            };
            session.spend(items.len() * 4)?;
            sort_by_key(&mut items, key, reverse)?;
            Value::list(items)
        }
        "dictsort" => {
            most = 3;
            let case_sensitive = flag(args.get(0, "case_sensitive"));
            let by = args.get(1, "by").unwrap_or_else(|| "key".into());
            let reverse = flag(args.get(2, "reverse"));
            let Value::Dict(dict) = value.defined()? else {
                let kind = value.type_name();
                return Err(Error::raised("AttributeError", format!("'{kind}' object has no attribute 'items'")));
            };
            let at = match by.as_text().map(Text::as_str) {
                Some("key") => 0,
                Some("value") => 1,
                _ => return Err(argument_error("You can only sort by either \"key\" or \"value\"")),
            };
            let mut pairs: Vec<[Value; 2]> =
                dict.pairs().iter().map(|(key, value)| [key.clone(), value.clone()]).collect();
            session.spend(pairs.len() * 4)?;
            sort_by_key(&mut pairs, |pair| Ok(fold(pair[at].clone(), case_sensitive)), reverse)?;
            Value::list(pairs.into_iter().map(|pair| Value::tuple(pair.to_vec())).collect())
        }
        "unique" => {
            most = 2;
            let case_sensitive = flag(args.get(0, "case_sensitive"));
            let path = args.get(1, "attribute");
            let mut seen: Vec<Value> = Vec::new();
            let mut kept = Vec::new();
            for item in value.items()? {
                let key = fold(get_path(&item, path.as_ref())?, case_sensitive);
                key.check_hashable()?;
                session.spend(1 + seen.len() / 8)?;
                if !seen.iter().any(|other| other.equals(&key)) {
                    seen.push(key);
                    kept.push(item);
                }
            }
            Value::generator(kept)
        }
        "groupby" => {
            most = 3;
            let path = Some(args.require(0, "attribute")?);
            let default = args.get(1, "default").filter(|default| !matches!(default, Value::None));
            let case_sensitive = flag(args.get(2, "case_sensitive"));
            let key_of = |item: &Value| get_path_or(item, path.as_ref(), default.as_ref());
            let mut items = value.items()?;
            session.spend(items.len() * 4)?;
            sort_by_key(&mut items, |item| Ok(fold(key_of(item)?, case_sensitive)), false)?;
            let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
            for item in items {
                let shown = key_of(&item)?;
                let key = fold(shown.clone(), case_sensitive);
                match groups.last_mut() {
                    Some((last, _, members)) if last.equals(&key) => members.push(item),
                    _ => groups.push((key, shown, vec![item])),
                }
            }
            let group = |(_, shown, members)| Value::Group(Items::new(vec![shown, Value::list(members)]));
            Value::list(groups.into_iter().map(group).collect())
        }
        "map" => return map(session, &value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => return select(session, name, &value, args),
        "batch" => {
            most = 2;
            let length = int_arg(Some(args.require(0, "linecount")?), 0)?;
            let fill = args.get(1, "fill_with").filter(|fill| !matches!(fill, Value::None));
            let mut batches: Vec<Vec<Value>> = Vec::new();
            for item in value.items()? {
                match batches.last_mut() {
                    Some(batch) if batch.len() as i128 != length => batch.push(item),
                    _ => batches.push(vec![item]),
                }
            }
            if let (Some(fill), Some(last)) = (fill, batches.last_mut()) {
                let missing = (length - last.len() as i128).max(0) as usize;
                session.spend(missing)?;
                last.extend(std::iter::repeat_n(fill, missing));
            }
            if length <= 0 {
                return Err(Error::unsupported("`batch` with a length of 0"));
            }
            Value::generator(batches.into_iter().map(Value::list).collect())
        }
        "slice" => {
            most = 2;
            let slices = int_arg(Some(args.require(0, "slices")?), 0)?;
            let fill = args.get(1, "fill_with").filter(|fill| !matches!(fill, Value::None));
            let items = value.items()?;
            let Ok(count) = usize::try_from(slices) else { return Ok(Value::generator(Vec::new())) };
            session.spend(count + items.len())?;
            if count == 0 {
                return Err(Error::raised("ZeroDivisionError", "integer division or modulo by zero"));
            }
            let (each, extra) = (items.len() / count, items.len() % count);
            let mut rest = items.into_iter();
            let slice = |i: usize| {
                let mut part: Vec<Value> = rest.by_ref().take(each + usize::from(i < extra)).collect();
                if i >= extra {
                    part.extend(fill.clone());
                }
                Value::list(part)
            };
            Value::generator((0..count).map(slice).collect())
        }
        "indent" => {
            most = 3;
            let width = match args.get(0, "width").unwrap_or(Value::Int(4)) {
                Value::Text(text) => text,
                other => spaces(int_arg(Some(other), 4)?)?,
            };
            let (first, blank) = (flag(args.get(1, "first")), flag(args.get(2, "blank")));
            let Value::Text(text) = value.defined()? else {
                return Err(Error::type_error(format!("indent of a value of type '{}'", value.type_name())));
            };
            indent(session, text, &width, first, blank)?.into()
        }
        "center" => {
            most = 1;
            let width = int_arg(args.get(0, "width"), 80)?;
            formatting::justify(&soft(&value)?, width, " ", '^')?.into()
        }
        "truncate" => {
            most = 4;
            let length = int_arg(args.get(0, "length"), 255)?;
            let killwords = flag(args.get(1, "killwords"));
            let end = args.get(2, "end").map_or(Ok("...".into()), |end| soft(&end))?;
            let leeway = match args.get(3, "leeway") {
                None | Some(Value::None) => 5,
                leeway => int_arg(leeway, 5)?,
            };
            let text = soft(value.defined()?)?;
            let kept = length - end.chars() as i128;
            if kept < 0 || leeway < 0 {
                return Err(Error::raised(
                    "AssertionError",
                    format!("expected length >= {}, got {length}", end.chars()),
                ));
            }
            if text.chars() as i128 <= length + leeway {
                text.into()
            } else {
                let mut cut = text.slice(0..text.byte_of(kept as usize));
                if !killwords && let Some(space) = cut.as_str().rfind(' ') {
                    cut = cut.slice(0..space);
                }
                join([&cut, &end], &"".into()).into()
            }
        }
        "wordcount" => {
            most = 0;
            let text = soft(&value)?;
            text.as_str().split(|c| !unicode::is_word(c)).filter(|word| !word.is_empty()).count().into()
        }
        "format" => {
            let text = soft(&value)?;
            if !args.positional.is_empty() && !args.named.is_empty() {
                return Err(argument_error("can't handle positional and keyword arguments at the same time"));
            }
            if args.named.is_empty() {
                return formatting::percent(session, &text, &args.positional, None);
            }
            let mut dict = crate::jinja::value::Dict::default();
            args.named.drain(..).for_each(|(name, value)| dict.insert(name.into(), value));
            let dict = Value::Dict(Rc::new(dict));
            return formatting::percent(session, &text, std::slice::from_ref(&dict), Some(&dict));
        }
        "filesizeformat" => {
            most = 1;
            let binary = flag(args.get(0, "binary"));
            file_size(&value, binary)?.into()
        }
        "urlencode" => {
            most = 0;
            url_encode(&value)?.into()
        }
        "safe" => {
            most = 0;
            Value::Markup(value.to_text()?)
        }
        "e" | "escape" => {
            most = 0;
            match value {
                Value::Markup(_) => value,
                other => Value::Markup(escape(&other.to_text()?)),
            }
        }
        "attr" => {
            most = 1;
            let name = args.require(0, "name")?;
            let Some(name) = name.as_text() else { return Err(Error::type_error("attribute name must be string")) };
            if matches!(value, Value::Dict(_)) && matches!(known(&value, name.as_str()), Known::Missing) {
                Value::undefined(format!("'dict object' has no attribute '{}'", name.as_str()))
            } else {
                attribute(&value, name.as_str())?
            }
        }
        _ if is_filter(name) => return Err(Error::unsupported(format!("the filter `{name}`"))),
        _ => return Err(Error::syntax(format!("No filter named '{name}'."))),
    };
    args.finish(name, most)?;
    Ok(result)
}

fn argument_error(message: &str) -> Error {
    Error::raised("FilterArgumentError", message)
}

/// The filter `map`.
fn map(session: &Session, value: &Value, mut args: Args) -> Result<Value> {
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
        mapped.push(apply(session, filter.as_str(), item, args)?);
    }
    Ok(Value::generator(mapped))
}

/// The filters `select`, `reject`, `selectattr` and `rejectattr`.
fn select(session: &Session, name: &str, value: &Value, mut args: Args) -> Result<Value> {
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
                session.spend(1)?;
                predicates::apply(session, test.as_str(), &tested, args)?
            }
        };
        if passed == wanted {
            kept.push(item);
        }
    }
    Ok(Value::generator(kept))
}

fn to_int(value: &Value, base: i128) -> Result<Option<Value>> {
    Ok(match value.defined()? {
        Value::Text(text) => match operators::parse_int(text.as_str(), base)? {
            Some(value) => Some(Value::Int(value)),
            None => match operators::parse_float(text.as_str()) {
                Some(float) if float.is_finite() => Some(Value::Int(formatting::truncate(float)?)),
                _ => None,
            },
        },
        Value::Float(float) if !float.is_finite() => None,
        Value::Float(float) => Some(Value::Int(formatting::truncate(*float)?)),
        other => other.as_int().map(Value::Int),
    })
}

fn round(value: &Value, precision: i128, method: &str) -> Result<Value> {
    match method {
        "common" => operators::round(value.defined()?, precision),
        "ceil" | "floor" => {
            let Some(float) = value.defined()?.as_float() else {
                return Err(Error::type_error(format!("must be real number, not {}", value.type_name())));
            };
            if precision == 0 && value.as_int().is_some() {
                return Ok(Value::Float(float));
            }
            let unit = 10f64.powi(precision.clamp(-300, 300) as i32);
            let scaled = float * unit;
            let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            Ok(Value::Float(whole / unit))
        }
        _ => Err(argument_error("method must be common, ceil or floor")),
    }
}
