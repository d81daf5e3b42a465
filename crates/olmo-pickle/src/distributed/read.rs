//! Reads a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::chunks::for_each_run;
use super::metadata::{self, Chunk, Entries, Entry, METADATA_FILE, MODEL_AND_OPTIM, Place, TensorEntry};
use crate::archive::Archive;
use crate::document::Tensor;
use crate::error::{Error, join_problems, shortened};
use crate::files::{Files, Part, ReadAt};
use crate::folder_files::FolderFiles;
use crate::pickle;

/// Bytes of the longest `.metadata`.
const LONGEST_METADATA: u64 = 1 << 30;

/// A part of an opened shard.
type ShardPart = Part<Box<dyn ReadAt>>;

/// An opened checkpoint: its list of entries is read, the entries are not.
pub struct Checkpoint {
    files: Arc<dyn Files>,
    /// Where `.metadata` is, with a slash at its end unless it is empty.
    folder: String,
    entries: Entries,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("folder", &self.folder).field("entries", &self.entries).finish()
    }
}

impl Checkpoint {
    /// Opens the checkpoint in a folder: see [`open`](Self::open).
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_folder(folder: &Path) -> Result<Self, Error> {
        Self::open(Arc::new(FolderFiles::new(folder)))
    }

    /// Opens a checkpoint whose `.metadata` is among `files` or in their folder `model_and_optim`.
    ///
    /// # Errors
    /// There is no `.metadata`, or it does not list a whole checkpoint. The message has
    /// all problems.
    pub fn open(files: Arc<dyn Files>) -> Result<Self, Error> {
        let nested = format!("{MODEL_AND_OPTIM}/");
        match Self::open_in(Arc::clone(&files), String::new()) {
            Err(error) if error.is_missing() => Self::open_in(files, nested).map_err(|error| {
                if !error.is_missing() {
                    return error;
                }
                let reason = format!("there is no {METADATA_FILE}, here or in {MODEL_AND_OPTIM}");
                Error::missing(reason).with_hint("give the folder of one step, such as `step1000`")
            }),
            result => result,
        }
    }

    fn open_in(files: Arc<dyn Files>, folder: String) -> Result<Self, Error> {
        let name = format!("{folder}{METADATA_FILE}");
        let entries = read_entries(&*files, &name).map_err(|error| error.within(&name))?;
        Ok(Self { files, folder, entries })
    }

    /// All entries by name, sorted.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The tensors among the entries.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.entries().filter_map(|(name, entry)| match entry {
            Entry::Tensor(tensor) => Some((name, tensor)),
            Entry::Bytes(_) => None,
        })
    }

    /// The names of the shards, which are beside `.metadata`.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.entries.values().flat_map(Entry::places).map(|place| &*place.file).collect()
    }

    /// The bytes of each shard that the entries whose names `wants` accepts need: ascending ranges,
    /// each with its first byte and its end.
    pub fn ranges(&self, wants: impl Fn(&str) -> bool) -> BTreeMap<&str, Vec<(u64, u64)>> {
        let mut ranges: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for (_, entry) in self.entries().filter(|(name, _)| wants(name)) {
            for place in entry.places() {
                ranges.entry(&place.file).or_default().push((place.offset, place.offset + place.length));
            }
        }
        for of_shard in ranges.values_mut() {
            of_shard.retain(|(start, end)| start < end);
            of_shard.sort_unstable();
            // Ranges that touch are one.
            of_shard.dedup_by(|next, before| {
                let touches = next.0 <= before.1;
                if touches {
                    before.1 = before.1.max(next.1);
                }
                touches
            });
        }
        ranges
    }

    /// The entry with this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Checks that each shard exists and is long enough. Reads none.
    ///
    /// # Errors
    /// All shards that are missing or too short.
    pub fn check_shards(&self) -> Result<(), Error> {
        let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
        for place in self.entries.values().flat_map(Entry::places) {
            let end = ends.entry(&place.file).or_default();
            *end = (*end).max(place.offset + place.length);
        }
        let problem = |(file, end): (&str, u64)| match self.shard(file) {
            Ok(shard) if shard.length() >= end => None,
            Ok(shard) => Some(format!("{}{file} has {} bytes, not {end}: it is cut off", self.folder, shard.length())),
            Err(error) => Some(error.to_string()),
        };
        let problems: Vec<String> = ends.into_iter().filter_map(problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::missing(join_problems(&problems))) }
    }

    fn shard(&self, file: &str) -> Result<Box<dyn ReadAt>, Error> {
        let name = format!("{}{file}", self.folder);
        self.files.open(&name).map_err(|error| Error::io("open it", error).within(&name))
    }

    fn part(&self, place: &Place) -> Result<ShardPart, Error> {
        let shard = self.shard(&place.file)?;
        let length = shard.length();
        Part::new(shard, place.offset, place.length).ok_or_else(|| {
            let end = place.offset + place.length;
            let reason = format!("it has {length} bytes, but an entry ends at byte {end}: it is cut off");
            Error::invalid(reason).within(&format!("{}{}", self.folder, place.file))
        })
    }

    /// The elements of the tensor `name`, little endian, in the order of the indices. Reads only
    /// its chunks.
    ///
    /// # Errors
    /// There is no such tensor, or a shard is missing, cut off or damaged.
    pub fn read_tensor(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.assemble(self.tensor_entry(name)?).map_err(|error| error.within(&format!("`{}`", shortened(name))))
    }

    fn tensor_entry(&self, name: &str) -> Result<&TensorEntry, Error> {
        match self.entry(name) {
            Some(Entry::Tensor(tensor)) => Ok(tensor),
            Some(Entry::Bytes(_)) => Err(Error::invalid(format!("`{}` is not a tensor", shortened(name)))),
            None => Err(Error::missing(format!("there is no tensor `{}`", shortened(name)))),
        }
    }

    fn assemble(&self, tensor: &TensorEntry) -> Result<Vec<u8>, Error> {
        // All shards must have their chunks before memory for the tensor is taken.
        if tensor.chunks.len() > 1 {
            tensor.chunks.iter().try_for_each(|chunk| self.part(&chunk.place).map(drop))?;
        }
        let mut whole: Option<Vec<u8>> = None;
        for chunk in &tensor.chunks {
            let part = self.part(&chunk.place)?;
            read_chunk(tensor, chunk, part, &mut whole).map_err(|error| {
                error.within(&format!("{}{} at byte {}", self.folder, chunk.place.file, chunk.place.offset))
            })?;
        }
        Ok(whole.unwrap_or_default())
    }

    /// Where the elements of the tensor `name` are, if one chunk holds all of them in the order of
    /// the indices: the shard, and the range of it. Checkpoints of
    /// [`CheckpointWriter`](super::CheckpointWriter) align the range to 64 bytes.
    ///
    /// # Errors
    /// As for [`read_tensor`](Self::read_tensor).
    pub fn location(&self, name: &str) -> Result<Option<Place>, Error> {
        let tensor = self.tensor_entry(name)?;
        let [chunk] = &tensor.chunks[..] else { return Ok(None) };
        let locate = || {
            let archive = Archive::open(self.part(&chunk.place)?)?;
            archive.location(&stored_tensor(&archive, tensor, chunk)?)
        };
        let range = locate().map_err(|error| error.within(&format!("`{}`", shortened(name))))?;
        let file = format!("{}{}", self.folder, chunk.place.file);
        Ok(range.map(|(start, length)| Place { file: file.into(), offset: chunk.place.offset + start, length }))
    }

    /// Opens the value of the entry `name` that is no tensor, such as a setting of the optimizer.
    ///
    /// # Errors
    /// There is no such entry, or its shard is missing, cut off or damaged.
    pub fn read_value(&self, name: &str) -> Result<Archive<ShardPart>, Error> {
        let place = match self.entry(name) {
            Some(Entry::Bytes(entry)) => &entry.place,
            Some(Entry::Tensor(_)) => return Err(Error::invalid(format!("`{}` is a tensor", shortened(name)))),
            None => return Err(Error::missing(format!("there is no entry `{}`", shortened(name)))),
        };
        let archive = self.part(place).and_then(Archive::open);
        archive.map_err(|error| error.within(&format!("`{}`", shortened(name))))
    }
}

