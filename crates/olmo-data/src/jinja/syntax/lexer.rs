//! Splits a template into tokens like Jinja2's lexer with `trim_blocks` and `lstrip_blocks`.

use crate::jinja::error::{Error, Result};
use crate::jinja::unicode;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text outside of tags.
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub line: usize,
}

/// Longer operators first.
const OPERATORS: [&str; 27] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";", "!",
];

/// The tokens of `source`, ending with [`Kind::End`].
pub(super) fn tokenize(source: &str) -> Result<Vec<Token>> {
    // Line ends become \n, and a trailing one is dropped.
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, line_starting: true, tokens: Vec::new() };
    lexer.root()?;
    lexer.add(Kind::End);
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    /// Whether the last match ended with a newline.
    line_starting: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Block,
    Variable,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn add(&mut self, kind: Kind) {
        self.tokens.push(Token { kind, line: self.line });
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::syntax(message).at(self.line))
    }

    /// Advances by `bytes`.
    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count();
        self.line_starting = passed.ends_with('\n');
        self.at += bytes;
    }

    fn root(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let Some(found) = find_tag(rest) else {
                if !rest.is_empty() {
                    self.add(Kind::Data(rest.to_owned()));
                }
                return Ok(());
            };
            let opener = &rest[found..found + 2];
            let after = &rest[found + 2..];
            let sign = after.bytes().next().filter(|byte| matches!(byte, b'-' | b'+'));
            let text = strip_left(&rest[..found], sign, opener != "{{", self.line_starting);
            if !text.is_empty() {
                self.add(Kind::Data(text.to_owned()));
            }
            let raw = if opener == "{%" { raw_begin(after) } else { None };
            if let Some(length) = raw {
                self.advance(found + 2 + length);
                self.raw()?;
                continue;
            }
            self.advance(found + 2 + usize::from(sign.is_some()));
            match opener {
                "{#" => self.comment()?,
                "{%" => self.tag(Tag::Block)?,
                _ => self.tag(Tag::Variable)?,
            }
        }
    }

    /// After `{#`.
    fn comment(&mut self) -> Result<()> {
        let Some(end) = self.rest().find("#}") else { return self.fail("Missing end of comment tag") };
        let sign = self.rest()[..end].bytes().next_back();
        let length = end + 2 + block_suffix(&self.rest()[end + 2..], sign);
        self.advance(length);
        Ok(())
    }

    /// After `{% raw %}`.
    fn raw(&mut self) -> Result<()> {
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest[from..].find("{%").map(|found| from + found) {
            from = found + 2;
            let mut after = &rest[from..];
            let sign = after.bytes().next().filter(|byte| matches!(byte, b'-' | b'+'));
            after = &after[usize::from(sign.is_some())..];
            let Some(after) = unicode::trim_start(after).strip_prefix("endraw") else { continue };
            let after = unicode::trim_start(after);
            let (end_sign, after) = match after.as_bytes().first() {
                Some(sign @ (b'-' | b'+')) => (Some(*sign), &after[1..]),
                _ => (None, after),
            };
            let Some(after) = after.strip_prefix("%}") else { continue };
            let text = strip_left(&rest[..found], sign, true, self.line_starting);
            if !text.is_empty() {
                self.add(Kind::Data(text.to_owned()));
            }
            let length = rest.len() - after.len() + block_suffix(after, end_sign);
            self.advance(length);
            return Ok(());
        }
        self.fail("Missing end of raw directive")
    }

    /// After `{{` or `{%`, up to the end of the tag.
    fn tag(&mut self, tag: Tag) -> Result<()> {
        self.add(if tag == Tag::Block { Kind::BlockBegin } else { Kind::VariableBegin });
        let mut open: Vec<&str> = Vec::new();
        loop {
            let rest = self.rest();
            if open.is_empty()
                && let Some(length) = tag_end(rest, tag)
            {
                self.add(if tag == Tag::Block { Kind::BlockEnd } else { Kind::VariableEnd });
                self.advance(length);
                return Ok(());
            }
            let Some(first) = rest.chars().next() else {
                return self.fail("unexpected end of template, a tag is not closed");
            };
            let space = rest.len() - unicode::trim_start(rest).len();
            if space > 0 {
                self.advance(space);
            } else if let Some((length, value)) = self.number(rest)? {
                self.add(value);
                self.advance(length);
            } else if unicode::is_word(first) {
                let length = rest.find(|c| !unicode::is_word(c)).unwrap_or(rest.len());
                let name = &rest[..length];
                if !unicode::is_identifier(name) {
                    return self.fail(format!("Invalid character in identifier `{name}`"));
                }
                self.add(Kind::Name(name.to_owned()));
                self.advance(length);
            } else if matches!(first, '"' | '\'') {
                let Some(length) = string_length(rest) else {
                    return self.fail(format!("unexpected char {first:?}: a string is not closed"));
                };
                let value = unescape(&rest[1..length - 1]).map_err(|e| e.at(self.line))?;
                self.add(Kind::Str(value));
                self.advance(length);
            } else {
                let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator)) else {
                    return self.fail(format!("unexpected char {first:?}"));
                };
                match operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" => match open.pop() {
                        Some(expected) if expected == operator => {}
                        Some(expected) => return self.fail(format!("unexpected '{operator}', expected '{expected}'")),
                        None => return self.fail(format!("unexpected '{operator}'")),
                    },
                    "!" => return self.fail("unexpected char '!'"),
                    _ => {}
                }
                self.add(Kind::Operator(operator));
                self.advance(operator.len());
            }
        }
    }

    /// A number at the start of `rest`, with its length.
    fn number(&self, rest: &str) -> Result<Option<(usize, Kind)>> {
        if !rest.as_bytes()[0].is_ascii_digit() {
            return Ok(None);
        }
        let after_dot = self.source[..self.at].ends_with('.');
        if !after_dot && let Some(length) = float_length(rest) {
            let digits = rest[..length].replace('_', "");
            return match digits.parse::<f64>() {
                Ok(value) if value.is_infinite() => {
                    Err(Error::unsupported("a number too large for a float").at(self.line))
                }
                Ok(value) => Ok(Some((length, Kind::Float(value)))),
                Err(_) => self.fail(format!("`{}` is not a number", &rest[..length])),
            };
        }
        let (radix, prefix) = match rest.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("0b") => (2, 2),
            Some("0o") => (8, 2),
            Some("0x") => (16, 2),
            _ => (10, 0),
        };
        let mut length = digits_length(&rest[prefix..], radix, prefix > 0) + prefix;
        let (radix, prefix) = if length > prefix { (radix, prefix) } else { (10, 0) };
        if radix == 10 {
            length = digits_length(rest, 10, false);
            // Only 0 itself may start with the digit 0.
            if rest.starts_with('0') {
                length = rest[..length].find(|c| c != '0' && c != '_').unwrap_or(length);
                length = rest[..length].trim_end_matches('_').len();
            }
        }
        let digits = rest[prefix..length].replace('_', "");
        match i128::from_str_radix(&digits, radix) {
            Ok(value) => Ok(Some((length, Kind::Int(value)))),
            Err(_) => self.fail(format!("the integer `{}` is too large", &rest[..length])),
        }
    }
}

