//! Reads the directory of a zip file whose entries are stored, not compressed
//! (<https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>).

use std::collections::BTreeMap;

use super::windows::Windows;
use crate::error::{Error, shortened};
use crate::files::ReadAt;

/// Bytes of a record, without its name and extra fields.
const LOCAL_HEADER: u64 = 30;
const DIRECTORY_ENTRY: usize = 46;
const END: usize = 22;
const END64_LOCATOR: u64 = 20;
const END64: u64 = 56;
/// Bytes of the longest comment at the end of the file.
const LONGEST_COMMENT: u64 = 0xffff;
/// Bytes of the longest directory: about a million entries.
const LONGEST_DIRECTORY: u64 = 1 << 27;

/// An entry of a zip file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its local header begins.
    header: u64,
    /// Bytes of the content.
    pub length: u64,
    /// CRC-32 of the content; 0 if the writer did not compute it.
    pub crc: u32,
}

/// All entries, by name.
pub(super) type Entries = BTreeMap<String, Entry>;

/// Reads numbers at fixed places of a record; zero where it is too short.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn number(&self, at: usize, size: usize) -> u64 {
        let mut bytes = [0; 8];
        if let Some(field) = self.0.get(at..at + size) {
            bytes[..size].copy_from_slice(field);
        }
        u64::from_le_bytes(bytes)
    }

    fn u16(&self, at: usize) -> u64 {
        self.number(at, 2)
    }

    fn u32(&self, at: usize) -> u64 {
        self.number(at, 4)
    }

    fn u64(&self, at: usize) -> u64 {
        self.number(at, 8)
    }
}

fn damaged(reason: &str) -> Error {
    Error::invalid(format!("the zip directory is damaged: {reason}"))
}

/// Where the directory is.
struct Directory {
    start: u64,
    length: u64,
    count: u64,
    /// Where the end record begins, which has these numbers.
    end: u64,
}

/// The place of the end record in `tail`, the end of a file: its comment must reach the file's end.
fn find_end(tail: &[u8]) -> Option<usize> {
    let last = tail.len().checked_sub(END)?;
    (0..=last).rev().find(|at| {
        let record = &tail[*at..];
        record.starts_with(b"PK\x05\x06") && Fields(record).u16(20) as usize == record.len() - END
    })
}

fn find_directory<S: ReadAt>(file: &Windows<S>) -> Result<Directory, Error> {
    let length = file.length();
    let mut tail = file.tail().to_vec();
    let mut found = find_end(&tail);
    if found.is_none() {
        let most = length.min(LONGEST_COMMENT + END as u64);
        tail = file.bytes(length - most, most)?;
        found = find_end(&tail);
    }
    let at = found.ok_or_else(|| Error::invalid("the zip file has no directory at its end: it is cut off"))?;
    let end = length - (tail.len() - at) as u64;
    let record = Fields(&tail[at..]);
    let short = Directory { start: record.u32(16), length: record.u32(12), count: record.u16(10), end };
    let Some(locator_start) = end.checked_sub(END64_LOCATOR) else { return Ok(short) };
    let locator = file.bytes(locator_start, END64_LOCATOR)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(short);
    }
    let start = Fields(&locator).u64(8);
    if start.checked_add(END64).is_none_or(|end| end > locator_start) {
        return Err(damaged("the record of its 64-bit sizes is out of place"));
    }
    let record = file.bytes(start, END64)?;
    if !record.starts_with(b"PK\x06\x06") {
        return Err(damaged("the record of its 64-bit sizes is missing"));
    }
    let record = Fields(&record);
    Ok(Directory { start: record.u64(48), length: record.u64(40), count: record.u64(32), end: start })
}

/// The values of an entry's 64-bit extra field, in the order in which they are needed.
fn wide_fields(extra: &[u8]) -> &[u8] {
    let mut rest = extra;
    while rest.len() >= 4 {
        let length = Fields(rest).u16(2) as usize;
        let Some(content) = rest.get(4..4 + length) else { break };
        if rest.starts_with(&[1, 0]) {
            return content;
        }
        rest = &rest[4 + length..];
    }
    &[]
}

