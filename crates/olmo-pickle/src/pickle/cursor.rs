//! Reads the arguments of opcodes from a pickle.

use crate::error::{Error, shortened};

/// A pickle and a place in it.
pub(super) struct Cursor<'i> {
    pub input: &'i [u8],
    pub at: usize,
}

impl<'i> Cursor<'i> {
    pub(super) fn remaining(&self) -> usize {
        self.input.len() - self.at
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'i [u8], Error> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.input.len());
        let end = end.ok_or_else(|| Error::invalid("the pickle ends within a value"))?;
        let bytes = &self.input[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Error> {
        self.array().map(i32::from_le_bytes)
    }

    /// A double, big endian.
    pub(super) fn f64(&mut self) -> Result<f64, Error> {
        self.array().map(f64::from_be_bytes)
    }

    /// A length of one byte.
    pub(super) fn length_u8(&mut self) -> Result<usize, Error> {
        self.u8().map(usize::from)
    }

    /// A length of four bytes; negative ones are refused by their size.
    pub(super) fn length_u32(&mut self) -> Result<usize, Error> {
        self.u32().map(|length| length as usize)
    }

    /// A length of eight bytes.
    pub(super) fn length_u64(&mut self) -> Result<usize, Error> {
        let length = self.array().map(u64::from_le_bytes)?;
        usize::try_from(length).map_err(|_| Error::invalid("the pickle ends within a value"))
    }

    /// The rest of the line, without its end.
    pub(super) fn line_bytes(&mut self) -> Result<&'i [u8], Error> {
        let rest = &self.input[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n');
        let length = length.ok_or_else(|| Error::invalid("the pickle ends within a line of text"))?;
        self.at += length + 1;
        Ok(rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]))
    }

    /// The rest of the line as UTF-8.
    pub(super) fn line(&mut self) -> Result<&'i str, Error> {
        std::str::from_utf8(self.line_bytes()?).map_err(|_| Error::invalid("a line of text is not UTF-8"))
    }

    /// `length` bytes of UTF-8.
    pub(super) fn text(&mut self, length: usize) -> Result<&'i str, Error> {
        std::str::from_utf8(self.take(length)?).map_err(|_| Error::invalid("a string is not UTF-8"))
    }
}

/// A number that is written as decimal digits.
pub(super) fn decimal(text: &str) -> Result<i64, Error> {
    let digits = text.strip_suffix('L').unwrap_or(text).trim();
    digits.parse().map_err(|_| Error::unsupported(format!("`{}` is not an int of 64 bits", shortened(text))))
}

/// The content of a quoted string as Python 2's `repr` writes it.
pub(super) fn unquote(line: &str) -> Result<Vec<u8>, Error> {
    let bad = || Error::invalid("a quoted string is not complete");
    let line = line.trim();
    let quote = line.chars().next().filter(|quote| matches!(quote, '\'' | '"')).ok_or_else(bad)?;
    let inner = line.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)).ok_or_else(bad)?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().ok_or_else(bad)? {
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'r' => bytes.push(b'\r'),
            b'x' => {
                let mut digit = || (rest.next().ok_or_else(bad)? as char).to_digit(16).ok_or_else(bad);
                let (high, low) = (digit()?, digit()?);
                bytes.push((high * 16 + low) as u8);
            }
            other @ (b'\\' | b'\'' | b'"') => bytes.push(other),
            other => return Err(Error::unsupported(format!("the escape `\\{}` in a string", other.escape_ascii()))),
        }
    }
    Ok(bytes)
}

/// Text of protocol 0: latin1, with `\uXXXX` and `\UXXXXXXXX` for other characters.
pub(super) fn unescape_unicode(line: &[u8]) -> Result<String, Error> {
    let bad = || Error::invalid("an escape in a string is no character");
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((byte, after)) = rest.split_first() {
        let digits = match (byte, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(*byte));
                rest = after;
                continue;
            }
        };
        let number = after.get(1..=digits).and_then(|number| std::str::from_utf8(number).ok()).ok_or_else(bad)?;
        let number = u32::from_str_radix(number, 16).map_err(|_| bad())?;
        text.push(char::from_u32(number).ok_or_else(bad)?);
        rest = &after[digits + 1..];
    }
    Ok(text)
}
