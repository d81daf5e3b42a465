//! Writes a checkpoint as one rank does.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use olmo_base::IoContext as _;
use olmo_base::PathError;

use super::metadata::{METADATA_FILE, MODULE, OLMO_CORE, PYTORCH};
use crate::archive::ArchiveWriter;
use crate::dtype::DType;
use crate::pickle::{Item, Protocol, write};

/// Archives begin at multiples of this, as storages do within them, so that tensors can be mapped
/// into memory.
const ALIGNMENT: u64 = 64;

/// Name of the only shard: rank 0, file 0.
const SHARD: &str = "__0_0.distcp";

/// The program whose checkpoints are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// `olmo_core.distributed.checkpoint`, which PyTorch does not load.
    OlmoCore,
    /// `torch.distributed.checkpoint`. OLMo-core loads these too.
    PyTorch,
}

/// Writes a checkpoint entry by entry; nothing is kept in memory but the list of entries.
pub struct CheckpointWriter {
    writer: Writer,
    folder: PathBuf,
    shard: BufWriter<File>,
    at: u64,
    /// Name of each entry, its metadata, and its place.
    listed: Vec<(String, Item)>,
    places: Vec<(Item, Item)>,
}

impl CheckpointWriter {
    /// Begins a checkpoint in `folder`, which must exist. It replaces files of an earlier one.
    ///
    /// # Errors
    /// An I/O error.
    pub fn create(folder: &Path, writer: Writer) -> Result<Self, PathError> {
        let path = folder.join(SHARD);
        let shard = File::create(&path).context_during("create", &path)?;
        Ok(Self {
            writer,
            folder: folder.to_owned(),
            shard: BufWriter::with_capacity(1 << 20, shard),
            at: 0,
            listed: Vec::new(),
            places: Vec::new(),
        })
    }

    /// Adds a tensor: its elements, little endian, in the order of the indices.
    ///
    /// # Errors
    /// An I/O error.
    ///
    /// # Panics
    /// The length of `bytes` does not fit `dtype` and `shape`.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[u64], bytes: &[u8]) -> Result<(), PathError> {
        let elements: u64 = shape.iter().product();
        assert_eq!(bytes.len() as u64, elements * dtype.size() as u64, "{name}: length of {dtype} {shape:?}");
        let root = Item::Tensor { dtype, shape: shape.to_vec(), storage: 0 };
        let zeros = vec![0; shape.len()];
        self.archive(name, Some(&zeros), &root, &[bytes])?;
        self.listed.push((name.to_owned(), tensor_metadata(dtype, shape, &zeros)));
        Ok(())
    }

    /// Adds a value that is no tensor and has none.
    ///
    /// # Errors
    /// An I/O error.
    pub fn value(&mut self, name: &str, value: &Item) -> Result<(), PathError> {
        self.archive(name, None, value, &[])?;
        self.listed.push((name.to_owned(), record("BytesStorageMetadata", None)));
        Ok(())
    }

    /// Appends an archive to the shard.
    fn archive(
        &mut self,
        name: &str,
        offset: Option<&[u64]>,
        root: &Item,
        storages: &[&[u8]],
    ) -> Result<(), PathError> {
        let path = self.folder.join(SHARD);
        let padding = (ALIGNMENT - self.at % ALIGNMENT) % ALIGNMENT;
        self.shard.write_all(&vec![0; padding as usize]).context_during("write", &path)?;
        self.at += padding;
        let written = write_archive(&mut self.shard, root, storages);
        let length = written.context_during("write", &path)?;
        let mut index = vec![("fqn", Item::text(name)), ("index", Item::None)];
        if let Some(offset) = offset {
            index[1].1 = Item::Int(0);
            index.push(("offset", Item::size(offset)));
        }
        let module = if self.writer == Writer::OlmoCore { OLMO_CORE } else { PYTORCH };
        let info = Item::dict([
            ("relative_path", Item::text(SHARD)),
            ("offset", Item::Int(self.at as i64)),
            ("length", Item::Int(length as i64)),
        ]);
        let info = Item::Object { module, name: "_StorageInfo", state: Some(Box::new(info)) };
        self.places.push((record("MetadataIndex", Some(Item::dict(index))), info));
        self.at += length;
        Ok(())
    }

    /// Writes the list of entries, which makes the checkpoint complete.
    ///
    /// # Errors
    /// An I/O error.
    pub fn finish(mut self) -> Result<(), PathError> {
        let path = self.folder.join(SHARD);
        self.shard.flush().context_during("write", &path)?;
        // PyTorch's planner remembers the keys of nested dicts: `model`, then the rest of the name.
        let keys = |name: &str| match name.split_once('.') {
            Some((first, rest)) => vec![Item::text(first), Item::text(rest)],
            None => vec![Item::text(name)],
        };
        let planner = self.listed.iter().map(|(name, _)| (Item::text(name), Item::Tuple(keys(name)))).collect();
        let listed = self.listed.into_iter().map(|(name, item)| (Item::Str(name), item)).collect();
        let storage_meta = Item::dict([
            ("checkpoint_id", Item::None),
            ("save_id", Item::None),
            ("load_id", Item::None),
            ("modules", Item::List(Vec::new())),
        ]);
        let metadata = Item::dict([
            ("state_dict_metadata", Item::Dict(listed)),
            ("planner_data", Item::Dict(planner)),
            ("storage_data", Item::Dict(self.places)),
            ("storage_meta", record("StorageMeta", Some(storage_meta))),
            ("version", Item::None),
        ]);
        let bytes = write(&record("Metadata", Some(metadata)), Protocol::Four);
        let path = self.folder.join(METADATA_FILE);
        std::fs::write(&path, bytes).context_during("write", &path)
    }
}

/// Writes one archive; its length.
fn write_archive(shard: &mut BufWriter<File>, root: &Item, storages: &[&[u8]]) -> io::Result<u64> {
    let mut archive = ArchiveWriter::new(shard, "archive", root)?;
    for storage in storages {
        archive.storage(storage)?;
    }
    Ok(archive.finish()?.0)
}

/// An object of a class of PyTorch's metadata.
fn record(name: &'static str, state: Option<Item>) -> Item {
    Item::Object { module: MODULE, name, state: state.map(Box::new) }
}

/// The metadata of a tensor that is one chunk.
fn tensor_metadata(dtype: DType, shape: &[u64], zeros: &[u64]) -> Item {
    let layout =
        Item::Call { module: "torch.serialization", name: "_get_layout", args: vec![Item::text("torch.strided")] };
    let format = Item::Call { module: MODULE, name: "_MEM_FORMAT_ENCODING", args: vec![Item::Int(0)] };
    // Type, layout, whether it needs a gradient, memory format, whether its memory is pinned.
    let properties = vec![Item::DType(dtype), layout, Item::Bool(false), format, Item::Bool(false)];
    let chunk = Item::dict([("offsets", Item::size(zeros)), ("sizes", Item::size(shape))]);
    let state = Item::dict([
        ("properties", record("TensorProperties", Some(Item::Tuple(properties)))),
        ("size", Item::size(shape)),
        ("chunks", Item::List(vec![record("ChunkStorageMetadata", Some(chunk))])),
    ]);
    record("TensorStorageMetadata", Some(state))
}
