//! [`Ranges`]: which bytes of a file are present, if only some of them were fetched.
//!
//! A file `NAME` of which only ranges are present is stored as two files, so that no program takes
//! it for the whole: `NAME.ranges` has the bytes of the ranges, one after the other, and
//! `NAME.ranges.json` lists the ranges.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{ReadAt, open_file};

const FORMAT: u32 = 1;
/// Bytes of the longest list.
const LONGEST_LIST: u64 = 64 << 20;

/// The ranges of a file that are present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    size: u64,
    /// Each range with its position in the file that has only the ranges.
    ranges: Vec<(u64, u64, u64)>,
}

/// `NAME.ranges.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    format: u32,
    /// Size of the whole file in bytes.
    size: u64,
    /// First byte and end of each range.
    ranges: Vec<(u64, u64)>,
}

impl Ranges {
    /// The names of the two files that hold the ranges of file `name`: the bytes, and the list.
    pub fn file_names(name: &str) -> [String; 2] {
        [format!("{name}.ranges"), format!("{name}.ranges.json")]
    }

    /// `ranges`, each with its first byte and its end, of a file of `size` bytes.
    ///
    /// # Errors
    /// A range is empty, out of order, or not in the file, as text.
    pub fn new(size: u64, ranges: &[(u64, u64)]) -> Result<Self, String> {
        let (mut placed, mut last, mut position) = (Vec::with_capacity(ranges.len()), 0, 0);
        for (start, end) in ranges.iter().copied() {
            if start >= end || start < last || end > size {
                return Err(format!(
                    "its ranges are not ascending ones of {size} bytes: {start} to {end}, after byte {last}"
                ));
            }
            placed.push((start, end, position));
            position += end - start;
            last = end;
        }
        Ok(Self { size, ranges: placed })
    }

    /// Number of bytes in all ranges.
    pub fn length(&self) -> u64 {
        self.ranges.last().map_or(0, |(start, end, position)| position + (end - start))
    }

    /// Where the `length` bytes of the file from `offset` on are in the file of the ranges, if one
    /// range holds all of them.
    pub fn position(&self, offset: u64, length: u64) -> Option<u64> {
        let after = self.ranges.partition_point(|(start, _, _)| *start <= offset);
        let (start, end, position) = *self.ranges.get(after.checked_sub(1)?)?;
        let inside = offset.checked_add(length).is_some_and(|last| last <= end);
        inside.then(|| position + (offset - start))
    }

    /// The range that holds the byte at `position` of the file of the ranges: where that byte is in
    /// the whole file, and where the range ends there.
    pub fn locate(&self, position: u64) -> Option<(u64, u64)> {
        let after = self.ranges.partition_point(|(_, _, first)| *first <= position);
        let (start, end, first) = *self.ranges.get(after.checked_sub(1)?)?;
        let offset = start + (position - first);
        (offset < end).then_some((offset, end))
    }

    /// The parts of the `length` bytes of the file from `offset` on that are in a range: where each
    /// begins and ends, counted from `offset`.
    pub fn within(&self, offset: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
        let last = offset.saturating_add(length);
        let first = self.ranges.partition_point(|(_, end, _)| *end <= offset);
        let overlapping = self.ranges[first..].iter().take_while(move |(start, _, _)| *start < last);
        overlapping.map(move |(start, end, _)| ((*start).max(offset) - offset, (*end).min(last) - offset))
    }

    /// The ranges, each with its first byte and its end.
    pub fn list(&self) -> Vec<(u64, u64)> {
        self.ranges.iter().map(|(start, end, _)| (*start, *end)).collect()
    }

    /// The content of `NAME.ranges.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let list = List { format: FORMAT, size: self.size, ranges: self.list() };
        // A struct of numbers always serializes.
        let mut text = serde_json::to_vec(&list).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// # Errors
    /// What is wrong with the content of `NAME.ranges.json`.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let list: List = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if list.format != FORMAT {
            return Err(format!("it has format {}, but this build reads {FORMAT}", list.format));
        }
        Self::new(list.size, &list.ranges)
    }

    /// Reads `NAME.ranges.json` at `path`.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = open_file(path)?;
        let length = file.length();
        if length > LONGEST_LIST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 64 MiB"));
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, 0)?;
        Self::from_json(&text).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

