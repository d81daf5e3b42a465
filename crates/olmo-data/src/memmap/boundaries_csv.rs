//! `boundaries.csv.gz`: a line `start,end` for each document, in tokens, as read by Dolma and
//! open-instruct.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use olmo_base::IoContext as _;

use crate::error::DataError;

pub const CSV_BOUNDARIES: &str = "boundaries.csv.gz";
/// Maximum length of a line in bytes.
const LONGEST_LINE: u64 = 1 << 16;

/// Writes the documents that start at `starts`. Each ends at the next start, the last one at `end`.
/// The bytes contain no timestamp.
pub fn write(path: &Path, starts: &[u64], end: u64) -> Result<(), DataError> {
    let file = BufWriter::new(File::create(path).context(path)?);
    let mut gz = GzBuilder::new().mtime(0).write(file, Compression::default());
    let ends = starts.iter().skip(1).copied().chain([end]);
    for (start, end) in starts.iter().zip(ends) {
        writeln!(gz, "{start},{end}").context(path)?;
    }
    Ok(gz.finish().and_then(|mut file| file.flush()).context(path)?)
}

/// The document starts in the file at `path`; further columns are ignored.
pub fn read(path: &Path) -> Result<Vec<u64>, DataError> {
    let file = File::open(path).context(path)?;
    let mut reader = BufReader::new(MultiGzDecoder::new(file));
    let mut starts = Vec::new();
    let mut line = Vec::new();
    while Read::by_ref(&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).context(path)? > 0 {
        let text = std::str::from_utf8(&line).ok().filter(|_| (line.len() as u64) < LONGEST_LINE);
        let start = text.and_then(|text| text.split(',').next()?.trim().parse().ok());
        let number = starts.len() + 1;
        starts.push(start.ok_or_else(|| DataError::broken(path, format!("line {number} is not `start,end`")))?);
        line.clear();
    }
    Ok(starts)
}
