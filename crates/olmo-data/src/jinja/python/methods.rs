//! The methods of Python's strings, lists, tuples and dicts.

use crate::jinja::arguments::Args;
use crate::jinja::error::{Error, Result};
use crate::jinja::python::formatting;
use crate::jinja::session::Session;
use crate::jinja::text::{Text, TextBuilder, join};
use crate::jinja::unicode;
use crate::jinja::value::{Items, Value};

pub(crate) fn call(session: &Session, object: &Value, name: &str, mut args: Args) -> Result<Value> {
    match object {
        Value::Text(text) => {
            session.spend(1 + text.as_str().len() / 16)?;
            text_method(session, text, name, args)
        }
        Value::Dict(dict) => {
            let pairs = dict.pairs();
            match name {
                "get" => {
                    let key = args.require(0, "key")?;
                    key.check_hashable()?;
                    let default = args.positional.get(1).cloned().unwrap_or(Value::None);
                    args.finish("get()", 2)?;
                    return Ok(dict.get(&key).cloned().unwrap_or(default));
                }
                "copy" => return Ok(object.clone()),
                _ => {}
            }
            args.finish(name, 0)?;
            session.spend(pairs.len())?;
            Ok(match name {
                "items" => {
                    let items = pairs.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
                    Value::View("dict_items", Items::new(items.collect()))
                }
                "keys" => Value::View("dict_keys", Items::new(pairs.iter().map(|(key, _)| key.clone()).collect())),
                _ => Value::View("dict_values", Items::new(pairs.iter().map(|(_, value)| value.clone()).collect())),
            })
        }
        Value::Cycler(cycler) => {
            args.finish(name, 0)?;
            let at = cycler.at.get();
            if name == "reset" {
                cycler.at.set(0);
                return Ok(Value::None);
            }
            cycler.at.set((at + 1) % cycler.items.len());
            Ok(cycler.items[at].clone())
        }
        Value::Loop(state) => {
            if name == "changed" {
                return Ok(Value::Bool(state.changed(Value::tuple(args.positional))));
            }
            let index = state.attribute("index0")?.and_then(|index| index.as_int()).unwrap_or(0);
            match args.positional.len() {
                0 => Err(Error::type_error("no items for cycling given")),
                length => Ok(args.positional.swap_remove(index as usize % length)),
            }
        }
        _ => {
            if name == "copy" {
                args.finish(name, 0)?;
                return Ok(Value::list(object.items()?));
            }
            let item = args.require(0, "value")?;
            session.spend(object.weight().size)?;
            let items = object.items()?;
            if name == "count" {
                args.finish(name, 1)?;
                return Ok(items.iter().filter(|other| other.equals(&item)).count().into());
            }
            if args.positional.len() > 1 {
                return Err(Error::unsupported("`index` with a range"));
            }
            match items.iter().position(|other| other.equals(&item)) {
                Some(at) => Ok(at.into()),
                None => Err(Error::value_error(format!("{} is not in list", item.repr()?.as_str()))),
            }
        }
    }
}

/// The argument as a string.
fn string(value: &Value) -> Result<&Text> {
    match value.defined()? {
        Value::Markup(_) => Err(Error::unsupported("a result of `safe` or `escape` as an argument")),
        other => other
            .as_text()
            .ok_or_else(|| Error::type_error(format!("expected a str argument, got '{}'", other.type_name()))),
    }
}

fn integer(value: &Value) -> Result<i128> {
    value
        .defined()?
        .as_int()
        .ok_or_else(|| Error::type_error(format!("'{}' object cannot be interpreted as an integer", value.type_name())))
}

/// A count; a negative number or `None` means all.
fn count(value: Option<Value>) -> Result<usize> {
    match value {
        None => Ok(usize::MAX),
        Some(value) => Ok(usize::try_from(integer(&value)?).unwrap_or(usize::MAX)),
    }
}

/// The byte range between the positions `start` and `stop` (in characters); `None` if `stop` comes
/// first.
fn window(text: &Text, start: Option<&Value>, stop: Option<&Value>) -> Result<Option<(usize, usize)>> {
    let length = text.chars() as i128;
    let position = |value: Option<&Value>, default: i128| -> Result<i128> {
        let value = match value {
            None | Some(Value::None) => default,
            Some(value) => integer(value)?,
        };
        Ok(if value < 0 { (value + length).max(0) } else { value })
    };
    let (start, stop) = (position(start, 0)?, position(stop, length)?.min(length));
    if start > stop {
        return Ok(None);
    }
    Ok(Some((text.byte_of(start as usize), text.byte_of(stop as usize))))
}

