//! Where bytes come from: files in a folder, in memory, or anything that implements [`Files`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;

/// A file of known length that can be read anywhere.
pub trait ReadAt: Send + Sync {
    /// Length in bytes.
    fn length(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The file ends before, or an I/O error.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(buffer.len())?));
        let bytes = range.and_then(|range| self.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn length(&self) -> u64 {
        self.as_slice().length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn length(&self) -> u64 {
        (**self).length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn length(&self) -> u64 {
        (**self).length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn length(&self) -> u64 {
        (**self).length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// The `length` bytes of `file` from `offset` on.
///
/// # Errors
/// The file is shorter, which is found before memory is taken, or an I/O error.
pub fn read_range(file: &(impl ReadAt + ?Sized), offset: u64, length: u64) -> Result<Vec<u8>, Error> {
    let fits = offset.checked_add(length).is_some_and(|end| end <= file.length());
    let size = usize::try_from(length).ok().filter(|_| fits);
    let size = size.ok_or_else(|| {
        Error::invalid(format!("it has {} bytes, too few for {length} at byte {offset}: it is cut off", file.length()))
    })?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, offset).map_err(|error| Error::io("read it", error))?;
    Ok(bytes)
}

/// A file on disk, with its length when it was opened.
struct DiskFile {
    file: File,
    length: u64,
}

impl ReadAt for DiskFile {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// A part of a file, read as if it were a file.
pub struct Part<S> {
    source: S,
    offset: u64,
    length: u64,
}

impl<S: ReadAt> Part<S> {
    /// The `length` bytes of `source` from `offset` on. Nothing if `source` is shorter.
    pub fn new(source: S, offset: u64, length: u64) -> Option<Self> {
        let fits = offset.checked_add(length).is_some_and(|end| end <= source.length());
        fits.then_some(Self { source, offset, length })
    }
}

impl<S: ReadAt> ReadAt for Part<S> {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let fits = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.length);
        if !fits {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.source.read_exact_at(buffer, self.offset + offset)
    }
}

/// Files with names, as a checkpoint's folder has them.
pub trait Files: Send + Sync {
    /// Opens the file `name`, a relative path with `/` between its parts.
    ///
    /// # Errors
    /// `NotFound` if there is none, or another I/O error.
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>>;
}

/// Opens a file on disk.
///
/// # Errors
/// There is none, it is not a regular file, or another I/O error.
pub fn open_file(path: &Path) -> io::Result<Box<dyn ReadAt>> {
    // The type comes first: opening a FIFO would wait for its writer.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        let kind = olmo_base::files::kind_name(metadata.file_type());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}, not a regular file")));
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(Box::new(DiskFile { file, length }))
}

/// Files in memory, by name.
#[derive(Clone, Default)]
pub struct MemoryFiles(BTreeMap<String, Arc<Vec<u8>>>);

impl MemoryFiles {
    /// Adds or replaces the file `name`.
    pub fn insert(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.to_owned(), Arc::new(bytes));
    }
}

impl Files for MemoryFiles {
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        let bytes = self.0.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Arc::clone(bytes)))
    }
}

/// Why `name` cannot be the name of a file beside `.metadata`, if it cannot.
pub(crate) fn problem_of_file_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name == "." || name == ".." {
        Some("is a folder")
    } else if name.contains(['/', '\\']) {
        Some("has a path separator")
    } else if name.chars().any(char::is_control) {
        Some("has a control character")
    } else if name.len() > 255 {
        Some("has more than 255 bytes")
    } else {
        None
    }
}
