//! Python's two text formats: `'%s' % value` and `'{}'.format(value)`.

use crate::jinja::arguments::Args;
use crate::jinja::error::{Error, Result};
use crate::jinja::python::access::{attribute, item};
use crate::jinja::python::repr::float_repr;
use crate::jinja::session::Session;
use crate::jinja::text::{Text, TextBuilder};
use crate::jinja::value::Value;

/// The options between `%` or `:` and the type.
#[derive(Clone, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    comma: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

const WIDEST: usize = 1 << 16;

/// `text % values`; `mapping` is the operand itself.
pub(crate) fn percent(session: &Session, text: &Text, values: &[Value], mapping: Option<&Value>) -> Result<Value> {
    let mut out = TextBuilder::default();
    let string = text.as_str();
    let mut rest = string;
    let mut next = 0;
    let mut named = false;
    while let Some(found) = rest.find('%') {
        out.push(&text.subslice(&rest[..found]));
        let mut chars = rest[found + 1..].chars().peekable();
        let mut key = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let mut name = String::new();
            loop {
                match chars.next() {
                    Some(')') => break,
                    Some(c) => name.push(c),
                    None => return Err(Error::value_error("incomplete format key")),
                }
            }
            key = Some(name);
            named = true;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                '+' => spec.sign = Some('+'),
                _ => spec.sign = spec.sign.or(Some(' ')),
            }
        }
        let mut take = || -> Result<Value> {
            let value = match &key {
                Some(name) => match mapping {
                    Some(Value::Dict(dict)) => {
                        dict.get_str(name).cloned().ok_or_else(|| Error::raised("KeyError", format!("'{name}'")))?
                    }
                    _ => return Err(Error::type_error("format requires a mapping")),
                },
                None => {
                    next += 1;
                    values
                        .get(next - 1)
                        .cloned()
                        .ok_or_else(|| Error::type_error("not enough arguments for format string"))?
                }
            };
            Ok(value)
        };
        if chars.peek() == Some(&'*') {
            return Err(Error::unsupported("`*` in a `%` format"));
        }
        spec.width = number(&mut chars)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut chars)?.unwrap_or(0));
        }
        while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
        let Some(kind) = chars.next() else { return Err(Error::value_error("incomplete format")) };
        let after: String = chars.collect();
        rest = &string[string.len() - after.len()..];
        if kind == '%' {
            out.push_str("%");
            continue;
        }
        let value = take()?;
        let formatted = match kind {
            's' | 'r' | 'a' => {
                let shown = match kind {
                    's' => value.to_text()?,
                    'r' => value.repr()?,
                    _ => return Err(Error::unsupported("`%a` in a format")),
                };
                let shown = cut(&shown, spec.precision);
                pad(&shown, &Spec { zero: false, align: spec.align.or(Some('>')), ..spec })
            }
            'c' => return Err(Error::unsupported("`%c` in a format")),
            'd' | 'i' | 'u' => {
                let number = match value.defined()? {
                    Value::Float(float) => Value::Int(truncate(*float)?),
                    other => other.clone(),
                };
                let Some(int) = number.as_int() else {
                    let message = format!("%{kind} format: a real number is required, not {}", value.type_name());
                    return Err(Error::type_error(message));
                };
                let mut digits = int.unsigned_abs().to_string();
                if let Some(precision) = spec.precision {
                    digits = format!("{digits:0>precision$}");
                }
                pad_number(int < 0, &digits, &Spec { align: spec.align.or(Some('>')), ..spec })
            }
            'x' | 'X' | 'o' => {
                let Some(int) = value.defined()?.as_int() else {
                    let message = format!("%{kind} format: an integer is required, not {}", value.type_name());
                    return Err(Error::type_error(message));
                };
                let digits = radix(int.unsigned_abs(), kind, spec.alternate);
                pad_number(int < 0, &digits, &Spec { align: spec.align.or(Some('>')), ..spec })
            }
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
                let Some(float) = value.defined()?.as_float() else {
                    return Err(Error::type_error(format!("must be real number, not {}", value.type_name())));
                };
                let digits = float_digits(float.abs(), kind, Some(spec.precision.unwrap_or(6)), spec.alternate);
                pad_number(
                    float.is_sign_negative() && !float.is_nan(),
                    &digits,
                    &Spec { align: spec.align.or(Some('>')), ..spec },
                )
            }
            other => {
                let code = u32::from(other);
                return Err(Error::value_error(format!("unsupported format character '{other}' ({code:#x})")));
            }
        };
        session.spend(1 + formatted.as_str().len() / 16)?;
        out.push(&formatted);
    }
    out.push(&text.subslice(rest));
    let unused = next < values.len() && !named && !matches!(mapping, Some(Value::Dict(_) | Value::List(_)));
    if unused {
        return Err(Error::type_error("not all arguments converted during string formatting"));
    }
    Ok(out.finish().into())
}

