//! Append-only files of checksummed JSON lines: `events.jsonl` of an attempt and of a run,
//! `items.jsonl` of unfinished work.
//!
//! A line is `{"c":"1f2e3d4c","e":{…}}`: `c` is the first four bytes of the BLAKE3 digest of
//! the exact text of `e`. A kill can only leave a torn last line; readers stop before it and
//! [`Writer::open`] cuts it off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;

const PREFIX: &str = "{\"c\":\"";
const MIDDLE: &str = "\",\"e\":";

fn encode(body: &str) -> String {
    format!("{PREFIX}{}{MIDDLE}{body}}}\n", &Digest::of(body.as_bytes()).hex()[..8])
}

/// The body of a line (without its newline), if its checksum holds.
fn decode(line: &str) -> Option<&str> {
    let rest = line.strip_prefix(PREFIX)?;
    let sum = rest.get(..8)?;
    let body = rest.get(8..)?.strip_prefix(MIDDLE)?.strip_suffix('}')?;
    (Digest::of(body.as_bytes()).hex()[..8] == *sum).then_some(body)
}

/// Appends records of one type.
pub struct Writer<T> {
    file: File,
    durable: bool,
    /// Lines that go with the next write.
    queued: Vec<u8>,
    record: PhantomData<T>,
}

/// So many bytes of lines are queued at most.
const QUEUE: usize = 1 << 15;

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        // Who wants to know whether it worked calls `flush`.
        let _ = self.file.write_all(&self.queued);
    }
}

impl<T: Serialize> Writer<T> {
    /// Opens or makes the file at `path`, and cuts a torn last line off. With `durable`, every
    /// append is followed by fsync.
    pub fn open(path: &Path, durable: bool) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let mut end = 0;
        for line in text.split_inclusive(|b| *b == b'\n') {
            let whole = line.last() == Some(&b'\n');
            let sound = whole && std::str::from_utf8(&line[..line.len() - 1]).ok().and_then(decode).is_some();
            if !sound {
                break;
            }
            end += line.len() as u64;
        }
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { file, durable, queued: Vec::new(), record: PhantomData })
    }

    /// Appends `record`, with what was queued before it, as one write.
    pub fn append(&mut self, record: &T) -> io::Result<()> {
        let body = serde_json::to_string(record).map_err(io::Error::other)?;
        self.queued.extend_from_slice(encode(&body).as_bytes());
        self.flush()?;
        if self.durable { self.file.sync_data() } else { Ok(()) }
    }

    /// Appends `record` with the next write, or once there is much: for records that come by the
    /// thousand, and that nobody misses after a kill.
    pub fn queue(&mut self, record: &T) -> io::Result<()> {
        let body = serde_json::to_string(record).map_err(io::Error::other)?;
        self.queued.extend_from_slice(encode(&body).as_bytes());
        if self.queued.len() < QUEUE { Ok(()) } else { self.flush() }
    }

    /// Writes what is queued.
    pub fn flush(&mut self) -> io::Result<()> {
        // What could not be written is not written again: a half of it may be there.
        let lines = std::mem::take(&mut self.queued);
        if lines.is_empty() { Ok(()) } else { self.file.write_all(&lines) }
    }
}

/// Reads records as they are appended by another process.
pub struct Tail<T> {
    path: PathBuf,
    offset: u64,
    record: PhantomData<T>,
}

impl<T: DeserializeOwned> Tail<T> {
    /// Starts at the head of the file at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, record: PhantomData }
    }

    /// The sound records appended since the last call. A record of a kind this build does not
    /// know must be covered by the type (an `Unknown` variant); a broken line ends the reading.
    pub fn next_records(&mut self) -> io::Result<Vec<T>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        if file.metadata()?.len() <= self.offset {
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let mut records = Vec::new();
        for line in text.split_inclusive(|b| *b == b'\n') {
            let Some((b'\n', body)) = line.split_last() else { break };
            let Some(record) =
                std::str::from_utf8(body).ok().and_then(decode).and_then(|b| serde_json::from_str(b).ok())
            else {
                break;
            };
            self.offset += line.len() as u64;
            records.push(record);
        }
        Ok(records)
    }
}

/// All sound records of the file at `path`; none if it does not exist.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    Tail::new(path).next_records()
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

    #[test]
    fn a_torn_last_line_is_cut_and_a_flipped_bit_ends_the_reading() {
        let path = path("torn");
        let mut writer = Writer::open(&path, true).unwrap();
        for n in 0..3u32 {
            writer.append(&n).unwrap();
        }
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"c\":\"0000");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [0, 1, 2]);
        Writer::open(&path, false).unwrap().append(&7u32).unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [0, 1, 2, 7]);
        let mut text = std::fs::read(&path).unwrap();
        let at = text.len() / 2;
        text[at] ^= 1;
        std::fs::write(&path, &text).unwrap();
        assert!(read::<u32>(&path).unwrap().len() < 4);
    }
}
