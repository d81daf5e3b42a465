//! [`Memmap`]: rows of token ids in OLMo's raw layout, plus the manifest that the layout lacks.
//!
//! The files are `input_ids.npy` (raw little-endian uint16 or uint32, without a header despite the
//! name), `label_mask.npy` (one byte per token; absent if every token is a target),
//! `boundaries.npy` (raw little-endian u64: where documents start, in tokens) and `manifest.json`.
//! OLMo's own trainer reads the first two directly. Large sets are split into several files,
//! `input_ids-1.npy` and so on after the first: OLMo's `data.paths`, in this order. Id files may also
//! stay on a server: then the folder has the manifest alone, and rows are fetched when they are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use olmo_base::{Digest, IoContext as _};
use olmo_remote::{RangeReader, RemoteError, RemoteFile, Settings};
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::json_file;

/// Number of rows on a server to request at a time.
const CONNECTIONS: usize = 16;

pub(super) const INPUT_IDS: &str = "input_ids.npy";
pub(super) const LABEL_MASK: &str = "label_mask.npy";
pub(super) const BOUNDARIES: &str = "boundaries.npy";
pub(super) const MANIFEST: &str = "manifest.json";

/// The name of file `shard` (from 0) of `name`.
pub(super) fn shard_name(name: &str, shard: usize) -> String {
    let stem = name.trim_end_matches(".npy");
    if shard == 0 { name.to_owned() } else { format!("{stem}-{shard}.npy") }
}

/// The type of an id on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    Uint16,
    Uint32,
}

impl Dtype {
    /// The smallest type that holds every id below `vocab_size`.
    pub fn for_vocabulary(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 { Self::Uint16 } else { Self::Uint32 }
    }

    /// Size of an id in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Uint16 => 2,
            Self::Uint32 => 4,
        }
    }

    /// numpy's name, as in OLMo's `data.memmap_dtype`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
        }
    }
}

/// `manifest.json` of a memmap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub dtype: Dtype,
    /// Number of tokens: `instances * sequence_length`.
    pub count: u64,
    /// Row length in tokens.
    pub sequence_length: u64,
    /// Number of rows.
    pub instances: u64,
    /// Number of targets per epoch: labelled tokens that are not the first of their row.
    pub labels: u64,
    /// All ids are below this.
    pub vocab_size: u32,
    /// Digest of the `tokenizer.json` that produced the ids.
    pub tokenizer: Digest,
    pub eos_token_id: u32,
    pub pad_token_id: u32,
    /// Number of documents in the rows, equal to the number of boundaries.
    pub documents: u64,
    /// Number of documents dropped because nothing in them could be trained, or because they were
    /// in the dropped tail.
    pub dropped: u64,
    /// Number of documents of which only a part is present.
    pub truncated: u64,
    /// Number of padding tokens.
    pub padding: u64,
    /// Number of rows that lost their labels because they are repetitive.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub filtered: u64,
    /// Number of rows in each id file, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<u64>,
    /// The id files, if they stay on a server: then the folder has none, each row is one document,
    /// and every token is a target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote: Vec<RemoteFile>,
    /// BLAKE3 digest of each file.
    pub blake3: BTreeMap<String, Digest>,
}

impl Manifest {
    /// Number of rows in each id file.
    fn rows_by_file(&self) -> Vec<u64> {
        if self.shards.is_empty() { vec![self.instances] } else { self.shards.clone() }
    }

    /// Size of the ids of a row in bytes.
    fn row_bytes(&self) -> u64 {
        self.sequence_length * self.dtype.bytes() as u64
    }

    /// Writes it to folder `dir`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), DataError> {
        json_file::write(&dir.join(MANIFEST), self)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// `sequence_length` ids.
    pub input_ids: Vec<u32>,
    /// Which tokens are targets; `None` if all are.
    pub label_mask: Option<Vec<bool>>,
}

/// One id file and its label mask.
#[derive(Debug)]
struct Shard {
    /// Index of its first row.
    first: usize,
    input_ids: IdFile,
    label_mask: Option<Mmap>,
}

#[derive(Debug)]
enum IdFile {
    Local(Mmap),
    Remote(RemoteFile),
}

/// Memory-mapped rows of token ids. The files must not change while it is open.
#[derive(Debug)]
pub struct Memmap {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
    /// Where documents start; not listed if the ids are on a server.
    boundaries: Vec<u64>,
    /// Reads ids that are on a server.
    reader: Option<RangeReader>,
}