/// The entry at the start of `bytes`: its name, itself, and its length in the directory.
fn parse_entry(bytes: &[u8]) -> Result<(String, Entry, usize), Error> {
    if !bytes.starts_with(b"PK\x01\x02") || bytes.len() < DIRECTORY_ENTRY {
        return Err(damaged("an entry is missing"));
    }
    let record = Fields(bytes);
    let lengths = [record.u16(28), record.u16(30), record.u16(32)].map(|length| length as usize);
    let name_end = DIRECTORY_ENTRY + lengths[0];
    let extra_end = name_end + lengths[1];
    let total = extra_end + lengths[2];
    let (Some(name), Some(extra)) = (bytes.get(DIRECTORY_ENTRY..name_end), bytes.get(name_end..extra_end)) else {
        return Err(damaged("an entry is cut off"));
    };
    if total > bytes.len() {
        return Err(damaged("an entry is cut off"));
    }
    let name = std::str::from_utf8(name).map_err(|_| damaged("a name is not UTF-8"))?;
    let shown = shortened(name);
    if record.u16(8) & 1 != 0 {
        return Err(Error::unsupported(format!("`{shown}` is encrypted")));
    }
    if record.u16(10) != 0 {
        return Err(Error::unsupported(format!("`{shown}` is compressed; torch.save never compresses")));
    }
    let mut wide = wide_fields(extra);
    let mut widen = |value: u64| {
        if value != 0xffff_ffff || wide.len() < 8 {
            return value;
        }
        let (value, rest) = wide.split_at(8);
        wide = rest;
        Fields(value).u64(0)
    };
    let length = widen(record.u32(24));
    let stored = widen(record.u32(20));
    let header = widen(record.u32(42));
    if length != stored {
        return Err(damaged(&format!("`{shown}` has two lengths")));
    }
    Ok((name.to_owned(), Entry { header, length, crc: record.u32(16) as u32 }, total))
}

/// Reads the directory.
pub(super) fn entries<S: ReadAt>(file: &Windows<S>) -> Result<Entries, Error> {
    let directory = find_directory(file)?;
    let end = directory.start.checked_add(directory.length);
    if end.is_none_or(|end| end > directory.end) {
        return Err(damaged("it is larger than the file"));
    }
    if directory.length > LONGEST_DIRECTORY {
        return Err(Error::unsupported(format!("a zip directory of {} bytes", directory.length)));
    }
    if directory.count > directory.length / DIRECTORY_ENTRY as u64 {
        return Err(damaged("it is too short for its entries"));
    }
    let bytes = file.bytes(directory.start, directory.length)?;
    let mut rest = bytes.as_slice();
    let mut entries = Entries::new();
    for _ in 0..directory.count {
        let (name, entry, length) = parse_entry(rest)?;
        rest = &rest[length..];
        let shown = shortened(&name);
        if entries.insert(name, entry).is_some() {
            return Err(damaged(&format!("`{shown}` occurs twice")));
        }
    }
    check_places(&entries, directory.start)?;
    Ok(entries)
}

/// Entries must not share bytes: otherwise a small file could describe many large entries.
fn check_places(entries: &Entries, limit: u64) -> Result<(), Error> {
    let mut places: Vec<(u64, u64, &str)> = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        // The local header repeats the name.
        let start = entry.header.checked_add(LOCAL_HEADER + name.len() as u64);
        let end = start.and_then(|start| start.checked_add(entry.length)).filter(|end| *end <= limit);
        let end = end.ok_or_else(|| damaged(&format!("`{}` is outside of the file", shortened(name))))?;
        places.push((entry.header, end, name));
    }
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(damaged(&format!("`{}` and `{}` overlap", shortened(pair[0].2), shortened(pair[1].2)))),
        None => Ok(()),
    }
}

/// Where the content of `entry` begins.
pub(super) fn content_start<S: ReadAt>(file: &Windows<S>, name: &str, entry: &Entry) -> Result<u64, Error> {
    let header = file.bytes(entry.header, LOCAL_HEADER)?;
    if !header.starts_with(b"PK\x03\x04") {
        return Err(damaged(&format!("`{}` has no header", shortened(name))));
    }
    let record = Fields(&header);
    // Below 2¹⁷, and `header` is within the file.
    let start = entry.header + LOCAL_HEADER + record.u16(26) + record.u16(28);
    match start.checked_add(entry.length) {
        Some(end) if end <= file.length() => Ok(start),
        _ => Err(damaged(&format!("`{}` is outside of the file", shortened(name)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_record_is_the_one_whose_comment_reaches_the_end() {
        let mut file = b"PK\x05\x06".to_vec();
        file.extend([0; 16]);
        file.extend([3, 0]);
        file.extend(b"abc");
        assert_eq!(find_end(&file), Some(0));
        file.pop();
        assert_eq!(find_end(&file), None);
        assert_eq!(find_end(b"PK"), None);
    }
}
