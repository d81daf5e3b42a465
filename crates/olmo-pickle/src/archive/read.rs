//! Reads a file of `torch.save`.

use super::strided::{Span, gather, span};
use super::windows::Windows;
use super::zip::{self, Entries, Entry};
use crate::document::{Document, Tensor, Value};
use crate::error::{Error, shortened};
use crate::files::ReadAt;
use crate::pickle;

/// An opened file of `torch.save`: its values are read, its tensors are not.
pub struct Archive<S> {
    file: Windows<S>,
    entries: Entries,
    /// The folder of all entries, with a slash at its end.
    folder: String,
    document: Document,
}

impl<S: ReadAt> std::fmt::Debug for Archive<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("entries", &self.entries).field("root", &self.root()).finish()
    }
}

impl<S: ReadAt> Archive<S> {
    /// Opens the archive that is all of `source`.
    ///
    /// # Errors
    /// It is not a zip file of `torch.save`, or it is damaged, or its pickle uses what
    /// cannot become data. Older formats and files for big-endian machines are refused by name.
    pub fn open(source: S) -> Result<Self, Error> {
        let file = Windows::new(source)?;
        check_start(&file)?;
        let entries = zip::entries(&file)?;
        let folder = folder(&entries)?;
        check_byte_order(&file, &entries, &folder)?;
        let name = format!("{folder}data.pkl");
        let pickle = read_entry(&file, &entries, &name)?;
        let document = pickle::parse_with_storages(&pickle).map_err(|error| error.within(&name))?;
        Ok(Self { file, entries, folder, document })
    }

    /// The saved value.
    pub fn root(&self) -> Value<'_> {
        self.document.root()
    }

    /// The saved value and everything in it.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Gives up the file and keeps the values. Tensors can no longer be read.
    pub fn into_document(self) -> Document {
        self.document
    }

    fn storage(&self, tensor: &Tensor<'_>) -> Result<(String, &Entry), Error> {
        let name = format!("{}data/{}", self.folder, tensor.storage.key);
        let entry = self.entries.get(&name);
        let entry = entry.ok_or_else(|| Error::invalid(format!("`{}` is missing", shortened(&name))))?;
        if entry.length < tensor.storage.bytes {
            let (has, needs) = (entry.length, tensor.storage.bytes);
            return Err(Error::invalid(format!("`{}` has {has} bytes, not {needs}", shortened(&name))));
        }
        Ok((name, entry))
    }

    /// Where the bytes of `tensor`, one of this archive's, are: offset in the file and length.
    /// Nothing if they do not follow each other.
    ///
    /// # Errors
    /// The tensor does not fit its storage, or the file is damaged.
    pub fn location(&self, tensor: &Tensor<'_>) -> Result<Option<(u64, u64)>, Error> {
        let part = span(tensor)?;
        let (name, entry) = self.storage(tensor)?;
        if !part.contiguous {
            return Ok(None);
        }
        let start = zip::content_start(&self.file, &name, entry)?;
        Ok(Some((start + part.start, part.length)))
    }

    /// Length in bytes of `tensor`, one of this archive's, when it is read.
    ///
    /// # Errors
    /// The tensor does not fit its storage.
    pub fn tensor_length(&self, tensor: &Tensor<'_>) -> Result<u64, Error> {
        self.storage(tensor)?;
        Ok(span(tensor)?.bytes)
    }

    /// The elements of `tensor`, one of this archive's: little endian, in the order of the indices.
    /// Checks the checksum of the storage if the tensor fills it.
    ///
    /// # Errors
    /// The tensor does not fit its storage, or the file is damaged, or an I/O error.
    pub fn read(&self, tensor: &Tensor<'_>) -> Result<Vec<u8>, Error> {
        let part = span(tensor)?;
        // `span` checked the length against the storage; this checks that the storage is there.
        self.storage(tensor)?;
        let mut bytes = vec![0; to_usize(part.bytes)?];
        self.read_into(tensor, &mut bytes)?;
        Ok(bytes)
    }

    /// Like [`read`](Self::read), into `buffer`.
    ///
    /// # Errors
    /// As for [`read`](Self::read); `buffer` does not have the length of the tensor.
    pub fn read_into(&self, tensor: &Tensor<'_>, buffer: &mut [u8]) -> Result<(), Error> {
        let part = span(tensor)?;
        let (name, entry) = self.storage(tensor)?;
        if buffer.len() as u64 != part.bytes {
            return Err(Error::invalid(format!("the tensor has {} bytes, not {}", part.bytes, buffer.len())));
        }
        let start = zip::content_start(&self.file, &name, entry)?;
        if part.contiguous {
            return self.read_part(&name, entry, start, &part, buffer);
        }
        let mut bytes = vec![0; to_usize(part.length)?];
        self.read_part(&name, entry, start, &part, &mut bytes)?;
        buffer.copy_from_slice(&gather(tensor, &part, &bytes));
        Ok(())
    }

    fn read_part(&self, name: &str, entry: &Entry, start: u64, part: &Span, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(buffer, start + part.start).map_err(|error| Error::io("read it", error))?;
        if part.length == entry.length { check_sum(name, entry, buffer) } else { Ok(()) }
    }
}