fn texts(text: &Text, parts: impl IntoIterator<Item: AsRef<str>>) -> Value {
    Value::list(parts.into_iter().map(|part| text.subslice(part.as_ref()).into()).collect())
}

fn all_chars(text: &str, is: impl Fn(char) -> bool) -> Value {
    Value::Bool(!text.is_empty() && text.chars().all(is))
}

/// Strips characters of `chars`, or whitespace, from the selected sides.
pub(crate) fn strip(text: &Text, chars: Option<&Value>, left: bool, right: bool) -> Result<Text> {
    let set: Option<String> = match chars {
        None | Some(Value::None) => None,
        Some(chars) => Some(string(chars)?.as_str().to_owned()),
    };
    let strips = |c: char| set.as_ref().map_or_else(|| unicode::is_space(c), |set| set.contains(c));
    let mut rest = text.as_str();
    if left {
        rest = rest.trim_start_matches(strips);
    }
    if right {
        rest = rest.trim_end_matches(strips);
    }
    Ok(if rest.is_empty() { text.slice(0..0) } else { text.subslice(rest) })
}

fn text_method(session: &Session, text: &Text, name: &str, mut args: Args) -> Result<Value> {
    let s = text.as_str();
    if matches!(name, "format" | "format_map") {
        if name == "format_map" {
            args.named = match args.positional.as_slice() {
                [Value::Dict(dict)] => {
                    let pairs = dict.pairs().iter();
                    pairs.filter_map(|(key, value)| Some((key.as_text()?.as_str().to_owned(), value.clone()))).collect()
                }
                _ => return Err(Error::unsupported("`format_map` of anything but a dict")),
            };
            args.positional.clear();
        }
        return formatting::braces(session, text, &args);
    }
    let most = match name {
        "split" | "rsplit" | "replace" | "center" | "ljust" | "rjust" => 3,
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => 3,
        "strip" | "lstrip" | "rstrip" | "join" | "zfill" | "removeprefix" | "removesuffix" | "partition"
        | "rpartition" | "splitlines" | "expandtabs" => 1,
        _ => 0,
    };
    // Python accepts these only by position, except for the ones read by name here.
    let value = match name {
        "strip" => strip(text, args.positional.first(), true, true)?.into(),
        "lstrip" => strip(text, args.positional.first(), true, false)?.into(),
        "rstrip" => strip(text, args.positional.first(), false, true)?.into(),
        "split" | "rsplit" => {
            let separator = args.get(0, "sep").filter(|sep| !matches!(sep, Value::None));
            let most = count(args.get(1, "maxsplit"))?;
            split(text, separator.as_ref(), most, name == "rsplit")?
        }
        "splitlines" => {
            let keep = args.get(0, "keepends").is_some_and(|keep| keep.is_true());
            let mut lines = Vec::new();
            for (line, end) in unicode::lines(s) {
                let start = line.as_ptr() as usize - s.as_ptr() as usize;
                let length = line.len() + if keep { end.len() } else { 0 };
                lines.push(Value::from(text.slice(start..start + length)));
            }
            Value::list(lines)
        }
        "partition" | "rpartition" => {
            let separator = string(args.positional.first().ok_or_else(|| missing(name))?)?.clone();
            if separator.as_str().is_empty() {
                return Err(Error::value_error("empty separator"));
            }
            let found = if name == "partition" { s.find(separator.as_str()) } else { s.rfind(separator.as_str()) };
            let empty = || Value::from("");
            Value::tuple(match (found, name) {
                (Some(at), _) => {
                    let end = at + separator.as_str().len();
                    vec![text.slice(0..at).into(), text.slice(at..end).into(), text.slice(end..s.len()).into()]
                }
                (None, "partition") => vec![text.clone().into(), empty(), empty()],
                (None, _) => vec![empty(), empty(), text.clone().into()],
            })
        }
        "startswith" | "endswith" => {
            let candidates = args.positional.first().ok_or_else(|| missing(name))?.clone();
            let window = window(text, args.positional.get(1), args.positional.get(2))?;
            let candidates = match &candidates {
                Value::Tuple(items) => items.to_vec(),
                other => vec![other.clone()],
            };
            let mut found = false;
            for candidate in &candidates {
                let candidate = string(candidate)?.as_str();
                let part = window.map(|(start, stop)| &s[start..stop]);
                found |= part.is_some_and(|part| {
                    if name == "startswith" { part.starts_with(candidate) } else { part.ends_with(candidate) }
                });
            }
            found.into()
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let part = string(args.positional.first().ok_or_else(|| missing(name))?)?.clone();
            let part = part.as_str();
            let window = window(text, args.positional.get(1), args.positional.get(2))?;
            if name == "count" {
                let count = match window {
                    Some((start, stop)) if part.is_empty() => s[start..stop].chars().count() + 1,
                    Some((start, stop)) => s[start..stop].matches(part).count(),
                    None => 0,
                };
                count.into()
            } else {
                let found = window.and_then(|(start, stop)| {
                    let inside = &s[start..stop];
                    let at = if name.starts_with('r') { inside.rfind(part) } else { inside.find(part) };
                    at.map(|at| s[..start + at].chars().count())
                });
                match found {
                    Some(at) => at.into(),
                    None if name.ends_with("find") => Value::Int(-1),
                    None => return Err(Error::value_error("substring not found")),
                }
            }
        }
        "replace" => {
            let from = string(args.positional.first().ok_or_else(|| missing(name))?)?.clone();
            let to = string(args.positional.get(1).ok_or_else(|| missing(name))?)?.clone();
            replace(session, text, &from, &to, count(args.positional.get(2).cloned())?)?.into()
        }
        "removeprefix" | "removesuffix" => {
            let part = string(args.positional.first().ok_or_else(|| missing(name))?)?.clone();
            let rest =
                if name == "removeprefix" { s.strip_prefix(part.as_str()) } else { s.strip_suffix(part.as_str()) };
            rest.map_or_else(|| text.clone(), |rest| text.subslice(rest)).into()
        }
        "join" => {
            let items = args.positional.first().ok_or_else(|| missing(name))?.defined()?.items()?;
            let mut parts = Vec::new();
            for (i, item) in items.iter().enumerate() {
                let Some(part) = item.as_text() else {
                    let kind = item.type_name();
                    return Err(Error::type_error(format!("sequence item {i}: expected str instance, {kind} found")));
                };
                session.spend(1 + (part.as_str().len() + s.len()) / 16)?;
                parts.push(string(&item.clone()).map(|_| part.clone())?);
            }
            join(&parts, text).into()
        }
        "upper" => text.derive(s.to_uppercase()).into(),
        "lower" => text.derive(s.to_lowercase()).into(),
        "casefold" => text.derive(casefold(s)?).into(),
        "capitalize" => text.derive(capitalize(s)).into(),
        "title" => text.derive(title(s)).into(),
        "swapcase" => {
            let swap = |c: char| -> String {
                match (c.is_uppercase(), c.is_lowercase()) {
                    (true, _) => c.to_lowercase().collect(),
                    (_, true) => c.to_uppercase().collect(),
                    _ => c.into(),
                }
            };
            text.derive(s.chars().map(swap).collect()).into()
        }
        "zfill" => {
            let width = integer(args.positional.first().ok_or_else(|| missing(name))?)?;
            let signed = s.starts_with(['+', '-']);
            let (sign, digits) = (text.slice(0..usize::from(signed)), text.slice(usize::from(signed)..s.len()));
            let digits = formatting::justify(&digits, width - i128::from(signed), "0", '>')?;
            join([&sign, &digits], &"".into()).into()
        }
        "center" | "ljust" | "rjust" => {
            let width = integer(args.positional.first().ok_or_else(|| missing(name))?)?;
            let fill = args.positional.get(1).map_or(Ok(" ".into()), |fill| string(fill).cloned())?;
            if fill.chars() != 1 {
                return Err(Error::type_error("The fill character must be exactly one character long"));
            }
            let align = match name {
                "center" => '^',
                "ljust" => '<',
                _ => '>',
            };
            formatting::justify(text, width, fill.as_str(), align)?.into()
        }
        "expandtabs" => return Err(Error::unsupported("`expandtabs`")),
        "isalnum" => all_chars(s, unicode::is_alphanumeric),
        "isalpha" => all_chars(s, unicode::is_alphabetic),
        "isascii" => Value::Bool(s.is_ascii()),
        "isdecimal" => all_chars(s, unicode::is_decimal),
        "isdigit" => all_chars(s, unicode::is_digit),
        "isnumeric" => all_chars(s, unicode::is_numeric),
        "isspace" => all_chars(s, unicode::is_space),
        "isprintable" => Value::Bool(s.chars().all(unicode::is_printable)),
        "isidentifier" => Value::Bool(unicode::is_identifier(s) && s.chars().all(unicode::is_word)),
        "islower" => Value::Bool(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase)),
        "isupper" => Value::Bool(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase)),
        "istitle" => Value::Bool(!s.is_empty() && s.chars().any(char::is_alphabetic) && title(s) == s),
        _ => return Err(Error::unsupported(format!("the method `{name}` of a string"))),
    };
    args.finish(&format!("{name}()"), most)?;
    Ok(value)
}

