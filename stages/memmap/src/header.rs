//! Detects files that have a header and do not hold raw values, by their content.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;

/// Number of leading bytes to inspect.
const HEAD: u64 = 128;
/// The end-of-archive mark of a zip file is within its last bytes: a record of 22 bytes and a
/// comment.
const ZIP_END: u64 = 22 + (1 << 16);

/// The kind of a file that does not hold raw values.
enum Foreign {
    Npy,
    Zip,
    Pickle,
    Parquet,
}

/// Why the file at `path`, called `name` in port `port`, cannot be read as raw values of numpy type
/// `raw`, and the line of Python that converts it. `None` if no other format was recognised.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn refusal(port: &str, name: &str, path: &Path, raw: &str) -> io::Result<Option<(String, String)>> {
    let Some(foreign) = foreign(path)? else { return Ok(None) };
    let (what, load) = match foreign {
        Foreign::Npy => ("an array that numpy.save wrote, with a header", format!("numpy.load({name:?})")),
        Foreign::Zip => (
            "a zip archive, as numpy.savez (.npz) and torch.save write",
            format!("numpy.load({name:?})[\"NAME OF THE ARRAY\"]"),
        ),
        Foreign::Pickle => ("a Python pickle", format!("numpy.load({name:?}, allow_pickle=True)")),
        Foreign::Parquet => (
            "a Parquet file",
            format!("numpy.concatenate(pyarrow.parquet.read_table({name:?})[\"COLUMN\"].to_pylist())"),
        ),
    };
    let message = format!("{name}: is {what}; `{port}` takes raw values, without a header");
    Ok(Some((message, format!("write them raw: {load}.astype({raw:?}).tofile(\"raw-{name}\")"))))
}

fn foreign(path: &Path) -> io::Result<Option<Foreign>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(HEAD).read_to_end(&mut head)?;
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(size.saturating_sub(ZIP_END)))?;
    file.read_to_end(&mut tail)?;
    // Two raw ids can look like a short mark, so these formats need a second one.
    let zip = || head.starts_with(b"PK\x03\x04") && tail.windows(4).any(|bytes| bytes == b"PK\x05\x06");
    let framed = || {
        let length = head.get(3..11).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        matches!(head.as_slice(), [0x80, 4 | 5, 0x95, ..]) && length > 0 && length.saturating_add(11) <= size
    };
    let named = || {
        let named = head.windows(5).any(|bytes| bytes == b"numpy" || bytes == b"torch");
        matches!(head.as_slice(), [0x80, 2..=5, ..]) && named
    };
    Ok(match () {
        () if head.starts_with(b"\x93NUMPY") => Some(Foreign::Npy),
        () if zip() => Some(Foreign::Zip),
        () if (framed() || named()) && tail.last() == Some(&b'.') => Some(Foreign::Pickle),
        () if head.starts_with(b"PAR1") && tail.ends_with(b"PAR1") => Some(Foreign::Parquet),
        () => None,
    })
}
