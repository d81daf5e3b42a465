//! Python's operators on numbers, texts and lists.

use crate::jinja::error::{Error, Result};
use crate::jinja::python::formatting;
use crate::jinja::session::Session;
use crate::jinja::syntax::ast::Binary;
use crate::jinja::text::TextBuilder;
use crate::jinja::value::Value;

fn too_large() -> Error {
    Error::unsupported("an integer that does not fit in 128 bits")
}

pub(crate) fn negative(value: &Value) -> Result<Value> {
    match value.defined()? {
        Value::Float(value) => Ok(Value::Float(-value)),
        other => match other.as_int() {
            Some(value) => value.checked_neg().map(Value::Int).ok_or_else(too_large),
            None => Err(Error::type_error(format!("bad operand type for unary -: '{}'", other.type_name()))),
        },
    }
}

pub(crate) fn positive(value: &Value) -> Result<Value> {
    match value.defined()? {
        Value::Float(value) => Ok(Value::Float(*value)),
        other => match other.as_int() {
            Some(value) => Ok(Value::Int(value)),
            None => Err(Error::type_error(format!("bad operand type for unary +: '{}'", other.type_name()))),
        },
    }
}

pub(crate) fn binary(session: &Session, operator: Binary, a: &Value, b: &Value) -> Result<Value> {
    a.defined()?;
    // The `%` operator formats a text with any value.
    if operator != Binary::Mod || !matches!(a, Value::Text(_)) {
        b.defined()?;
    }
    if matches!(a, Value::Markup(_)) || matches!(b, Value::Markup(_)) {
        return Err(Error::unsupported("joining text to a result of `safe` or `escape`"));
    }
    match (operator, a, b) {
        (Binary::Add, Value::Text(x), Value::Text(y)) => {
            session.spend((x.as_str().len() + y.as_str().len()) / 16)?;
            let mut builder = TextBuilder::default();
            builder.push(x);
            builder.push(y);
            return Ok(builder.finish().into());
        }
        (Binary::Add, Value::List(x), Value::List(y)) => {
            session.spend(x.len() + y.len())?;
            return Ok(Value::list(x.iter().chain(y.iter()).cloned().collect()));
        }
        (Binary::Add, Value::Tuple(x) | Value::Group(x), Value::Tuple(y) | Value::Group(y)) => {
            session.spend(x.len() + y.len())?;
            return Ok(Value::tuple(x.iter().chain(y.iter()).cloned().collect()));
        }
        (Binary::Mul, many, times) | (Binary::Mul, times, many)
            if times.as_int().is_some()
                && matches!(many, Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Group(_)) =>
        {
            let times = usize::try_from(times.as_int().unwrap_or(0).max(0)).unwrap_or(usize::MAX);
            let length = match many {
                Value::Text(text) => text.as_str().len(),
                other => other.len()?,
            };
            session.spend(times.saturating_mul(length.max(1)))?;
            return Ok(match many {
                Value::Text(text) => {
                    let mut builder = TextBuilder::default();
                    (0..times).for_each(|_| builder.push(text));
                    builder.finish().into()
                }
                other => {
                    let items = other.items()?;
                    let repeated = items.iter().cycle().take(items.len() * times).cloned().collect();
                    if matches!(other, Value::List(_)) { Value::list(repeated) } else { Value::tuple(repeated) }
                }
            });
        }
        (Binary::Mod, Value::Text(text), values) => {
            let values = match values {
                Value::Tuple(items) | Value::Group(items) => items.to_vec(),
                other => vec![other.clone()],
            };
            return formatting::percent(session, text, &values, Some(b));
        }
        _ => {}
    }
    if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
        return integers(operator, x, y);
    }
    if let (Some(x), Some(y)) = (a.as_float(), b.as_float()) {
        return floats(operator, x, y).map(Value::Float);
    }
    let symbol = match operator {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "** or pow()",
    };
    Err(Error::type_error(match (operator, a) {
        (Binary::Add, Value::Text(_) | Value::List(_) | Value::Tuple(_)) => {
            format!("can only concatenate {0} (not \"{1}\") to {0}", a.type_name(), b.type_name())
        }
        _ => format!("unsupported operand type(s) for {symbol}: '{}' and '{}'", a.type_name(), b.type_name()),
    }))
}

fn by_zero() -> Error {
    Error::raised("ZeroDivisionError", "division by zero")
}

fn integers(operator: Binary, a: i128, b: i128) -> Result<Value> {
    let checked = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div | Binary::FloorDiv | Binary::Mod if b == 0 => return Err(by_zero()),
        Binary::Div => return Ok(Value::Float(a as f64 / b as f64)),
        Binary::FloorDiv => a.checked_div_euclid(b).map(|q| {
            // Euclidean division equals floor division only for a positive divisor.
            if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q }
        }),
        Binary::Mod => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        Binary::Pow if b < 0 => return floats(operator, a as f64, b as f64).map(Value::Float),
        Binary::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    checked.map(Value::Int).ok_or_else(too_large)
}

fn floats(operator: Binary, a: f64, b: f64) -> Result<f64> {
    Ok(match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::FloorDiv | Binary::Mod if b == 0.0 => return Err(by_zero()),
        Binary::Div => a / b,
        Binary::FloorDiv => divide(a, b).0,
        Binary::Mod => divide(a, b).1,
        Binary::Pow if a == 0.0 && b < 0.0 => {
            return Err(Error::raised("ZeroDivisionError", "0.0 cannot be raised to a negative power"));
        }
        Binary::Pow if a < 0.0 && b.fract() != 0.0 => return Err(Error::unsupported("a complex number")),
        Binary::Pow => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(Error::raised("OverflowError", "Numerical result out of range"));
            }
            power
        }
    })
}