impl Memmap {
    /// Opens the memmap in folder `dir`.
    ///
    /// Rejects a manifest of another format, files whose size differs from it, a dtype too small
    /// for the vocabulary, ids outside the vocabulary (every id is checked once), and boundaries
    /// that are not ascending. [`Memmap::verify`] checks the digests.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(MANIFEST);
        let manifest: Manifest = json_file::read(&path)?;
        let bad = |reason: &str| DataError::Manifest { path: path.clone(), reason: reason.into() };
        if manifest.sequence_length == 0 || manifest.count == 0 {
            return Err(bad("has no tokens"));
        }
        if manifest.instances.checked_mul(manifest.sequence_length) != Some(manifest.count) {
            return Err(bad("count is not instances * sequence_length"));
        }
        if manifest.instances > u64::from(u32::MAX) {
            return Err(bad("has more than 2^32 - 1 rows"));
        }
        if Dtype::for_vocabulary(manifest.vocab_size).bytes() > manifest.dtype.bytes() {
            let (dtype, vocab_size) = (manifest.dtype.as_str(), manifest.vocab_size);
            return Err(DataError::Dtype { path: dir.join(INPUT_IDS), dtype, vocab_size });
        }
        let rows = manifest.rows_by_file();
        if rows.iter().try_fold(0u64, |sum, rows| sum.checked_add(*rows)) != Some(manifest.instances) {
            return Err(bad("the rows of its shards are not its instances"));
        }
        let masked = manifest.blake3.contains_key(LABEL_MASK);
        let mut shards = Vec::with_capacity(rows.len());
        let mut first = 0;
        for (shard, rows) in rows.into_iter().enumerate() {
            shards.push(Shard::open(dir, &manifest, shard, first, rows, masked)?);
            first += rows as usize;
        }
        if !manifest.remote.is_empty() {
            let reader = range_reader()?;
            return Ok(Self { dir: dir.to_owned(), manifest, shards, boundaries: Vec::new(), reader: Some(reader) });
        }
        let boundaries_path = dir.join(BOUNDARIES);
        let boundaries = map(&boundaries_path, manifest.documents.saturating_mul(8), |_| "")?;
        let boundaries: Vec<u64> = boundaries.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let ascend = boundaries.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascend || boundaries.last().is_some_and(|last| *last >= manifest.count) {
            return Err(DataError::broken(&boundaries_path, "the boundaries are not ascending within the tokens"));
        }
        let opened = Self { dir: dir.to_owned(), manifest, shards, boundaries, reader: None };
        (0..opened.instances()).try_for_each(|row| opened.ids(row).map(drop))?;
        Ok(opened)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of rows.
    pub fn instances(&self) -> usize {
        self.manifest.instances as usize
    }

    /// The file that contains row `index`, and the row's position in it.
    fn shard(&self, index: usize) -> (&Shard, usize) {
        let shard = &self.shards[self.shards.partition_point(|shard| shard.first <= index) - 1];
        (shard, index - shard.first)
    }

    /// Row `index`, which must be below [`Memmap::instances`].
    ///
    /// # Errors
    /// Its ids are on a server, and cannot be read or are not below the vocabulary size.
    pub fn instance(&self, index: usize) -> Result<Instance, DataError> {
        let length = self.manifest.sequence_length as usize;
        let (shard, row) = self.shard(index);
        let label_mask = shard
            .label_mask
            .as_ref()
            .map(|mask| mask[row * length..][..length].iter().map(|byte| *byte != 0).collect());
        Ok(Instance { input_ids: self.ids(index)?, label_mask })
    }

    /// The rows `indices`, in this order. Those on a server are requested side by side.
    ///
    /// # Errors
    /// As for [`instance`](Self::instance).
    pub fn rows(&self, indices: &[usize]) -> Result<Vec<Instance>, DataError> {
        if self.reader.is_none() || indices.len() < 2 {
            return indices.iter().map(|index| self.instance(*index)).collect();
        }
        let share = indices.len().div_ceil(CONNECTIONS);
        let shares = std::thread::scope(|scope| {
            let read = |share: &[usize]| share.iter().map(|index| self.instance(*index)).collect::<Result<Vec<_>, _>>();
            let threads: Vec<_> = indices.chunks(share).map(|share| scope.spawn(move || read(share))).collect();
            let joined =
                threads.into_iter().map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
            joined.collect::<Result<Vec<_>, _>>()
        });
        Ok(shares?.into_iter().flatten().collect())
    }

