//! Append-only files of checksummed JSON lines: `events.jsonl` of an attempt and of a run,
//! `items.jsonl` of unfinished work.
//!
//! A line is `{"c":"1f2e3d4c","e":{…}}`, where `c` is the first four bytes of the BLAKE3 digest of
//! the exact text of `e`. Every record is appended with its newline in one write, so if the process
//! is killed, only the last line can be incomplete, without a newline. [`Writer::open`] truncates
//! such a torn line, and readers ignore it. A line that ends with a newline but fails its checksum
//! is [`Damage`]: the file was changed afterwards. Readers report damage, and it never causes a
//! truncation.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::files;

const PREFIX: &str = "{\"c\":\"";
const MIDDLE: &str = "\",\"e\":";

pub(crate) fn encode(body: &str) -> String {
    format!("{PREFIX}{}{MIDDLE}{body}}}\n", &Digest::of(body.as_bytes()).hex()[..8])
}

/// The body of a line (without its newline), if its checksum matches.
pub(crate) fn decode(line: &str) -> Option<&str> {
    let rest = line.strip_prefix(PREFIX)?;
    let sum = rest.get(..8)?;
    let body = rest.get(8..)?.strip_prefix(MIDDLE)?.strip_suffix('}')?;
    (Digest::of(body.as_bytes()).hex()[..8] == *sum).then_some(body)
}

/// Longest line that is written or read, in bytes. The largest records are lists of stage names
/// and outputs of a run with 100,000 stages.
const MAX_LINE: usize = 64 << 20;

/// A line of a journal that ends with a newline and fails its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is damaged: its checksum does not match")]
pub struct Damage {
    /// Line number, from 1.
    pub line: u64,
}

impl From<Damage> for io::Error {
    fn from(damage: Damage) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, damage)
    }
}

/// The damage in `error`, if it reports a damaged journal.
pub fn damage(error: &io::Error) -> Option<Damage> {
    error.get_ref()?.downcast_ref::<Damage>().copied()
}

/// The content of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents<T> {
    /// The records before the first damaged line.
    pub records: Vec<T>,
    /// A message about the damaged line, or about why the whole file is damaged.
    pub damage: Option<String>,
}

impl<T> Contents<T> {
    fn new(records: Vec<T>, damage: Option<String>) -> Self {
        Self { records, damage }
    }
}

/// Appends records of one type.
pub struct Writer<T> {
    file: File,
    durable: bool,
    /// Lines for the next write.
    queued: Vec<u8>,
    record: PhantomData<T>,
}

/// Size of the queue in bytes at which it is written.
const QUEUE: usize = 1 << 15;

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        // Errors are ignored here. Callers that need to know about them call `flush`.
        let _ = self.file.write_all(&self.queued);
    }
}