fn number(chars: &mut std::iter::Peekable<impl Iterator<Item = char>>) -> Result<Option<usize>> {
    let mut value = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let grown = value.unwrap_or(0) * 10 + digit as usize;
        if grown > WIDEST {
            return Err(Error::limit(format!("a format is wider than {WIDEST} characters")));
        }
        value = Some(grown);
    }
    Ok(value)
}

/// Truncates a float, like Python's `int`.
pub(crate) fn truncate(float: f64) -> Result<i128> {
    if !float.is_finite() {
        let what = if float.is_nan() { ("ValueError", "NaN") } else { ("OverflowError", "infinity") };
        return Err(Error::raised(what.0, format!("cannot convert float {} to integer", what.1)));
    }
    if float.abs() >= 1e38 {
        return Err(Error::unsupported("an integer that does not fit in 128 bits"));
    }
    Ok(float.trunc() as i128)
}

/// The first `precision` characters.
fn cut(text: &Text, precision: Option<usize>) -> Text {
    match precision {
        Some(precision) => text.slice(0..text.byte_of(precision)),
        None => text.clone(),
    }
}

fn pad(text: &Text, spec: &Spec) -> Text {
    let missing = spec.width.saturating_sub(text.chars());
    let left = match spec.align.unwrap_or('<') {
        '>' => missing,
        '^' => missing / 2,
        _ => 0,
    };
    let fill: String = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' }).into();
    let mut out = TextBuilder::default();
    out.push_str(&fill.repeat(left));
    out.push(text);
    out.push_str(&fill.repeat(missing - left));
    out.finish()
}

fn pad_number(negative: bool, digits: &str, spec: &Spec) -> Text {
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let between = spec.align == Some('=') || spec.zero && matches!(spec.align, None | Some('>'));
    if between {
        let fill: String = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' }).into();
        let missing = spec.width.saturating_sub(sign.len() + digits.chars().count());
        return format!("{sign}{}{digits}", fill.repeat(missing)).into();
    }
    pad(&format!("{sign}{digits}").into(), &Spec { zero: false, align: spec.align.or(Some('>')), ..spec.clone() })
}

fn radix(value: u128, kind: char, alternate: bool) -> String {
    let (prefix, digits) = match kind {
        'x' => ("0x", format!("{value:x}")),
        'X' => ("0X", format!("{value:X}")),
        'o' => ("0o", format!("{value:o}")),
        _ => ("0b", format!("{value:b}")),
    };
    if alternate { format!("{prefix}{digits}") } else { digits }
}