fn to_usize(length: u64) -> Result<usize, Error> {
    usize::try_from(length).map_err(|_| Error::unsupported(format!("a tensor of {length} bytes on this machine")))
}

/// Recognizes files of other formats by their first bytes.
fn check_start<S: ReadAt>(file: &Windows<S>) -> Result<(), Error> {
    let start = file.bytes(0, file.length().min(64))?;
    if start.starts_with(b"PK\x03\x04") {
        return Ok(());
    }
    // The magic number 0x1950a86a20f9469cfc6c, pickled.
    if start.starts_with(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.") {
        let hint = "save it again with PyTorch 1.6 or newer: torch.save(torch.load(FILE, map_location=\"cpu\"), FILE)";
        return Err(Error::unsupported("this is torch.save's format from before PyTorch 1.6").with_hint(hint));
    }
    if start.starts_with(b"version https://git-lfs") {
        let hint = "fetch the file itself with `git lfs pull`";
        return Err(Error::unsupported("this is a Git LFS pointer, not the file").with_hint(hint));
    }
    let reason = if start.is_empty() { "the file is empty" } else { "this is not a file of torch.save: no zip file" };
    Err(Error::invalid(reason))
}

/// The folder that holds the pickle, with a slash at its end.
fn folder(entries: &Entries) -> Result<String, Error> {
    let folders = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let mut folders = folders.filter(|folder| folder.find('/') == folder.len().checked_sub(1));
    let (Some(folder), None) = (folders.next(), folders.next()) else {
        return Err(Error::invalid("this is not a file of torch.save: it does not have one `data.pkl`"));
    };
    if entries.contains_key(&format!("{folder}constants.pkl")) {
        let hint = "save the weights alone: torch.save(torch.jit.load(FILE).state_dict(), FILE)";
        return Err(Error::unsupported("this is a TorchScript program, not a checkpoint").with_hint(hint));
    }
    Ok(folder.to_owned())
}

fn check_byte_order<S: ReadAt>(file: &Windows<S>, entries: &Entries, folder: &str) -> Result<(), Error> {
    let name = format!("{folder}byteorder");
    // Files from before PyTorch 2.1 do not have it.
    if entries.get(&name).is_none_or(|entry| entry.length > 16) {
        return Ok(());
    }
    match read_entry(file, entries, &name)?.as_slice() {
        b"little" => Ok(()),
        other => {
            Err(Error::unsupported(format!("the byte order `{}`; this program reads `little`", other.escape_ascii())))
        }
    }
}

fn read_entry<S: ReadAt>(file: &Windows<S>, entries: &Entries, name: &str) -> Result<Vec<u8>, Error> {
    let entry = entries.get(name).ok_or_else(|| Error::invalid(format!("`{}` is missing", shortened(name))))?;
    let start = zip::content_start(file, name, entry)?;
    let bytes = file.bytes(start, entry.length)?;
    check_sum(name, entry, &bytes)?;
    Ok(bytes)
}

fn check_sum(name: &str, entry: &Entry, bytes: &[u8]) -> Result<(), Error> {
    // Zero: PyTorch did not compute it (torch.serialization.set_crc32_options).
    if entry.crc == 0 || crc32fast::hash(bytes) == entry.crc {
        return Ok(());
    }
    let hint = "copy or download the file again";
    Err(Error::invalid(format!("`{}` is damaged: its checksum differs", shortened(name))).with_hint(hint))
}