    fn ids(&self, index: usize) -> Result<Vec<u32>, DataError> {
        let (shard, row) = self.shard(index);
        let length = self.manifest.sequence_length as usize * self.manifest.dtype.bytes();
        let mut fetched = Vec::new();
        let bytes = match (&shard.input_ids, &self.reader) {
            (IdFile::Local(map), _) => &map[row * length..][..length],
            (IdFile::Remote(file), Some(reader)) => {
                fetched.extend(reader.read(file, (row * length) as u64, length).map_err(Box::new)?);
                &fetched[..]
            }
            (IdFile::Remote(_), None) => return Err(DataError::broken(&self.dir, "was opened without a reader")),
        };
        let ids: Vec<u32> = match self.manifest.dtype {
            Dtype::Uint16 => bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b))).collect(),
            Dtype::Uint32 => bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
        };
        let vocab_size = self.manifest.vocab_size;
        if let Some(at) = ids.iter().position(|id| *id >= vocab_size) {
            let path = match &shard.input_ids {
                IdFile::Local(_) => self.dir.join(INPUT_IDS),
                IdFile::Remote(file) => PathBuf::from(&file.url),
            };
            let position = index * self.manifest.sequence_length as usize + at;
            return Err(DataError::OverVocabulary { path, position, id: ids[at], vocab_size });
        }
        Ok(ids)
    }

    /// Where documents start, in tokens from the first row, ascending. A document ends where the
    /// next one starts; padding belongs to the document before it. Empty if the ids are on a server:
    /// then each row is one document.
    pub fn boundaries(&self) -> &[u64] {
        &self.boundaries
    }

    /// Where documents start within row `index`. A row may start inside a document.
    pub fn document_starts(&self, index: usize) -> Vec<usize> {
        if self.reader.is_some() {
            return vec![0];
        }
        let length = self.manifest.sequence_length;
        let (from, to) = (index as u64 * length, (index as u64 + 1) * length);
        let first = self.boundaries.partition_point(|start| *start < from);
        self.boundaries[first..].iter().take_while(|start| **start < to).map(|start| (start - from) as usize).collect()
    }

    /// Reads every file and compares it with its digest.
    pub fn verify(&self) -> Result<(), DataError> {
        for (name, expected) in &self.manifest.blake3 {
            let path = self.dir.join(name);
            let (found, _) = Digest::of_file(&path).context(&path)?;
            if found != *expected {
                let reason = format!("has digest {}, but its manifest says {}", found.short(), expected.short());
                return Err(DataError::broken(&path, reason));
            }
        }
        Ok(())
    }
}

impl Shard {
    fn open(
        dir: &Path,
        manifest: &Manifest,
        shard: usize,
        first: usize,
        rows: u64,
        masked: bool,
    ) -> Result<Self, DataError> {
        if !manifest.remote.is_empty() {
            let file = manifest.remote.get(shard).filter(|file| file.size / manifest.row_bytes() == rows);
            let file = file.ok_or_else(|| {
                DataError::broken(&dir.join(MANIFEST), "its remote files do not have the rows that it says")
            })?;
            return Ok(Self { first, input_ids: IdFile::Remote(file.clone()), label_mask: None });
        }
        let count = rows * manifest.sequence_length;
        let ids_path = dir.join(shard_name(INPUT_IDS, shard));
        let width = manifest.dtype.bytes() as u64;
        let input_ids = map(&ids_path, count * width, |found| match (manifest.dtype, found) {
            (Dtype::Uint16, found) if found == count * 4 => "; it may contain uint32, not uint16",
            (Dtype::Uint32, found) if found == count * 2 => "; it may contain uint16, not uint32",
            _ => "",
        })?;
        let path = dir.join(shard_name(LABEL_MASK, shard));
        if !masked {
            if path.exists() {
                return Err(DataError::broken(&path, "is not in the manifest"));
            }
            return Ok(Self { first, input_ids: IdFile::Local(input_ids), label_mask: None });
        }
        let mask = map(&path, count, |_| "")?;
        if let Some(at) = mask.iter().position(|byte| *byte > 1) {
            return Err(DataError::broken(&path, format!("byte {at} is {}, not 0 or 1", mask[at])));
        }
        Ok(Self { first, input_ids: IdFile::Local(input_ids), label_mask: Some(mask) })
    }
}

/// A reader of files on servers, with the settings of the environment.
fn range_reader() -> Result<RangeReader, DataError> {
    let settings = Settings::of_environment(|name| std::env::var(name).ok());
    let settings = settings.map_err(|why| RemoteError::Form { source_text: "the environment".to_owned(), why });
    Ok(settings.and_then(|settings| RangeReader::new(&settings)).map_err(Box::new)?)
}

/// Reads the first bytes of each of `files`. Returns the first one that begins with numpy's header,
/// which raw files of ids do not have.
///
/// # Errors
/// A file cannot be read, or changed.
pub fn find_numpy_header(files: &[RemoteFile]) -> Result<Option<&RemoteFile>, DataError> {
    const MAGIC: &[u8] = b"\x93NUMPY";
    let reader = range_reader()?;
    for file in files.iter().filter(|file| file.size >= MAGIC.len() as u64) {
        if reader.read(file, 0, MAGIC.len()).map_err(Box::new)? == MAGIC {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn map(path: &Path, expected: u64, guess: impl Fn(u64) -> &'static str) -> Result<Mmap, DataError> {
    let file = File::open(path).context(path)?;
    let found = file.metadata().context(path)?.len();
    if found != expected {
        return Err(DataError::Size { path: path.to_owned(), expected, found, guess: guess(found) });
    }
    // SAFETY: artifacts are read-only copies that are never written to once complete.
    Ok(unsafe { Mmap::map(&file) }.context(path)?)
}