/// The digits of a non-negative float. Without a precision, the fewest that parse to the same
/// number.
fn float_digits(value: f64, kind: char, precision: Option<usize>, alternate: bool) -> String {
    let upper = kind.is_ascii_uppercase();
    let digits = if !value.is_finite() {
        if value.is_nan() { "nan".to_owned() } else { "inf".to_owned() }
    } else {
        match kind.to_ascii_lowercase() {
            'f' => fixed(value, precision.unwrap_or(6)),
            '%' => fixed(value * 100.0, precision.unwrap_or(6)) + "%",
            'e' => exponent(value, precision.unwrap_or(6)),
            _ => {
                let precision = precision.unwrap_or(6).max(1);
                let scientific = exponent(value, precision - 1);
                let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
                let strip = |text: String| {
                    if alternate || !text.contains('.') {
                        return text;
                    }
                    text.trim_end_matches('0').trim_end_matches('.').to_owned()
                };
                if power < -4 || power >= precision as i32 {
                    let (mantissa, power) = exponent(value, precision - 1)
                        .split_once('e')
                        .map(|(mantissa, power)| (mantissa.to_owned(), power.to_owned()))
                        .unwrap_or_default();
                    format!("{}e{power}", strip(mantissa))
                } else {
                    strip(fixed(value, (precision as i32 - 1 - power).max(0) as usize))
                }
            }
        }
    };
    if upper { digits.to_uppercase() } else { digits }
}

/// No float has more digits than this after the point; Rust's formatting panics far beyond.
const MOST_DIGITS: usize = 1100;

/// `15.00`.
fn fixed(value: f64, precision: usize) -> String {
    let shown = precision.min(MOST_DIGITS);
    format!("{value:.shown$}") + &"0".repeat(precision - shown)
}

/// `1.5e+07`.
fn exponent(value: f64, precision: usize) -> String {
    let shown = precision.min(MOST_DIGITS);
    let text = format!("{value:.shown$e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let sign = if power < 0 { '-' } else { '+' };
    format!("{mantissa}{}e{sign}{:02}", "0".repeat(precision - shown), power.abs())
}

/// `text.format(…)`.
pub(crate) fn braces(session: &Session, text: &Text, args: &Args) -> Result<Value> {
    let mut out = TextBuilder::default();
    let mut state = Automatic::default();
    write_braces(session, text, args, &mut state, 2, &mut out)?;
    Ok(out.finish().into())
}

/// Numbering of the fields.
#[derive(Default)]
struct Automatic {
    next: usize,
    manual: bool,
}

fn write_braces(
    session: &Session,
    text: &Text,
    args: &Args,
    state: &mut Automatic,
    depth: usize,
    out: &mut TextBuilder,
) -> Result<()> {
    let string = text.as_str();
    let mut at = 0;
    while let Some(found) = string[at..].find(['{', '}']).map(|found| at + found) {
        out.push(&text.slice(at..found));
        let brace = &string[found..=found];
        if string[found + 1..].starts_with(brace) {
            out.push_str(brace);
            at = found + 2;
            continue;
        }
        if brace == "}" {
            return Err(Error::value_error("Single '}' encountered in format string"));
        }
        let end =
            field_end(string, found + 1).ok_or_else(|| Error::value_error("expected '}' before end of string"))?;
        let field = &string[found + 1..end];
        at = end + 1;
        let (field, spec) = match split_spec(field) {
            (field, Some(spec)) => (field, spec),
            (field, None) => (field, ""),
        };
        let (name, conversion) = match field.rsplit_once('!') {
            Some((name, conversion)) => (name, Some(conversion)),
            None => (field, None),
        };
        let mut value = resolve(name, args, state)?;
        match conversion {
            None => {}
            Some("r") => value = value.repr()?.into(),
            Some("s") => value = value.to_text()?.into(),
            Some(other) => return Err(Error::unsupported(format!("the conversion `!{other}` in a format"))),
        }
        let spec = if spec.contains('{') {
            if depth == 0 {
                return Err(Error::value_error("Max string recursion exceeded"));
            }
            let mut inner = TextBuilder::default();
            write_braces(session, &spec.into(), args, state, depth - 1, &mut inner)?;
            inner.finish().as_str().to_owned()
        } else {
            spec.to_owned()
        };
        let formatted = apply_spec(&value, &spec)?;
        session.spend(1 + formatted.as_str().len() / 16)?;
        out.push(&formatted);
    }
    out.push(&text.slice(at..string.len()));
    Ok(())
}

/// The end of the field that starts at `from`.
fn field_end(string: &str, from: usize) -> Option<usize> {
    let (mut depth, mut bracket) = (0, false);
    for (at, byte) in string.bytes().enumerate().skip(from) {
        match byte {
            b'[' => bracket = true,
            b']' => bracket = false,
            b'{' if !bracket => depth += 1,
            b'}' if !bracket && depth == 0 => return Some(at),
            b'}' if !bracket => depth -= 1,
            _ => {}
        }
    }
    None
}

fn split_spec(field: &str) -> (&str, Option<&str>) {
    let mut bracket = false;
    for (at, byte) in field.bytes().enumerate() {
        match byte {
            b'[' => bracket = true,
            b']' => bracket = false,
            b':' if !bracket => return (&field[..at], Some(&field[at + 1..])),
            _ => {}
        }
    }
    (field, None)
}

/// The value of a field: an argument, followed by attributes and items.
fn resolve(name: &str, args: &Args, state: &mut Automatic) -> Result<Value> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(end);
    let index = if first.is_empty() {
        if state.manual {
            return Err(Error::value_error(
                "cannot switch from manual field specification to automatic field numbering",
            ));
        }
        state.next += 1;
        Some(state.next - 1)
    } else if first.bytes().all(|byte| byte.is_ascii_digit()) {
        if state.next > 0 {
            return Err(Error::value_error(
                "cannot switch from automatic field numbering to manual field specification",
            ));
        }
        state.manual = true;
        Some(first.parse().unwrap_or(usize::MAX))
    } else {
        None
    };
    let mut value = match index {
        Some(index) => args.positional.get(index).cloned().ok_or_else(|| {
            Error::raised("IndexError", format!("Replacement index {index} out of range for positional args tuple"))
        })?,
        None => {
            let named = args.named.iter().find(|(n, _)| n == first).map(|(_, value)| value.clone());
            named.ok_or_else(|| Error::raised("KeyError", format!("'{first}'")))?
        }
    };
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = attribute(&value, &after[..end])?;
            rest = &after[end..];
        } else {
            let Some(end) = rest.find(']') else { return Err(Error::value_error("Missing ']' in format string")) };
            let key = &rest[1..end];
            let key = match key.parse::<i128>() {
                Ok(index) if !key.starts_with(['-', '+']) => Value::Int(index),
                _ => key.into(),
            };
            value = item(&value, &key)?;
            rest = &rest[end + 1..];
        }
    }
    Ok(value)
}