/// The position of the first tag.
fn find_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(found) = text[at..].find('{') {
        at += found;
        if matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#')) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Length of the rest of a `{% raw %}` tag; `after` is the text after the opening brace and percent
/// sign.
fn raw_begin(after: &str) -> Option<usize> {
    let inner = after.strip_prefix(['-', '+']).unwrap_or(after);
    let inner = unicode::trim_start(inner).strip_prefix("raw")?;
    let inner = unicode::trim_start(inner);
    let rest = match inner.strip_prefix("-%}") {
        Some(rest) => unicode::trim_start(rest),
        None => inner.strip_prefix("%}")?,
    };
    Some(after.len() - rest.len())
}

/// `text` before a tag, without the whitespace that the tag strips.
fn strip_left(text: &str, sign: Option<u8>, lstrip: bool, line_starting: bool) -> &str {
    match sign {
        Some(b'-') => unicode::trim_end(text),
        None if lstrip => {
            let line = text.rfind('\n').map_or(0, |newline| newline + 1);
            let blank = line < text.len() && unicode::trim_start(&text[line..]).is_empty();
            if blank && (line > 0 || line_starting) { &text[..line] } else { text }
        }
        _ => text,
    }
}

/// Number of bytes of `after` stripped by the end of a block or comment.
fn block_suffix(after: &str, sign: Option<u8>) -> usize {
    match sign {
        Some(b'-') => after.len() - unicode::trim_start(after).len(),
        Some(b'+') => 0,
        _ => usize::from(after.starts_with('\n')),
    }
}

/// Length of the tag end at the start of `rest`.
fn tag_end(rest: &str, tag: Tag) -> Option<usize> {
    let end = if tag == Tag::Block { "%}" } else { "}}" };
    let (sign, after) = match rest.as_bytes().first() {
        Some(b'-') => (Some(b'-'), &rest[1..]),
        Some(b'+') if tag == Tag::Block => (Some(b'+'), &rest[1..]),
        _ => (None, rest),
    };
    let after = after.strip_prefix(end)?;
    let suffix = if tag == Tag::Variable && sign.is_none() { 0 } else { block_suffix(after, sign) };
    Some(rest.len() - after.len() + suffix)
}

/// Length of digits with single underscores in between; with `leading`, also before the first
/// digit.
fn digits_length(text: &str, radix: u32, leading: bool) -> usize {
    let mut length = 0;
    let mut underscore = !leading;
    for (at, c) in text.char_indices() {
        if c.is_digit(radix) && c.is_ascii() {
            length = at + 1;
            underscore = false;
        } else if c == '_' && !underscore {
            underscore = true;
        } else {
            break;
        }
    }
    length
}

/// Length of a float at the start of `text`: a fraction, an exponent or both.
fn float_length(text: &str) -> Option<usize> {
    let whole = digits_length(text, 10, false);
    let mut length = whole;
    if let Some(fraction) = text[whole..].strip_prefix('.') {
        let digits = digits_length(fraction, 10, false);
        if digits > 0 {
            length = whole + 1 + digits;
        }
    }
    if let Some(exponent) = text[length..].strip_prefix(['e', 'E']) {
        let signed = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let digits = digits_length(signed, 10, false);
        if digits > 0 {
            return Some(text.len() - signed.len() + digits);
        }
    }
    (length > whole).then_some(length)
}

/// Length of the string literal at the start of `text`, with its quotes.
fn string_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            byte if *byte == bytes[0] => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The value of a string literal, as in Python's `unicode-escape`.
fn unescape(text: &str) -> Result<String> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            value.push(c);
            continue;
        }
        let Some(escaped) = chars.next() else { return Err(Error::syntax("\\ at end of string")) };
        match escaped {
            '\n' => {}
            '\\' | '\'' | '"' => value.push(escaped),
            'a' => value.push('\u{7}'),
            'b' => value.push('\u{8}'),
            'f' => value.push('\u{c}'),
            'n' => value.push('\n'),
            'r' => value.push('\r'),
            't' => value.push('\t'),
            'v' => value.push('\u{b}'),
            '0'..='7' => {
                let rest = chars.as_str();
                let more = rest.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let digits = format!("{escaped}{}", &rest[..more]);
                chars = rest[more..].chars();
                let code = u32::from_str_radix(&digits, 8).unwrap_or_default();
                value.extend(char::from_u32(code));
            }
            'x' | 'u' | 'U' => {
                let length = match escaped {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let rest = chars.as_str();
                let digits = rest.get(..length).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let Some(digits) = digits else {
                    return Err(Error::syntax(format!("truncated \\{escaped} escape in a string")));
                };
                chars = rest[length..].chars();
                match u32::from_str_radix(digits, 16).ok().and_then(char::from_u32) {
                    Some(c) => value.push(c),
                    None => {
                        return Err(Error::unsupported(format!("the escape `\\{escaped}{digits}`, half a character")));
                    }
                }
            }
            'N' => return Err(Error::unsupported("the escape `\\N{…}`")),
            // Python first escapes non-ASCII characters, so this backslash escapes the backslash of
            // that escape.
            other if !other.is_ascii() => {
                let code = u32::from(other);
                let escape = match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                };
                value.push_str(&escape);
            }
            other => value.extend(['\\', other]),
        }
    }
    Ok(value)
}
