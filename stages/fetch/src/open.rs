//! A source file as lines, JSON values or tables, told by its first bytes; packed ones are unpacked on the way.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use flate2::bufread::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ruzstd::decoding::StreamingDecoder;

/// Rows of a table that are read at once.
const BATCH: usize = 1024;
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
    let table = |batches: Batches| {
        read.fetch_add(size, Ordering::Relaxed);
        Content::Table(batches)
    };
    let arrow = |e: ArrowError| io::Error::other(e.to_string());
    let text = |batch: Result<RecordBatch, ArrowError>| batch.map_err(|e| e.to_string());
    if head.starts_with(b"PAR1") {
        let reader = sound(|| ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH).build());
        let reader = reader.and_then(|reader| reader.map_err(|e| e.to_string())).map_err(io::Error::other)?;
        return Ok(table(Box::new(Guarded(Some(reader.map(text))))));
    }
    if head.starts_with(b"ARROW1") {
        let reader = sound(|| FileReader::try_new(file, None)).map_err(io::Error::other)?.map_err(arrow)?;
        return Ok(table(Box::new(Guarded(Some(reader.map(text))))));
    }
    // The streaming format, which `datasets` caches are in.
    if head.starts_with(b"\xff\xff\xff\xff") {
        let reader = sound(|| StreamReader::try_new(BufReader::new(file), None));
        let reader = reader.map_err(io::Error::other)?.map_err(arrow)?;
        return Ok(table(Box::new(Guarded(Some(reader.map(text))))));
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

/// What `read` gives; an error if it panics, as the readers of tables do over some damaged bytes.
fn sound<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("its reader gave up: {}", text.unwrap_or("for a reason that it does not say"))
    })
}

/// Ends with an error where its reader panics.
struct Guarded<I>(Option<I>);

impl<T, I: Iterator<Item = Result<T, String>>> Iterator for Guarded<I> {
    type Item = Result<T, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.0.as_mut()?;
        let next = sound(|| reader.next()).unwrap_or_else(|panic| Some(Err(panic)));
        if !matches!(next, Some(Ok(_))) {
            self.0 = None;
        }
        next
    }
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
