//! Opens a source file as lines or as a table. Its first bytes decide how it is compressed and what
//! it holds; its name does not matter.
//!
//! Only the columns that a format reads are decoded, so other columns may have any type.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek as _, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use flate2::bufread::GzDecoder;
use olmo_data::bounded::{Bounded, Limits};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use zstd::stream::read::Decoder as ZstdDecoder;

/// Size in bytes of a block of records that are parsed together.
pub(crate) const BLOCK: usize = 4 << 20;
/// Maximum length of a line in MiB.
pub(crate) const LONGEST: usize = 32;
/// Number of table rows to read at a time.
const BATCH: usize = 1024;
/// Maximum number of rows to take from an Arrow batch at a time; the number of rows that it
/// declares is not trusted.
const SLICE: usize = 1 << 16;
/// Memory limit of a table reader, and the addition per byte of its file: readers trust the
/// lengths in a file, and the factor allows for compression.
const TABLE_MEMORY: usize = 256 << 20;
const TABLE_MEMORY_PER_BYTE: usize = 16;
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
/// Number of leading bytes to inspect; a tar archive is marked at byte 257.
const HEAD: u64 = 512;
const ZSTD: u32 = 0xfd2f_b528;
/// The first of the sixteen magic numbers of skippable zstd frames.
const SKIPPABLE: u32 = 0x184d_2a50;

/// Batches of a table, in order.
pub(crate) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, String>>>;

/// The content of a file.
pub(crate) enum Content {
    /// Text, line by line, and its first non-whitespace byte.
    Lines(Box<dyn BufRead + Send>, Option<u8>),
    /// Parquet or Arrow IPC: the names of all columns, and batches of the requested ones.
    Table { columns: Vec<String>, batches: Batches },
}

/// Why a file cannot be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The file is damaged or unreadable.
    Io(io::Error),
    /// This build does not read this kind of file.
    Refused { code: &'static str, what: String, hint: String },
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Counts the bytes read from a file.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Opens the file at `path`. `read` counts its bytes (all at once for tables); `wanted` lists the
/// table columns to read.
///
/// # Errors
/// The file is unreadable, damaged, or of an unsupported kind.
pub(crate) fn open(path: &Path, read: &Arc<AtomicU64>, wanted: &[String]) -> Result<Content, OpenError> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(HEAD).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let wanted = wanted.to_vec();
    let path = path.to_owned();
    let table = |opened: io::Result<(Vec<String>, Batches)>| {
        read.fetch_add(size, Ordering::Relaxed);
        opened.map(|(columns, batches)| Content::Table { columns, batches }).map_err(OpenError::Io)
    };
    if head.starts_with(b"PAR1") {
        return table(batches(size, move || parquet_reader(file, &wanted)));
    }
    if head.starts_with(b"ARROW1") {
        return table(batches(size, move || {
            let schema = FileReader::try_new(file, None).map_err(|e| e.to_string())?.schema();
            let file = File::open(path).map_err(|e| e.to_string())?;
            let reader = FileReader::try_new(file, Some(positions(&schema, &wanted)));
            Ok((names(&schema), reader.map_err(|e| e.to_string())?))
        }));
    }
    // The streaming format, which `datasets` uses for its cache.
    if head.starts_with(b"\xff\xff\xff\xff") {
        return table(batches(size, move || {
            let schema = StreamReader::try_new(BufReader::new(file), None).map_err(|e| e.to_string())?.schema();
            let file = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
            let reader = StreamReader::try_new(file, Some(positions(&schema, &wanted)));
            Ok((names(&schema), reader.map_err(|e| e.to_string())?))
        }));
    }
    let name = file_name(&path);
    refuse(&head, &name)?;
    let counted = BufReader::with_capacity(1 << 18, Counted { file, read: read.clone() });
    let first = head.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let mut lines: Box<dyn BufRead + Send> = if head.starts_with(b"\x1f\x8b") {
        Box::new(BufReader::with_capacity(1 << 18, Members { decoder: member(counted)? }))
    } else if first == ZSTD || is_skippable(first) {
        Box::new(BufReader::with_capacity(1 << 18, Frames { decoder: frame(counted)? }))
    } else {
        Box::new(counted)
    };
    let start = lines.fill_buf()?;
    // The decompressed content may also be of an unsupported kind.
    refuse(start, &name)?;
    let mark = if start.starts_with(UTF8_MARK) { UTF8_MARK.len() } else { 0 };
    let first = start[mark..].iter().copied().find(|byte| !byte.is_ascii_whitespace());
    lines.consume(mark);
    Ok(Content::Lines(lines, first))
}