/// `format(value, spec)`.
fn apply_spec(value: &Value, spec: &str) -> Result<Text> {
    if spec.is_empty() {
        return value.to_text();
    }
    let invalid = || Error::value_error(format!("Invalid format specifier '{spec}'"));
    let mut parsed = Spec::default();
    let mut chars: Vec<char> = spec.chars().collect();
    if chars.len() > 1 && "<>=^".contains(chars[1]) {
        parsed.fill = Some(chars[0]);
        parsed.align = Some(chars[1]);
        chars.drain(..2);
    } else if "<>=^".contains(chars[0]) {
        parsed.align = Some(chars.remove(0));
    }
    let mut chars = chars.into_iter().peekable();
    parsed.sign = chars.next_if(|c| "+- ".contains(*c));
    parsed.alternate = chars.next_if_eq(&'#').is_some();
    parsed.zero = chars.next_if_eq(&'0').is_some();
    parsed.width = number(&mut chars)?.unwrap_or(0);
    parsed.comma = chars.next_if(|c| ",_".contains(*c));
    if chars.next_if_eq(&'.').is_some() {
        parsed.precision =
            Some(number(&mut chars)?.ok_or_else(|| Error::value_error("Format specifier missing precision"))?);
    }
    parsed.kind = chars.next();
    if chars.next().is_some() {
        return Err(invalid());
    }
    match value.defined()? {
        Value::Text(text) => {
            if !matches!(parsed.kind, None | Some('s')) || parsed.sign.is_some() || parsed.comma.is_some() {
                let kind = parsed.kind.map(String::from).unwrap_or_default();
                return Err(Error::value_error(format!("Unknown format code '{kind}' for object of type 'str'")));
            }
            if parsed.align == Some('=') {
                return Err(Error::value_error("'=' alignment not allowed in string format specifier"));
            }
            let text = cut(text, parsed.precision);
            Ok(pad(&text, &parsed))
        }
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => format_number(value, &parsed),
        other => {
            Err(Error::type_error(format!("unsupported format string passed to {}.__format__", other.type_name())))
        }
    }
}

