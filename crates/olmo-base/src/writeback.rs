//! [`WritebackFile`]: a file whose bytes go to the disk while more are written.
//!
//! The system keeps written bytes in memory until it is asked to sync them. A process that writes
//! many and syncs at the end then waits for all of them.

use std::fs::File;
use std::io::{self, Write};

/// Number of bytes after which the disk is given work.
const STEP: u64 = 4 << 20;

/// A file that is written from its start.
#[derive(Debug)]
pub struct WritebackFile {
    file: File,
    written: u64,
    /// Number of bytes that the disk was asked to write.
    started: u64,
}

impl WritebackFile {
    /// `file` must be empty.
    pub fn new(file: File) -> Self {
        Self { file, written: 0, started: 0 }
    }
}

impl Write for WritebackFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        if self.written - self.started >= STEP {
            start(&self.file, self.started, self.written - self.started);
            self.started = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Asks the system to begin to write all of `file` to the disk, and does not wait. Makes nothing
/// durable: that takes a sync, which then has less to do.
pub fn start_all(file: &File) {
    start(file, 0, 0);
}

/// As [`start_all`], for `count` bytes from `offset` on; 0: to the end. An error would come again
/// from the sync.
#[cfg(target_os = "linux")]
fn start(file: &File, offset: u64, count: u64) {
    use std::os::fd::AsRawFd as _;

    let (Ok(offset), Ok(count)) = (i64::try_from(offset), i64::try_from(count)) else { return };
    // SAFETY: the descriptor is open as long as `file`, and the call has no memory of ours.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, count, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn start(_: &File, _: u64, _: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_written_bytes() {
        let path = std::env::temp_dir().join(format!("olmo-pipe-writeback-{}", std::process::id()));
        let bytes: Vec<u8> = (0..(3 * STEP + 17)).map(|i| (i % 251) as u8).collect();
        let mut file = WritebackFile::new(File::create(&path).unwrap());
        bytes.chunks(1_000_003).for_each(|chunk| file.write_all(chunk).unwrap());
        file.flush().unwrap();
        start_all(&file.file);
        let read = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(read == bytes);
        assert_eq!(file.written, 3 * STEP + 17);
        assert!(file.started > 0 && file.started <= file.written);
    }
}