/// Python's `divmod` of floats: the quotient is floored, the remainder has the divisor's sign.
fn divide(a: f64, b: f64) -> (f64, f64) {
    let mut remainder = a % b;
    let mut quotient = (a - remainder) / b;
    if remainder != 0.0 {
        if (b < 0.0) != (remainder < 0.0) {
            remainder += b;
            quotient -= 1.0;
        }
    } else {
        remainder = 0f64.copysign(b);
    }
    if quotient == 0.0 {
        return (0f64.copysign(a / b), remainder);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, remainder)
}

/// Python's `round`: rounds halves to even, based on the exact decimal value.
pub(crate) fn round(value: &Value, digits: i128) -> Result<Value> {
    if let Some(int) = value.as_int() {
        if digits >= 0 {
            return Ok(Value::Int(int));
        }
        let unit = u32::try_from(-digits).ok().and_then(|digits| 10i128.checked_pow(digits));
        let Some(unit) = unit else { return Ok(Value::Int(0)) };
        let (below, rest) = (int.div_euclid(unit), int.rem_euclid(unit));
        let up = rest * 2 > unit || rest * 2 == unit && below % 2 != 0;
        return Ok(Value::Int((below + i128::from(up)) * unit));
    }
    let Some(float) = value.as_float() else {
        return Err(Error::type_error(format!("type {} doesn't define __round__ method", value.type_name())));
    };
    if !float.is_finite() || digits > 300 {
        return Ok(Value::Float(float));
    }
    if digits < 0 {
        let unit = 10f64.powi(-(digits.max(-400) as i32));
        return Ok(Value::Float(if unit.is_finite() {
            (float / unit).round_ties_even() * unit
        } else {
            0f64.copysign(float)
        }));
    }
    // Formatting rounds the exact value, halves to even.
    let text = format!("{float:.*}", digits as usize);
    Ok(Value::Float(text.parse().unwrap_or(float)))
}

/// Python's `int(text, base)`.
pub(crate) fn parse_int(text: &str, base: i128) -> Result<Option<i128>> {
    let trimmed = crate::jinja::unicode::trim(text);
    let (negative, digits) = match trimmed.as_bytes().first() {
        Some(b'-') => (true, &trimmed[1..]),
        Some(b'+') => (false, &trimmed[1..]),
        _ => (false, trimmed),
    };
    let lower = digits.to_lowercase();
    let prefix = match lower.get(..2) {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        Some("0b") => Some(2),
        _ => None,
    };
    let (radix, digits) = match (base, prefix) {
        (0, Some(radix)) => (radix, &lower[2..]),
        (0, None) => (10, lower.as_str()),
        (base, Some(radix)) if base == i128::from(radix) => (radix, &lower[2..]),
        (base @ 2..=36, _) => (base as u32, lower.as_str()),
        _ => return Err(Error::value_error("int() base must be >= 2 and <= 36, or 0")),
    };
    if !digits.is_ascii() {
        return Err(Error::unsupported("int() of non-ASCII digits"));
    }
    let sound = !digits.is_empty() && !digits.ends_with('_') && !digits.contains("__");
    let sound = sound && (prefix.is_some() || !digits.starts_with('_'));
    let plain = digits.replace('_', "");
    if !sound || !plain.chars().all(|c| c.is_digit(radix)) || plain.is_empty() {
        return Ok(None);
    }
    if base == 0 && prefix.is_none() && plain.len() > 1 && plain.starts_with('0') && plain.bytes().any(|b| b != b'0') {
        return Ok(None);
    }
    let value = i128::from_str_radix(&plain, radix).map_err(|_| too_large())?;
    Ok(Some(if negative { -value } else { value }))
}

/// Python's `float(text)`.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let trimmed = crate::jinja::unicode::trim(text);
    let lower = trimmed.to_ascii_lowercase();
    let unsigned = lower.strip_prefix(['+', '-']).unwrap_or(&lower);
    if matches!(unsigned, "inf" | "infinity" | "nan") {
        return lower.parse().ok();
    }
    let bytes = lower.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let sound = bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'_' => digit(at.checked_sub(1)) && digit(Some(at + 1)),
        b'0'..=b'9' | b'.' | b'e' | b'+' | b'-' => true,
        _ => false,
    });
    if !sound || !bytes.iter().any(u8::is_ascii_digit) {
        return None;
    }
    lower.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_and_rounding_are_pythons() {
        let int = |operator, a, b| match integers(operator, a, b).unwrap() {
            Value::Int(value) => value,
            _ => panic!(),
        };
        assert_eq!([(7, 2), (-7, 2), (7, -2), (-7, -2)].map(|(a, b)| int(Binary::FloorDiv, a, b)), [3, -4, -4, 3]);
        assert_eq!([(7, 3), (-7, 3), (7, -3), (-7, -3)].map(|(a, b)| int(Binary::Mod, a, b)), [1, 2, -2, -1]);
        assert_eq!(divide(-7.5, 2.0), (-4.0, 0.5));
        let rounded = |value: f64, digits| round(&Value::Float(value), digits).unwrap().as_float().unwrap();
        assert_eq!([0.5, 1.5, 2.5, -0.5].map(|value| rounded(value, 0)), [0.0, 2.0, 2.0, -0.0]);
        assert_eq!((rounded(2.675, 2), rounded(1234.5, -2)), (2.67, 1200.0));
        assert_eq!(
            (parse_float("1_0.5"), parse_float("1__0"), parse_float("1e5"), parse_float("x")),
            (Some(10.5), None, Some(1e5), None)
        );
        assert_eq!(
            (parse_int(" -12 ", 10).unwrap(), parse_int("0x1f", 16).unwrap(), parse_int("1.5", 10).unwrap()),
            (Some(-12), Some(31), None)
        );
    }
}
