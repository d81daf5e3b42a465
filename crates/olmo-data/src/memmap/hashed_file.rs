//! [`HashedFile`]: a file that is hashed while being written.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use olmo_base::{Digest, IoContext as _, WritebackFile};

use crate::error::DataError;

/// Number of bytes that are hashed and written at once.
const PIECE: usize = 1 << 18;
/// Number of pieces that may wait for a thread.
const WAITING: usize = 4;

pub(super) struct HashedFile {
    path: PathBuf,
    /// Bytes of the next piece.
    piece: Vec<u8>,
    output: Output,
}

enum Output {
    Here(Box<Hashing>),
    /// A thread of its own, which ends with its channel, or with its first error.
    Beside(SyncSender<Vec<u8>>, JoinHandle<io::Result<Box<Hashing>>>),
    /// It has failed.
    Gone,
}

struct Hashing {
    file: WritebackFile,
    hasher: blake3::Hasher,
}

impl Hashing {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hasher.update(piece);
        self.file.write_all(piece)
    }
}

impl HashedFile {
    /// Creates the file `path`. With `beside`, a thread hashes and writes; the bytes are the same.
    pub(super) fn create(path: &Path, beside: bool) -> Result<Self, DataError> {
        let file = WritebackFile::new(File::create(path).context(path)?);
        let mut hashing = Box::new(Hashing { file, hasher: blake3::Hasher::new() });
        let output = if beside {
            let (pieces, to_write) = sync_channel::<Vec<u8>>(WAITING);
            let write = move || {
                to_write.into_iter().try_for_each(|piece| hashing.write(&piece))?;
                Ok(hashing)
            };
            Output::Beside(pieces, std::thread::Builder::new().name("memmap".into()).spawn(write).context(path)?)
        } else {
            Output::Here(hashing)
        };
        Ok(Self { path: path.to_owned(), piece: Vec::with_capacity(PIECE), output })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() < PIECE { Ok(()) } else { self.end_piece() }
    }

    fn end_piece(&mut self) -> Result<(), DataError> {
        match &mut self.output {
            Output::Here(hashing) => {
                hashing.write(&self.piece).context(&self.path)?;
                self.piece.clear();
                return Ok(());
            }
            Output::Beside(pieces, _) => {
                let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
                if pieces.send(piece).is_ok() {
                    return Ok(());
                }
            }
            Output::Gone => {}
        }
        // The thread says why it takes nothing more.
        let failed = std::mem::replace(&mut self.output, Output::Gone).close().err();
        Ok(Err(failed.unwrap_or_else(gone)).context(&self.path)?)
    }

    /// Ends the file and gives its digest.
    pub(super) fn finish(mut self) -> Result<Digest, DataError> {
        self.end_piece()?;
        let hashing = self.output.close().context(&self.path)?;
        let hex = hashing.hasher.finalize().to_hex();
        Ok(Digest::from_hex(&hex).expect("blake3 writes 64 lower-case digits"))
    }
}

impl Output {
    fn close(self) -> io::Result<Box<Hashing>> {
        match self {
            Output::Here(hashing) => Ok(hashing),
            Output::Beside(pieces, thread) => {
                drop(pieces);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            Output::Gone => Err(gone()),
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("an earlier write has failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_writes_the_same_bytes_and_says_why_it_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let digests = [false, true].map(|beside| {
            let path = dir.path().join(beside.to_string());
            let mut file = HashedFile::create(&path, beside).unwrap();
            (0..9_u8).for_each(|byte| file.write(&vec![byte; PIECE / 4 + 1]).unwrap());
            let digest = file.finish().unwrap();
            assert_eq!(digest, Digest::of(&std::fs::read(&path).unwrap()));
            digest
        });
        assert_eq!(digests[0], digests[1]);
        #[cfg(target_os = "linux")]
        for beside in [false, true] {
            let mut file = HashedFile::create(Path::new("/dev/full"), beside).unwrap();
            let failed = (0..100).find_map(|_| file.write(&[0; PIECE]).err());
            let text = failed.or_else(|| file.finish().err()).unwrap().to_string();
            assert!(text.contains("/dev/full") && text.contains("No space left"), "{text}");
        }
    }
}
