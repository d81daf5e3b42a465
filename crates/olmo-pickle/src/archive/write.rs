//! Writes a file of `torch.save`.

use std::io::{self, Write};

use crate::pickle::{Item, Protocol, write};

/// Storages begin at multiples of this, so that they can be mapped into memory.
const ALIGNMENT: u64 = 64;
/// Sizes and offsets from here on need 64-bit fields.
const WIDE: u64 = 0xffff_ffff;
/// Date of every entry: 1980-01-01, so that equal values give equal bytes.
const DATE: [u8; 4] = [0, 0, 0x21, 0];

/// Writes one archive to `out`: first its value, then each storage in turn.
///
/// The pickle refers to storages by number ([`Item::Tensor`]); the bytes of storage 0 come first.
pub struct ArchiveWriter<W> {
    out: W,
    folder: String,
    at: u64,
    directory: Vec<Written>,
    storages: usize,
}

/// An entry that is written.
struct Written {
    name: String,
    header: u64,
    length: u64,
    crc: u32,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive whose entries are in `folder` (PyTorch uses the name of the file, or
    /// `archive`), with `root` as its value.
    ///
    /// # Errors
    /// An I/O error.
    pub fn new(out: W, folder: &str, root: &Item) -> io::Result<Self> {
        let mut writer = Self { out, folder: folder.to_owned(), at: 0, directory: Vec::new(), storages: 0 };
        writer.entry("data.pkl", &write(root, Protocol::Two))?;
        writer.entry(".format_version", b"1")?;
        writer.entry(".storage_alignment", ALIGNMENT.to_string().as_bytes())?;
        writer.entry("byteorder", b"little")?;
        Ok(writer)
    }

    /// Writes the next storage: the elements of a tensor, little endian.
    ///
    /// # Errors
    /// An I/O error.
    pub fn storage(&mut self, bytes: &[u8]) -> io::Result<()> {
        let name = format!("data/{}", self.storages);
        self.storages += 1;
        self.entry(&name, bytes)
    }

    /// Ends the archive; its length, and what it was written to.
    ///
    /// # Errors
    /// An I/O error.
    pub fn finish(mut self) -> io::Result<(u64, W)> {
        self.entry("version", b"3\n")?;
        // PyTorch hashes the names and the checksums; any number will do.
        let mut names = crc32fast::Hasher::new();
        let mut sums = crc32fast::Hasher::new();
        for entry in &self.directory {
            names.update(entry.name.as_bytes());
            sums.update(&entry.crc.to_le_bytes());
        }
        let id = format!("{:020}{:020}", names.finalize(), sums.finalize());
        self.entry(".data/serialization_id", id.as_bytes())?;
        self.write_directory()?;
        Ok((self.at, self.out))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let name = format!("{}/{name}", self.folder);
        let length = bytes.len() as u64;
        let entry = Written { header: self.at, length, crc: crc32fast::hash(bytes), name };
        let mut extra = Vec::new();
        if length >= WIDE {
            extra.extend([1, 0, 16, 0]);
            extra.extend(length.to_le_bytes());
            extra.extend(length.to_le_bytes());
        }
        // A field named `FB` moves the content to the next multiple of the alignment.
        let before = self.at + 30 + entry.name.len() as u64 + extra.len() as u64 + 4;
        let padding = (ALIGNMENT - before % ALIGNMENT) % ALIGNMENT;
        extra.extend(b"FB");
        extra.extend((padding as u16).to_le_bytes());
        extra.extend(vec![b'Z'; padding as usize]);
        let mut header = b"PK\x03\x04".to_vec();
        header.extend(common_fields(&entry));
        header.extend((entry.name.len() as u16).to_le_bytes());
        header.extend((extra.len() as u16).to_le_bytes());
        header.extend(entry.name.as_bytes());
        header.extend(extra);
        self.put(&header)?;
        self.put(bytes)?;
        self.directory.push(entry);
        Ok(())
    }

    fn write_directory(&mut self) -> io::Result<()> {
        let start = self.at;
        let mut directory = Vec::new();
        for entry in &self.directory {
            let mut wide = Vec::new();
            if entry.length >= WIDE {
                wide.extend(entry.length.to_le_bytes());
                wide.extend(entry.length.to_le_bytes());
            }
            if entry.header >= WIDE {
                wide.extend(entry.header.to_le_bytes());
            }
            if !wide.is_empty() {
                let length = wide.len() as u16;
                wide.splice(0..0, [[1, 0], length.to_le_bytes()].concat());
            }
            directory.extend(b"PK\x01\x02\x2d\x00");
            directory.extend(common_fields(entry));
            directory.extend((entry.name.len() as u16).to_le_bytes());
            directory.extend((wide.len() as u16).to_le_bytes());
            // Comment, disk, and attributes.
            directory.extend([0; 10]);
            directory.extend((entry.header.min(WIDE) as u32).to_le_bytes());
            directory.extend(entry.name.as_bytes());
            directory.extend(wide);
        }
        let count = self.directory.len() as u64;
        let length = directory.len() as u64;
        let end = start + length;
        // As in PyTorch, both kinds of end record.
        directory.extend(b"PK\x06\x06");
        directory.extend(44u64.to_le_bytes());
        directory.extend([0x2d, 0, 0x2d, 0]);
        directory.extend([0; 8]);
        for number in [count, count, length, start] {
            directory.extend(number.to_le_bytes());
        }
        directory.extend(b"PK\x06\x07\0\0\0\0");
        directory.extend(end.to_le_bytes());
        directory.extend(1u32.to_le_bytes());
        directory.extend(b"PK\x05\x06\0\0\0\0");
        let short_count = (count.min(0xffff) as u16).to_le_bytes();
        directory.extend(short_count);
        directory.extend(short_count);
        directory.extend((length.min(WIDE) as u32).to_le_bytes());
        directory.extend((start.min(WIDE) as u32).to_le_bytes());
        directory.extend([0; 2]);
        self.put(&directory)
    }
}

/// The fields that the local header and the directory share: from the version that is needed to the
/// lengths.
fn common_fields(entry: &Written) -> Vec<u8> {
    let short = (entry.length.min(WIDE) as u32).to_le_bytes();
    // Version 4.5 if there are wide fields; names in UTF-8; stored.
    let mut fields = vec![if entry.length >= WIDE || entry.header >= WIDE { 45 } else { 20 }, 0, 0, 8, 0, 0];
    fields.extend(DATE);
    fields.extend(entry.crc.to_le_bytes());
    fields.extend(short);
    fields.extend(short);
    fields
}
