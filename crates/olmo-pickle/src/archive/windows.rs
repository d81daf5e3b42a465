//! Keeps the two ends of a file in memory, where an archive has its directory and its pickle.

use std::io;

use crate::error::Error;
use crate::files::{ReadAt, read_range};

/// Bytes read at once from the start, enough for the pickle of a single tensor.
const HEAD: u64 = 2048;
/// Bytes read at once from the end, enough for the directory of a single tensor.
const TAIL: u64 = 4096;

/// A file, and copies of its ends. Over a network, each read is a request.
pub(super) struct Windows<S> {
    source: S,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl<S: ReadAt> Windows<S> {
    pub(super) fn new(source: S) -> Result<Self, Error> {
        let length = source.length();
        let read = |start: u64, count: u64| {
            let mut bytes = vec![0; count as usize];
            source.read_exact_at(&mut bytes, start).map_err(|error| Error::io("read it", error))?;
            Ok(bytes)
        };
        let (head, tail) = if length <= HEAD + TAIL {
            (Vec::new(), read(0, length)?)
        } else {
            (read(0, HEAD)?, read(length - TAIL, TAIL)?)
        };
        Ok(Self { source, head, tail })
    }

    /// The end of the file that is in memory.
    pub(super) fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// `length` bytes from `offset` on.
    pub(super) fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        read_range(self, offset, length)
    }
}

impl<S: ReadAt> ReadAt for Windows<S> {
    fn length(&self) -> u64 {
        self.source.length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let tail_start = self.length() - self.tail.len() as u64;
        if self.head.as_slice().read_exact_at(buffer, offset).is_ok() {
            return Ok(());
        }
        if let Some(offset) = offset.checked_sub(tail_start) {
            return self.tail.as_slice().read_exact_at(buffer, offset);
        }
        self.source.read_exact_at(buffer, offset)
    }
}
