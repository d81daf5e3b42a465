//! [`StageLog`]: the output of a stage, in a file of limited size.
//!
//! A log that reaches its limit keeps its beginning and its end. The part in between is replaced by
//! a line that says how many bytes were left out. The end moves forward in large steps, so that the
//! work per byte stays constant. A write error never stops the stage.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use olmo_base::files::open_or_create_regular;

/// Longest line that is kept whole. The log is cut at line ends, except within longer lines.
const LONGEST_LINE: u64 = 64 << 10;

/// Smallest limit. A smaller one would leave no room for the line about the bytes left out.
const SMALLEST: u64 = 4096;

/// A log file of limited size.
pub(crate) struct StageLog {
    file: File,
    /// Length of the file in bytes.
    length: u64,
    limit: u64,
    /// Length of the beginning that is kept. 0 until something is left out.
    head: u64,
    /// Number of bytes that were left out.
    left_out: u64,
}

impl StageLog {
    /// Opens the log at `path` and keeps its content.
    pub(crate) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let mut file = open_or_create_regular(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Self { length, ..Self::new(file, limit) })
    }

    /// Creates a log in `file`, which must be empty.
    pub(crate) fn new(file: File, limit: u64) -> Self {
        Self { file, length: 0, limit: limit.max(SMALLEST), head: 0, left_out: 0 }
    }

    /// Appends `bytes`. Bytes that cannot be written count as left out, so a full disk does not end
    /// the stage.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(usize::try_from(self.limit / 4).unwrap_or(usize::MAX)) {
            if self.length + part.len() as u64 > self.limit && self.shorten().is_err() {
                self.left_out += part.len() as u64;
                continue;
            }
            match self.file.write_all(part) {
                Ok(()) => self.length += part.len() as u64,
                Err(_) => {
                    self.left_out += part.len() as u64;
                    // Remove a partial write.
                    let _ = self.file.set_len(self.length);
                    let _ = self.file.seek(SeekFrom::Start(self.length));
                }
            }
        }
    }

    /// Shortens the log to the first half and the last quarter of the limit.
    fn shorten(&mut self) -> io::Result<()> {
        let old_note = if self.head == 0 { 0 } else { self.note().len() as u64 };
        if self.head == 0 {
            self.head = self.line_end_before(self.limit / 2)?;
        }
        let from = self.line_start_after(self.length - self.limit / 4)?;
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(from))?;
        Read::by_ref(&mut self.file).take(self.length - from).read_to_end(&mut tail)?;
        self.left_out += from - self.head - old_note;
        let note = self.note();
        self.file.seek(SeekFrom::Start(self.head))?;
        self.file.write_all(note.as_bytes())?;
        self.file.write_all(&tail)?;
        self.length = self.head + (note.len() + tail.len()) as u64;
        self.file.set_len(self.length)
    }

    /// The line about the bytes left out. Its length does not depend on the number.
    fn note(&self) -> String {
        format!("\n[olmo-pipe: {:020} bytes of this log are left out here]\n", self.left_out)
    }

    /// The end of the last line that ends before `at`, or `at` within a very long line.
    fn line_end_before(&mut self, at: u64) -> io::Result<u64> {
        let from = at.saturating_sub(LONGEST_LINE);
        let window = self.window(from, at)?;
        Ok(window.iter().rposition(|byte| *byte == b'\n').map_or(at, |end| from + end as u64 + 1))
    }

    /// The start of the first line that starts after `at`, or `at` within a very long line.
    fn line_start_after(&mut self, at: u64) -> io::Result<u64> {
        let window = self.window(at, self.length.min(at + LONGEST_LINE))?;
        Ok(window.iter().position(|byte| *byte == b'\n').map_or(at, |end| at + end as u64 + 1))
    }

    fn window(&mut self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut window = Vec::new();
        self.file.seek(SeekFrom::Start(from))?;
        Read::by_ref(&mut self.file).take(to - from).read_to_end(&mut window)?;
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_beyond_its_limit_keeps_its_beginning_and_end_and_says_how_much_it_leaves_out() {
        for chunk in [1, 7, 1000, 100_000] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = StageLog::open(&path, 64 << 10).unwrap();
            let text: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
            for part in text.as_bytes().chunks(chunk) {
                log.append(part);
                assert!(std::fs::metadata(&path).unwrap().len() <= 64 << 10);
            }
            let kept = std::fs::read_to_string(&path).unwrap();
            let (head, rest) = kept.split_once("\n[olmo-pipe: ").unwrap();
            let (left_out, tail) = rest.split_once(" bytes of this log are left out here]\n").unwrap();
            assert!(head.len() > 30_000 && tail.len() > 10_000, "{} {}", head.len(), tail.len());
            assert!(text.starts_with(head) && text.ends_with(tail) && tail.starts_with("line "));
            assert_eq!(head.len() + tail.len() + left_out.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn a_log_within_its_limit_is_complete_even_without_line_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = StageLog::open(&path, 8192).unwrap();
        log.append(&[b'x'; 8192]);
        assert_eq!(std::fs::read(&path).unwrap(), [b'x'; 8192]);
        log.append(&[b'y'; 100_000]);
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept.len() <= 8192 && kept.starts_with("xxx") && kept.ends_with("yyy"), "{}", kept.len());
        assert!(kept.contains("bytes of this log are left out here"));
    }

    #[test]
    fn a_full_disk_does_not_end_a_stage() {
        let full = std::fs::OpenOptions::new().read(true).write(true).open("/dev/full");
        let Ok(file) = full else {
            olmo_base::testing::skip("this system has no /dev/full");
            return;
        };
        let mut log = StageLog::new(file, 4096);
        log.append(b"hello\n");
        assert_eq!(log.left_out, 6);
    }
}