impl<T: Serialize> Writer<T> {
    /// Opens or creates the file at `path` and truncates a torn last line. With `durable`, every
    /// append is followed by fsync.
    ///
    /// # Errors
    /// [`Damage`] (see [`damage`]) if a line is damaged. The file is then left unchanged.
    pub fn open(path: &Path, durable: bool) -> io::Result<Self> {
        let mut file = files::open_or_create_regular(path)?;
        let mut lines = Lines::new(&mut file);
        while lines.next_body()?.is_some() {}
        let end = lines.offset;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { file, durable, queued: Vec::new(), record: PhantomData })
    }

    /// Appends the queued records and `record` as one write.
    pub fn append(&mut self, record: &T) -> io::Result<()> {
        self.enqueue(record)?;
        self.flush()?;
        if self.durable { self.file.sync_data() } else { Ok(()) }
    }

    /// Queues `record`, which is appended with the next write or once the queue is full. It is lost
    /// if the process is killed before that.
    pub fn queue(&mut self, record: &T) -> io::Result<()> {
        self.enqueue(record)?;
        if self.queued.len() < QUEUE { Ok(()) } else { self.flush() }
    }

    fn enqueue(&mut self, record: &T) -> io::Result<()> {
        let body = serde_json::to_string(record).map_err(io::Error::other)?;
        let line = encode(&body);
        if line.len() > MAX_LINE {
            let message = format!("a record of {} bytes is too long for a journal", line.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.queued.extend_from_slice(line.as_bytes());
        Ok(())
    }

    /// Writes the queued records.
    pub fn flush(&mut self) -> io::Result<()> {
        // A failed write is not repeated, since a part of it may be in the file.
        let lines = std::mem::take(&mut self.queued);
        if lines.is_empty() {
            return Ok(());
        }
        let start = self.file.stream_position()?;
        self.file.write_all(&lines).inspect_err(|_| {
            // A full disk leaves a partial line. Remove it, so that later records do not continue
            // it.
            let _ = self.file.set_len(start).and_then(|()| self.file.seek(SeekFrom::Start(start)));
        })
    }
}

/// Reads the valid lines of a file one by one.
struct Lines<R> {
    file: BufReader<R>,
    text: Vec<u8>,
    /// End of the last valid line.
    offset: u64,
    /// Number of valid lines so far.
    count: u64,
}

impl<R: Read> Lines<R> {
    fn new(file: R) -> Self {
        Self { file: BufReader::with_capacity(1 << 16, file), text: Vec::new(), offset: 0, count: 0 }
    }

    /// The body of the next line. `None` at the end of the file or before a torn last line.
    fn next_body(&mut self) -> io::Result<Option<&str>> {
        self.text.clear();
        let damage = Damage { line: self.count + 1 };
        (&mut self.file).take(MAX_LINE as u64).read_until(b'\n', &mut self.text)?;
        let Some((b'\n', line)) = self.text.split_last() else {
            return if self.text.len() < MAX_LINE { Ok(None) } else { Err(damage.into()) };
        };
        let body = std::str::from_utf8(line).ok().and_then(decode).ok_or(damage)?;
        self.offset += self.text.len() as u64;
        self.count += 1;
        Ok(Some(body))
    }

    /// The record of the next line.
    fn next_record<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let damage = Damage { line: self.count + 1 };
        let Some(body) = self.next_body()? else { return Ok(None) };
        Ok(Some(serde_json::from_str(body).map_err(|_| damage)?))
    }
}

/// Reads records as another process appends them.
pub struct Tail<T> {
    path: PathBuf,
    /// End of the last record that was returned.
    offset: u64,
    /// Number of records returned so far.
    count: u64,
    /// Length of the file at the last call.
    seen: u64,
    record: PhantomData<T>,
}

/// Most records that one call of [`Tail::next_records`] returns.
const BATCH: usize = 10_000;