/// A file of which only some ranges are present.
struct RangedFile {
    bytes: Box<dyn ReadAt>,
    ranges: Ranges,
}

impl ReadAt for RangedFile {
    fn length(&self) -> u64 {
        self.ranges.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let position = self.ranges.position(offset, buffer.len() as u64).ok_or_else(|| {
            let end = offset.saturating_add(buffer.len() as u64);
            io::Error::new(io::ErrorKind::Unsupported, format!("bytes {offset} to {end} of it were not fetched"))
        })?;
        self.bytes.read_exact_at(buffer, position)
    }
}

/// Opens a file whose ranges are in the file `bytes`, as its list at `list` says. Reading any other
/// byte is an error.
///
/// # Errors
/// A file is missing or damaged, or `bytes` has another length than the list says.
pub fn open_ranges(bytes: &Path, list: &Path) -> io::Result<Box<dyn ReadAt>> {
    let ranges = Ranges::read(list)?;
    let bytes = open_file(bytes)?;
    if bytes.length() != ranges.length() {
        let why = format!("its ranges have {} bytes, expected {}", bytes.length(), ranges.length());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Box::new(RangedFile { bytes, ranges }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        for ranges in [&[(5, 5)][..], &[(6, 5)], &[(0, 4), (3, 5)], &[(4, 5), (0, 1)], &[(0, 11)]] {
            assert!(Ranges::new(10, ranges).is_err(), "{ranges:?}");
        }
        for text in
            ["", "{}", r#"{"format": 2, "size": 1, "ranges": []}"#, r#"{"format": 1, "size": 1, "ranges": [[0, 2]]}"#]
        {
            assert!(Ranges::from_json(text.as_bytes()).is_err(), "{text}");
        }
        Ranges::new(10, &[(0, 3), (3, 10)]).unwrap();
    }

    #[test]
    fn bytes_that_were_not_fetched_are_an_error_and_never_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let [bytes, list] = Ranges::file_names("shard").map(|name| folder.path().join(name));
        std::fs::write(&bytes, b"cdgh").unwrap();
        std::fs::write(&list, Ranges::new(10, &[(2, 4), (6, 8)]).unwrap().to_json()).unwrap();
        let file = open_ranges(&bytes, &list).unwrap();
        assert_eq!(file.length(), 10);
        let mut two = [0; 2];
        file.read_exact_at(&mut two, 6).unwrap();
        assert_eq!(&two, b"gh");
        for offset in [0, 1, 3, 4, 5, 7, 8, u64::MAX] {
            let error = file.read_exact_at(&mut two, offset).unwrap_err();
            assert!(error.to_string().contains("not fetched"), "{offset}: {error}");
        }
        std::fs::write(&bytes, b"cdg").unwrap();
        assert!(open_ranges(&bytes, &list).is_err());
    }

    proptest! {
        #[test]
        fn positions_and_places_are_inverse(cuts in proptest::collection::btree_set(0u64..200, 0..20)) {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let ranges: Vec<(u64, u64)> = cuts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            let placed = Ranges::new(200, &ranges).unwrap();
            let bytes: Vec<u64> = ranges.iter().flat_map(|(start, end)| *start..*end).collect();
            prop_assert_eq!(placed.length(), bytes.len() as u64);
            for (position, offset) in bytes.iter().enumerate() {
                prop_assert_eq!(placed.locate(position as u64).map(|found| found.0), Some(*offset));
                prop_assert_eq!(placed.position(*offset, 1), Some(position as u64));
            }
            prop_assert_eq!(placed.locate(bytes.len() as u64), None);
            let inner: Vec<u64> = placed.within(50, 100).flat_map(|(start, end)| start + 50..end + 50).collect();
            prop_assert_eq!(inner, bytes.iter().copied().filter(|at| (50..150).contains(at)).collect::<Vec<_>>());
            prop_assert_eq!(Ranges::from_json(&placed.to_json()), Ok(placed));
        }
    }
}