fn missing(name: &str) -> Error {
    Error::type_error(format!("{name}() takes at least 1 argument (0 given)"))
}

pub(crate) fn replace(session: &Session, text: &Text, from: &Text, to: &Text, most: usize) -> Result<Text> {
    let s = text.as_str();
    let mut out = TextBuilder::default();
    let mut at = 0;
    let mut done = 0;
    if from.as_str().is_empty() {
        for (start, c) in s.char_indices().take(most) {
            out.push(to);
            at = start + c.len_utf8();
            out.push(&text.slice(start..at));
            done += 1;
            session.spend(1 + to.as_str().len() / 16)?;
        }
        if done < most && at == s.len() {
            out.push(to);
        }
    } else {
        for (start, found) in s.match_indices(from.as_str()).take(most) {
            out.push(&text.slice(at..start));
            out.push(to);
            at = start + found.len();
            session.spend(1 + to.as_str().len() / 16)?;
        }
    }
    out.push(&text.slice(at..s.len()));
    Ok(out.finish())
}

fn split(text: &Text, separator: Option<&Value>, most: usize, from_right: bool) -> Result<Value> {
    let s = text.as_str();
    let limit = most.saturating_add(1);
    let Some(separator) = separator else {
        // Split at runs of whitespace. None remains at the ends, except in a final, unsplit part.
        let mut parts = Vec::new();
        let mut rest = unicode::trim(s);
        while !rest.is_empty() && parts.len() < most {
            let cut = if from_right { rest.rfind(unicode::is_space) } else { rest.find(unicode::is_space) };
            let Some(at) = cut else { break };
            if from_right {
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(&rest[at + width..]);
                rest = unicode::trim_end(&rest[..at]);
            } else {
                parts.push(&rest[..at]);
                rest = unicode::trim_start(&rest[at..]);
            }
        }
        if !rest.is_empty() {
            // The rest keeps the whitespace at its other end.
            let kept = if parts.len() < most {
                rest
            } else if from_right {
                let end = rest.as_ptr() as usize - s.as_ptr() as usize + rest.len();
                &s[..end]
            } else {
                let start = rest.as_ptr() as usize - s.as_ptr() as usize;
                &s[start..]
            };
            parts.push(kept);
        }
        if from_right {
            parts.reverse();
        }
        return Ok(texts(text, parts));
    };
    let separator = string(separator)?;
    if separator.as_str().is_empty() {
        return Err(Error::value_error("empty separator"));
    }
    let mut parts: Vec<&str> = if from_right {
        s.rsplitn(limit, separator.as_str()).collect()
    } else {
        s.splitn(limit, separator.as_str()).collect()
    };
    if from_right {
        parts.reverse();
    }
    Ok(texts(text, parts))
}