impl<T: DeserializeOwned> Tail<T> {
    /// Starts at the head of the file at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, count: 0, seen: 0, record: PhantomData }
    }

    /// Returns the records appended since the last call, at most 10,000; further ones are returned
    /// by the next calls. The type must cover records that this build does not know, with an
    /// `Unknown` variant. An incomplete line is left for a later call.
    ///
    /// # Errors
    /// [`Damage`] (see [`damage`]) if the next line is damaged. All records before it are returned
    /// first.
    pub fn next_records(&mut self) -> io::Result<Vec<T>> {
        let mut file = match files::open_regular(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let length = file.metadata()?.len();
        if length <= self.offset || length == self.seen {
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut lines = Lines { offset: self.offset, count: self.count, ..Lines::new(file) };
        let mut records = Vec::new();
        let failed = loop {
            match lines.next_record() {
                Ok(Some(record)) => {
                    records.push(record);
                    (self.offset, self.count) = (lines.offset, lines.count);
                    if records.len() == BATCH {
                        return Ok(records);
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        match failed {
            Some(error) if records.is_empty() => Err(error),
            Some(_) => Ok(records),
            None => {
                self.seen = length;
                Ok(records)
            }
        }
    }
}

/// Reads all records of the journal at `path`. Empty if it does not exist.
///
/// # Errors
/// `InvalidData` if it is damaged.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let Contents { records, damage } = read_prefix(path)?;
    damage.map_or(Ok(records), |damage| Err(io::Error::new(io::ErrorKind::InvalidData, damage)))
}

/// Reads the records of the journal at `path` up to the first damaged line. If `path` is not a
/// regular file, that is damage as well.
///
/// # Errors
/// The file cannot be read.
pub fn read_prefix<T: DeserializeOwned>(path: &Path) -> io::Result<Contents<T>> {
    let file = match files::open_regular(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Contents::new(Vec::new(), None)),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            return Ok(Contents::new(Vec::new(), Some(e.to_string())));
        }
        Err(e) => return Err(e),
    };
    let mut lines = Lines::new(file);
    let mut records = Vec::new();
    loop {
        match lines.next_record() {
            Ok(Some(record)) => records.push(record),
            Ok(None) => return Ok(Contents::new(records, None)),
            Err(error) if damage(&error).is_some() => return Ok(Contents::new(records, Some(error.to_string()))),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("olmo-journal-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        let _ = std::fs::remove_file(&path);
        path
    }

    fn written(name: &str, count: u32) -> PathBuf {
        let path = path(name);
        let mut writer = Writer::open(&path, true).unwrap();
        (0..count).for_each(|n| writer.append(&n).unwrap());
        path
    }

    #[test]
    fn a_torn_last_line_is_ignored_and_truncated() {
        let path = written("torn", 3);
        let whole = std::fs::read(&path).unwrap();
        for torn in 1..encode("7").len() {
            let text = [whole.as_slice(), &encode("7").as_bytes()[..torn]].concat();
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read::<u32>(&path).unwrap(), [0, 1, 2]);
            Writer::open(&path, false).unwrap().append(&8u32).unwrap();
            assert_eq!(read::<u32>(&path).unwrap(), [0, 1, 2, 8]);
        }
    }

    #[test]
    fn every_flipped_bit_is_damage_or_a_torn_tail_and_no_valid_line_is_lost() {
        let path = written("flipped", 4);
        let sound = std::fs::read(&path).unwrap();
        let line = sound.len() / 4;
        for bit in 0..sound.len() * 8 {
            let mut text = sound.clone();
            text[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &text).unwrap();
            let contents = read_prefix::<u32>(&path).unwrap();
            let before = (bit / 8 / line) as u32;
            assert_eq!(contents.records, (0..before).collect::<Vec<_>>(), "bit {bit}");
            let last_newline = bit / 8 == sound.len() - 1;
            assert_eq!(contents.damage.is_none(), last_newline, "bit {bit}");
            let opened = Writer::<u32>::open(&path, false).map(drop);
            if last_newline {
                opened.unwrap();
                continue;
            }
            assert_eq!(damage(&opened.unwrap_err()).unwrap().line, u64::from(before) + 1);
            assert_eq!(std::fs::read(&path).unwrap(), text, "the file is left unchanged");
            let mut tail = Tail::<u32>::new(&path);
            if before > 0 {
                assert_eq!(tail.next_records().unwrap(), contents.records);
            }
            assert_eq!(tail.next_records().unwrap_err().to_string(), contents.damage.unwrap());
        }
    }

    #[test]
    fn a_tail_reads_what_is_appended_once_it_is_complete() {
        let path = path("tail");
        let mut tail = Tail::<u32>::new(&path);
        assert!(tail.next_records().unwrap().is_empty());
        let mut file = File::create(&path).unwrap();
        let (line, next) = (encode("1"), encode("2"));
        file.write_all(line.as_bytes()).unwrap();
        file.write_all(&next.as_bytes()[..5]).unwrap();
        assert_eq!(tail.next_records().unwrap(), [1]);
        assert!(tail.next_records().unwrap().is_empty());
        file.write_all(&next.as_bytes()[5..]).unwrap();
        assert_eq!(tail.next_records().unwrap(), [2]);
        for n in 0..25_000u32 {
            file.write_all(encode(&n.to_string()).as_bytes()).unwrap();
        }
        let mut all = Vec::new();
        while let Ok(records) = tail.next_records()
            && !records.is_empty()
        {
            all.extend(records);
        }
        assert_eq!(all, (0..25_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_link_or_a_folder_is_not_a_journal() {
        let target = written("target", 1);
        let link = path("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(Writer::<u32>::open(&link, true).is_err());
        assert!(read::<u32>(&link).is_err());
        assert!(Tail::<u32>::new(&std::env::temp_dir()).next_records().is_err());
    }
}