/// The name of a file for messages, with control characters escaped.
pub(crate) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Hint for pickles.
const PICKLE: &str = "pickles can contain code and are never loaded; write JSON lines or Parquet from Python instead";

/// Unsupported kinds of files: their first bytes, what they are, and a hint (`{}` is the file's
/// name).
const KINDS: &[(&[u8], &str, &str)] = &[
    (b"\xfd7zXZ\0", "is compressed with xz", "this build supports gzip and zstd; decompress it first: xz -dk '{}'"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it first: 7z x '{}'"),
    (
        b"\x04\x22\x4d\x18",
        "is compressed with lz4",
        "this build supports gzip and zstd; decompress it first: lz4 -dk '{}'",
    ),
    (b"PK\x03\x04", "is a zip archive", "unpack it first: unzip '{}'"),
    (b"Rar!\x1a\x07", "is a rar archive", "unpack it first: unrar x '{}'"),
    (
        b"\x93NUMPY",
        "is an array that numpy.save wrote",
        "import ids with stage `memmap`; write texts as JSON lines or Parquet",
    ),
    (b"Obj\x01", "is an Avro file", "convert it to Parquet or JSON lines"),
    (b"SQLite format 3\0", "is a SQLite database", "export the table: sqlite3 -json '{}' 'select * from TABLE'"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", "convert it to Parquet or JSON lines"),
    (b"\x80\x02", "is a Python pickle", PICKLE),
    (b"\x80\x03", "is a Python pickle", PICKLE),
    (b"\x80\x04", "is a Python pickle", PICKLE),
    (b"\x80\x05", "is a Python pickle", PICKLE),
];

/// Rejects a file that starts like an unsupported kind.
fn refuse(head: &[u8], name: &str) -> Result<(), OpenError> {
    let refused = |code, what: &str, hint: &str| {
        Err(OpenError::Refused { code, what: what.into(), hint: hint.replace("{}", name) })
    };
    if let Some((_, what, hint)) = KINDS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return refused("fetch::kind", what, hint);
    }
    if head.starts_with(b"BZh") && head.get(4..10) == Some(b"1AY&SY") {
        return refused(
            "fetch::kind",
            "is compressed with bzip2",
            "this build supports gzip and zstd; decompress it first: bzip2 -dk '{}'",
        );
    }
    if head.get(257..262) == Some(b"ustar") {
        return refused("fetch::kind", "is a tar archive", "unpack it first: tar -xf '{}'");
    }
    if let Some(encoding) = wide_encoding(head) {
        let what = format!("is {encoding}, not UTF-8");
        let hint = format!("convert it: iconv -f {encoding} -t UTF-8 '{{}}' > utf8.jsonl");
        return refused("fetch::encoding", &what, &hint);
    }
    Ok(())
}

/// The encoding, in iconv's name, of a text with two-byte or four-byte characters. Without a byte
/// order mark, it is detected from the zeros next to the first two characters.
fn wide_encoding(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [0, 0, 0, 1..=0xff, ..] => Some("UTF-32BE"),
        [1..=0xff, 0, 0, 0, ..] => Some("UTF-32LE"),
        [0, 1..=0xff, 0, 1..=0xff, ..] => Some("UTF-16BE"),
        [1..=0xff, 0, 1..=0xff, 0, ..] => Some("UTF-16LE"),
        _ => None,
    }
}