/// The tensor in the archive of a chunk, if it is the one that the list promises.
fn stored_tensor<'a>(
    archive: &'a Archive<ShardPart>,
    tensor: &TensorEntry,
    chunk: &Chunk,
) -> Result<Tensor<'a>, Error> {
    let root = archive.root();
    let stored =
        root.as_tensor().ok_or_else(|| Error::invalid(format!("it holds {}, not a tensor", root.describe())))?;
    if stored.dtype != tensor.dtype || stored.shape != chunk.sizes() {
        let reason = format!(
            "it holds {} {:?}, but {METADATA_FILE} promises {} {:?}",
            stored.dtype,
            stored.shape,
            tensor.dtype,
            chunk.sizes()
        );
        return Err(Error::invalid(reason));
    }
    Ok(stored)
}

/// Reads a chunk to its place in the tensor. The first chunk allocates the tensor.
fn read_chunk(tensor: &TensorEntry, chunk: &Chunk, part: ShardPart, whole: &mut Option<Vec<u8>>) -> Result<(), Error> {
    let archive = Archive::open(part)?;
    let stored = stored_tensor(&archive, tensor, chunk)?;
    let length = archive.tensor_length(&stored)?;
    let total = usize::try_from(tensor.bytes());
    let total = total.map_err(|_| Error::unsupported("a tensor too large for this machine"))?;
    let whole = whole.get_or_insert_with(|| vec![0; total]);
    let size = tensor.dtype.size() as u64;
    let mut runs = Vec::new();
    let elements = length / size;
    for_each_run(&tensor.shape, &chunk.extent, |place, from, count| {
        // A chunk of whole rows is one run, which needs no copy.
        if count == elements {
            let start = (place * size) as usize;
            return archive.read_into(&stored, &mut whole[start..start + length as usize]);
        }
        runs.push((place, from, count));
        Ok(())
    })?;
    if runs.is_empty() {
        return Ok(());
    }
    let bytes = archive.read(&stored)?;
    for (place, from, count) in runs {
        let [place, from, count] = [place, from, count].map(|number| (number * size) as usize);
        whole[place..place + count].copy_from_slice(&bytes[from..from + count]);
    }
    Ok(())
}

fn read_entries(files: &dyn Files, name: &str) -> Result<Entries, Error> {
    let file = files.open(name).map_err(|error| Error::io("open it", error))?;
    let length = file.length();
    if length > LONGEST_METADATA {
        return Err(Error::unsupported(format!("it has {length} bytes, more than 1 GiB")));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|error| Error::io("read it", error))?;
    if bytes.starts_with(b"version https://git-lfs") {
        let hint = "fetch the file itself with `git lfs pull`";
        return Err(Error::unsupported("this is a Git LFS pointer, not the file").with_hint(hint));
    }
    metadata::entries(&pickle::parse(&bytes)?)
}
