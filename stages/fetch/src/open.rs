//! A source file as lines, JSON values or tables, told by its first bytes; packed ones are unpacked on the way.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use flate2::bufread::MultiGzDecoder;
use olmo_data::bounded::{Bounded, Limits};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ruzstd::decoding::StreamingDecoder;

/// Rows of a table that are read at once.
const BATCH: usize = 1024;
/// Rows of an Arrow batch that are taken at once: its number of rows is only a claim.
const SLICE: usize = 1 << 16;
/// Memory that the reader of a table may hold, and more for each byte of its file: the readers
/// believe the lengths that a file gives. The rest allows for compression.
const TABLE_MEMORY: usize = 256 << 20;
const TABLE_MEMORY_PER_BYTE: usize = 16;
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Batches of a table, in order.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, String>>>;

/// What a file holds.
pub enum Content {
    /// Text, line by line; its first byte that is no white space.
    Lines(Box<dyn BufRead>, Option<u8>),
    /// Parquet or Arrow IPC.
    Table(Batches),
}

/// Counts what is read of a file.
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

/// Opens the file at `path`; `read` counts its bytes (of tables, all at once).
pub fn open(path: &Path, read: &Arc<AtomicU64>) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(8).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let table = |batches: io::Result<Batches>| {
        read.fetch_add(size, Ordering::Relaxed);
        batches.map(Content::Table)
    };
    if head.starts_with(b"PAR1") {
        return table(batches(size, move || {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| e.to_string())?;
            builder.with_batch_size(BATCH).build().map_err(|e| e.to_string())
        }));
    }
    if head.starts_with(b"ARROW1") {
        return table(batches(size, move || FileReader::try_new(file, None).map_err(|e| e.to_string())));
    }
    // The streaming format, which `datasets` caches are in.
    if head.starts_with(b"\xff\xff\xff\xff") {
        return table(batches(size, move || {
            StreamReader::try_new(BufReader::new(file), None).map_err(|e| e.to_string())
        }));
    }
    let counted = BufReader::with_capacity(1 << 18, Counted { file, read: read.clone() });
    let mut lines: Box<dyn BufRead> = if head.starts_with(b"\x1f\x8b") {
        Box::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(counted)))
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
        Box::new(BufReader::with_capacity(1 << 18, Frames::new(counted)?))
    } else {
        Box::new(counted)
    };
    let start = lines.fill_buf()?;
    let mark = if start.starts_with(UTF8_MARK) { UTF8_MARK.len() } else { 0 };
    let first = start[mark..].iter().copied().find(|byte| !byte.is_ascii_whitespace());
    lines.consume(mark);
    Ok(Content::Lines(lines, first))
}

/// The batches of the reader that `open` makes, for a file of `size` bytes. The reader runs in a bounded thread.
fn batches<R>(size: u64, open: impl FnOnce() -> Result<R, String> + Send + 'static) -> io::Result<Batches>
where
    R: Iterator<Item = Result<RecordBatch, ArrowError>>,
{
    let memory = usize::try_from(size).unwrap_or(usize::MAX).saturating_mul(TABLE_MEMORY_PER_BYTE);
    let limits = Limits { memory: memory.saturating_add(TABLE_MEMORY), time: Duration::MAX };
    // The first item says that the file was opened.
    let mut thread = Bounded::<Result<Option<RecordBatch>, String>>::start(limits, move |give| {
        let read = sound(|| -> Result<(), String> {
            let reader = open()?;
            let mut wanted = give(Ok(None));
            for batch in reader {
                if !wanted {
                    break;
                }
                let batch = batch.map_err(|e| e.to_string())?;
                for first in (0..batch.num_rows()).step_by(SLICE) {
                    wanted = wanted && give(Ok(Some(batch.slice(first, SLICE.min(batch.num_rows() - first)))));
                }
            }
            Ok(())
        });
        if let Err(why) = read.and_then(|read| read) {
            give(Err(why));
        }
    })
    .map_err(io::Error::other)?;
    match thread.next_item().map_err(|e| e.to_string()).and_then(Option::transpose) {
        Ok(_) => {}
        Err(why) => return Err(io::Error::other(why)),
    }
    let mut ended = false;
    Ok(Box::new(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let next = match thread.next_item() {
            Ok(Some(Ok(batch))) => batch.map(Ok),
            Ok(Some(Err(why))) => Some(Err(why)),
            Ok(None) => None,
            Err(exceeded) => Some(Err(exceeded.to_string())),
        };
        ended = !matches!(next, Some(Ok(_)));
        next
    })))
}

/// What `read` gives; an error if it panics, as the readers of tables do over some damaged bytes.
fn sound<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("its reader gave up: {}", text.unwrap_or("for a reason that it does not say"))
    })
}

/// All frames of a zstd file, one after the other.
struct Frames<R: BufRead> {
    decoder: Option<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>,
}

impl<R: BufRead> Frames<R> {
    fn new(reader: R) -> io::Result<Self> {
        Ok(Self { decoder: Some(frame(reader)?) })
    }
}

fn frame<R: BufRead>(reader: R) -> io::Result<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>> {
    StreamingDecoder::new(reader).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(decoder) = self.decoder.take() else { break };
            let (found, expected) =
                (decoder.decoder.get_calculated_checksum(), decoder.decoder.get_checksum_from_data());
            if expected.is_some() && found != expected {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of a zstd frame differs"));
            }
            let mut rest = decoder.into_inner();
            if !rest.fill_buf()?.is_empty() {
                self.decoder = Some(frame(rest)?);
            }
        }
        Ok(0)
    }
}

/// Appends the next line, without its newline, to `line`; of a line longer than `most` only the length is kept. Returns
/// the bytes read: 0 at the end.
pub fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<usize> {
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