fn names(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// Positions of the requested columns.
fn positions(schema: &Schema, wanted: &[String]) -> Vec<usize> {
    let fields = schema.fields().iter().enumerate();
    fields.filter(|(_, field)| wanted.contains(field.name())).map(|(position, _)| position).collect()
}

fn parquet_reader(
    file: File,
    wanted: &[String],
) -> Result<(Vec<String>, impl Iterator<Item = Result<RecordBatch, ArrowError>> + use<>), String> {
    // Parquet's own types suffice. The Arrow schema in the metadata may be from a newer version.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(|e| e.to_string())?;
    let columns = names(builder.schema());
    let mask = ProjectionMask::roots(builder.parquet_schema(), positions(builder.schema(), wanted));
    let reader = builder.with_batch_size(BATCH).with_projection(mask).build().map_err(|e| e.to_string())?;
    Ok((columns, reader))
}

/// Messages from the thread that reads a table.
enum Item {
    /// The names of all columns: the file was opened.
    Columns(Vec<String>),
    Batch(RecordBatch),
}

/// The columns and batches of the reader that `open` creates, for a file of `size` bytes. The
/// reader runs in a bounded thread.
fn batches<R>(
    size: u64,
    open: impl FnOnce() -> Result<(Vec<String>, R), String> + Send + 'static,
) -> io::Result<(Vec<String>, Batches)>
where
    R: Iterator<Item = Result<RecordBatch, ArrowError>>,
{
    let memory = usize::try_from(size).unwrap_or(usize::MAX).saturating_mul(TABLE_MEMORY_PER_BYTE);
    let limits = Limits { memory: memory.saturating_add(TABLE_MEMORY), time: Duration::MAX };
    let mut thread = Bounded::<Result<Item, String>>::start(limits, move |give| {
        let read = catch_panic(|| -> Result<(), String> {
            let (columns, reader) = open()?;
            let mut wanted = give(Ok(Item::Columns(columns)));
            for batch in reader {
                if !wanted {
                    break;
                }
                let batch = batch.map_err(|e| e.to_string())?;
                for first in (0..batch.num_rows()).step_by(SLICE) {
                    let slice = batch.slice(first, SLICE.min(batch.num_rows() - first));
                    wanted = wanted && give(Ok(Item::Batch(slice)));
                }
            }
            Ok(())
        });
        if let Err(why) = read.and_then(|read| read) {
            give(Err(why));
        }
    })
    .map_err(io::Error::other)?;
    let columns = match thread.next_item().map_err(|e| e.to_string()).and_then(Option::transpose) {
        Ok(Some(Item::Columns(columns))) => columns,
        Ok(_) => Vec::new(),
        Err(why) => return Err(io::Error::other(why)),
    };
    let mut ended = false;
    let batches = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let next = match thread.next_item() {
            Ok(Some(Ok(Item::Batch(batch)))) => Some(Ok(batch)),
            Ok(Some(Err(why))) => Some(Err(why)),
            Ok(_) => None,
            Err(exceeded) => Some(Err(exceeded.to_string())),
        };
        ended = !matches!(next, Some(Ok(_)));
        next
    });
    Ok((columns, Box::new(batches)))
}

/// Returns the result of `read`, or an error if it panics, as table readers do on some damaged
/// files.
fn catch_panic<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("its reader failed: {}", text.unwrap_or("no reason given"))
    })
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Skips zeros, which some tools append as padding; returns whether more data follows.
fn skip_zeros(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
        let follows = zeros < buffer.len();
        reader.consume(zeros);
        if follows {
            return Ok(true);
        }
    }
}

/// All members of a gzip file, in order. Any of them may be empty.
struct Members<R: BufRead> {
    decoder: Option<GzDecoder<R>>,
}