pub(crate) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        // Lowercase the rest as a whole, so that a final sigma is recognised.
        Some(first) => {
            let lower = text.to_lowercase();
            let skip: usize = first.to_lowercase().map(char::len_utf8).sum();
            unicode::to_title(first) + &lower[skip..]
        }
        None => String::new(),
    }
}

/// Python's `str.title`: a letter is uppercase if no letter precedes it.
fn title(text: &str) -> String {
    let lower = text.to_lowercase();
    if lower.chars().count() != text.chars().count() {
        return text
            .chars()
            .fold((String::new(), false), |(mut out, inside), c| {
                if inside {
                    out.extend(c.to_lowercase());
                } else {
                    out.push_str(&unicode::to_title(c));
                }
                let cased = c.is_lowercase() || c.is_uppercase();
                (out, cased)
            })
            .0;
    }
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for (c, small) in text.chars().zip(lower.chars()) {
        if inside {
            out.push(small);
        } else {
            out.push_str(&unicode::to_title(c));
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn casefold(text: &str) -> Result<String> {
    let mut folded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'ı' => folded.push(c),
            'ẞ' => folded.push_str("ss"),
            '\u{13a0}'..='\u{13ff}' | '\u{ab70}'..='\u{abbf}' => {
                return Err(Error::unsupported("`casefold` of Cherokee letters"));
            }
            c if c.is_ascii() => folded.push(c.to_ascii_lowercase()),
            c => c.to_uppercase().flat_map(char::to_lowercase).for_each(|c| folded.push(c)),
        }
    }
    Ok(folded)
}