fn format_number(value: &Value, spec: &Spec) -> Result<Text> {
    let unknown = |kind: char| {
        Error::value_error(format!("Unknown format code '{kind}' for object of type '{}'", value.type_name()))
    };
    let (negative, digits) = match (value, spec.kind) {
        (Value::Bool(_), None) => return Err(Error::unsupported("a format with a width for a boolean")),
        (Value::Int(_) | Value::Bool(_), None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n')) => {
            let int = value.as_int().unwrap_or(0);
            if spec.precision.is_some() {
                return Err(Error::value_error("Precision not allowed in integer format specifier"));
            }
            let digits = match spec.kind {
                Some(kind @ ('x' | 'X' | 'o' | 'b')) => radix(int.unsigned_abs(), kind, spec.alternate),
                _ => int.unsigned_abs().to_string(),
            };
            (int < 0, digits)
        }
        (_, kind) => {
            let float = value.as_float().unwrap_or(f64::NAN);
            let digits = match kind {
                None => match spec.precision {
                    None => float_repr(float.abs()),
                    // Like `g`, with at least one digit after the point.
                    Some(_) => return Err(Error::unsupported("a format with a precision and no type, such as `:.3`")),
                },
                Some(kind @ ('f' | 'F' | 'e' | 'E' | 'g' | 'G' | '%')) => {
                    float_digits(float.abs(), kind, Some(spec.precision.unwrap_or(6)), spec.alternate)
                }
                Some('c') => return Err(Error::unsupported("`:c` in a format")),
                Some(kind) => return Err(unknown(kind)),
            };
            (float.is_sign_negative() && !float.is_nan(), digits)
        }
    };
    let digits = match spec.comma {
        Some(separator) => grouped(&digits, separator),
        None => digits,
    };
    if spec.comma.is_some() && spec.zero {
        return Err(Error::unsupported("a format with both `,` and leading zeros"));
    }
    Ok(pad_number(negative, &digits, spec))
}

fn grouped(digits: &str, separator: char) -> String {
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut text = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            text.push(separator);
        }
        text.push(digit);
    }
    text + rest
}

/// `text` in a field of `width` characters, like `str.center`, `ljust` and `rjust`.
pub(crate) fn justify(text: &Text, width: i128, fill: &str, align: char) -> Result<Text> {
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    if width > WIDEST.max(text.chars()) {
        return Err(Error::limit(format!("a field is wider than {WIDEST} characters")));
    }
    let missing = width.saturating_sub(text.chars());
    let left = match align {
        '>' => missing,
        // An odd remainder goes to the left if the width is odd.
        '^' => missing / 2 + (missing & width & 1),
        _ => 0,
    };
    let mut out = TextBuilder::default();
    out.push_str(&fill.repeat(left));
    out.push(text);
    out.push_str(&fill.repeat(missing - left));
    Ok(out.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_digits_than_a_float_has_are_zeros() {
        for kind in ['f', 'e', '%', 'g'] {
            let text = float_digits(0.1, kind, Some(65_535), true);
            assert!(
                text.len() >= 65_535 && text.trim_end_matches("e-01").trim_end_matches('%').ends_with("000"),
                "{kind}"
            );
        }
        assert_eq!(float_digits(1.5, 'e', Some(2), false), "1.50e+00");
        assert_eq!(float_digits(1.5, 'g', Some(65_535), false), "1.5");
    }
}