/// The next member; `None` at the end of the file.
fn member<R: BufRead>(mut rest: R) -> io::Result<Option<GzDecoder<R>>> {
    if !skip_zeros(&mut rest)? {
        return Ok(None);
    }
    match rest.fill_buf()?.first() {
        Some(0x1f) => Ok(Some(GzDecoder::new(rest))),
        _ => Err(invalid("the last gzip member is followed by bytes that are not gzip")),
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.decoder = self.decoder.take().map(GzDecoder::into_inner).map_or(Ok(None), member)?;
        }
        Ok(0)
    }
}

/// A frame whose first four bytes have already been read.
type Frame<R> = ZstdDecoder<'static, io::Chain<Cursor<[u8; 4]>, R>>;

/// All frames of a zstd file, in order. Any of them may be empty or skippable.
struct Frames<R: BufRead> {
    decoder: Option<Frame<R>>,
}

fn is_skippable(magic: u32) -> bool {
    magic & !0xf == SKIPPABLE
}

/// The next frame that holds data; `None` at the end of the file.
fn frame<R: BufRead>(mut rest: R) -> io::Result<Option<Frame<R>>> {
    loop {
        let mut start = [0; 4];
        let mut filled = 0;
        while filled < start.len() {
            match rest.read(&mut start[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let magic = u32::from_le_bytes(start);
        match filled {
            0 => return Ok(None),
            4 if magic == ZSTD => {
                return Ok(Some(ZstdDecoder::with_buffer(Cursor::new(start).chain(rest))?.single_frame()));
            }
            // Tools store their own tables and padding in such frames.
            4 if is_skippable(magic) => {
                let mut length = [0; 4];
                rest.read_exact(&mut length)?;
                let length = u64::from(u32::from_le_bytes(length));
                if io::copy(&mut Read::by_ref(&mut rest).take(length), &mut io::sink())? < length {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a skippable zstd frame is truncated"));
                }
            }
            _ if start == [0; 4] && !skip_zeros(&mut rest)? => return Ok(None),
            _ => return Err(invalid("the last zstd frame is followed by bytes that are not a frame")),
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.decoder = self.decoder.take().map_or(Ok(None), |decoder| frame(decoder.finish().into_inner().1))?;
        }
        Ok(0)
    }
}

/// Appends the next line, without its newline, to `line`; of a line longer than `most` bytes only
/// the length is kept. Returns the number of bytes read: 0 at the end.
pub(crate) fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let mut total = 0;
    loop {
        let buffer = match reader.fill_buf() {
            Ok(buffer) => buffer,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if buffer.is_empty() {
            return Ok(total);
        }
        let newline = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..newline.unwrap_or(buffer.len())];
        if total + part.len() <= most {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(newline.is_some());
        reader.consume(used);
        total += used;
        if newline.is_some() {
            return Ok(total);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zst(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    /// A zstd frame that decoders skip.
    fn skippable(number: u8, content: &[u8]) -> Vec<u8> {
        let magic = (SKIPPABLE + u32::from(number)).to_le_bytes();
        [&magic[..], &(content.len() as u32).to_le_bytes(), content].concat()
    }

    /// The text of a file with these bytes.
    fn text(bytes: &[u8]) -> Result<String, OpenError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.jsonl");
        std::fs::write(&path, bytes).unwrap();
        let Content::Lines(mut lines, _) = open(&path, &Arc::default(), &[])? else { panic!("no text") };
        let mut text = String::new();
        lines.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn members_and_frames_without_data_say_nothing() {
        let (one, two) = (b"one\n", b"two\n");
        let packed = [
            [gz(one), gz(b""), gz(two)].concat(),
            [gz(b""), gz(one), gz(two), gz(b"")].concat(),
            [gz(one), gz(two), vec![0; 700]].concat(),
            [gz(one), vec![0; 3], gz(two)].concat(),
            [zst(one), zst(b""), zst(two)].concat(),
            [zst(b""), zst(one), zst(two), zst(b"")].concat(),
            [skippable(0, b"size"), zst(one), skippable(15, &[7; 300_000]), zst(two), skippable(14, b"")].concat(),
            [zst(one), zst(two), vec![0; 700]].concat(),
        ];
        for (case, packed) in packed.iter().enumerate() {
            assert_eq!(text(packed).unwrap(), "one\ntwo\n", "case {case}");
        }
        for packed in [gz(b""), zst(b""), skippable(3, b"nothing")] {
            assert_eq!(text(&packed).unwrap(), "");
        }
    }

    #[test]
    fn what_follows_the_last_frame_and_a_frame_that_is_cut_off_are_named() {
        let error = |bytes: Vec<u8>| match text(&bytes).unwrap_err() {
            OpenError::Io(error) => error.to_string(),
            OpenError::Refused { what, .. } => panic!("{what}"),
        };
        let skipped = skippable(1, b"a table");
        assert_eq!(
            error([zst(b"a"), b"tail".to_vec()].concat()),
            "the last zstd frame is followed by bytes that are not a frame"
        );
        assert_eq!(
            error([gz(b"a"), b"tail".to_vec()].concat()),
            "the last gzip member is followed by bytes that are not gzip"
        );
        assert_eq!(error(skipped[..skipped.len() - 1].to_vec()), "a skippable zstd frame is truncated");
    }

    #[test]
    fn other_encodings_and_kinds_are_refused_by_name_with_the_command_that_converts() {
        let refused = |bytes: &[u8]| match text(bytes).unwrap_err() {
            OpenError::Refused { code, what, hint } => (code, what, hint),
            OpenError::Io(error) => panic!("{error}"),
        };
        let wide = |little: bool, text: &str| -> Vec<u8> {
            text.encode_utf16().flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect()
        };
        for (bytes, encoding) in [
            (wide(true, "\u{feff}{\"a\""), "UTF-16"),
            (wide(false, "\u{feff}{\"a\""), "UTF-16"),
            (wide(true, "{\"a\""), "UTF-16LE"),
            (wide(false, "{\"a\""), "UTF-16BE"),
            (b"\xff\xfe\0\0{\0\0\0".to_vec(), "UTF-32"),
            (b"\0\0\xfe\xff\0\0\0{".to_vec(), "UTF-32"),
            (b"{\0\0\0\"\0\0\0".to_vec(), "UTF-32LE"),
            (b"\0\0\0{\0\0\0\"".to_vec(), "UTF-32BE"),
            (gz(&wide(true, "\u{feff}[")), "UTF-16"),
        ] {
            let hint = format!("convert it: iconv -f {encoding} -t UTF-8 'some.jsonl' > utf8.jsonl");
            assert_eq!(refused(&bytes), ("fetch::encoding", format!("is {encoding}, not UTF-8"), hint));
        }
        assert_eq!(refused(b"\xfd7zXZ\0\0\x04").1, "is compressed with xz");
        assert_eq!(refused(b"BZh91AY&SY").1, "is compressed with bzip2");
        assert_eq!(refused(b"PK\x03\x04\x14\0").1, "is a zip archive");
        assert_eq!(refused(b"\x93NUMPY\x01\0").1, "is an array that numpy.save wrote");
        assert_eq!(refused(b"\x80\x04\x95").1, "is a Python pickle");
        let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
        assert_eq!(refused(&tar).1, "is a tar archive");
        assert_eq!(refused(&gz(&tar)).2, "unpack it first: tar -xf 'some.jsonl'");
        assert_eq!(text(b"BZh9 is how bzip2 begins\n").unwrap(), "BZh9 is how bzip2 begins\n");
        assert_eq!(text(b"\xef\xbb\xbf{}\n").unwrap(), "{}\n");
    }
}
