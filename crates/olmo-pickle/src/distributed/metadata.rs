//! The list of a checkpoint's entries, from `.metadata`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::chunks::{Extent, MAX_COMPARISONS, problem_of_tiling, volume};
use crate::document::{Document, Kind, MAX_DIMENSIONS, Value};
use crate::dtype::DType;
use crate::error::{Error, join_problems, shortened};
use crate::files::problem_of_file_name;

/// Name of the file that lists the entries.
pub const METADATA_FILE: &str = ".metadata";

/// Folder of the weights and the optimizer's state in a checkpoint of OLMo-core's trainer.
pub const MODEL_AND_OPTIM: &str = "model_and_optim";

/// Module of the classes in `.metadata`.
pub(super) const MODULE: &str = "torch.distributed.checkpoint.metadata";
/// Modules that have a class `_StorageInfo`: of PyTorch and of OLMo-core.
pub(super) const PYTORCH: &str = "torch.distributed.checkpoint.filesystem";
pub(super) const OLMO_CORE: &str = "olmo_core.distributed.checkpoint.filesystem";

/// Where a `torch.save` archive is: a range of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the shard, a file beside `.metadata`.
    pub file: Arc<str>,
    pub offset: u64,
    pub length: u64,
}

/// A box of a tensor's elements that one archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub(super) extent: Extent,
    pub(super) place: Place,
}

impl Chunk {
    /// Where it begins in each dimension of the tensor.
    pub fn offsets(&self) -> &[u64] {
        &self.extent.offsets
    }

    /// How far it extends in each dimension.
    pub fn sizes(&self) -> &[u64] {
        &self.extent.sizes
    }

    /// Where it is stored.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// A tensor of a checkpoint. Its chunks fill it and do not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub chunks: Vec<Chunk>,
}

impl TensorEntry {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        // Checked when the list was read: each chunk's length fits, and so does their sum.
        volume(&self.shape).unwrap_or(0).saturating_mul(self.dtype.size() as u64)
    }
}

/// A value of a checkpoint that is no tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BytesEntry {
    pub place: Place,
}

/// An entry of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Tensor(TensorEntry),
    Bytes(BytesEntry),
}

impl Entry {
    /// Where its parts are stored.
    pub fn places(&self) -> Vec<&Place> {
        match self {
            Self::Tensor(tensor) => tensor.chunks.iter().map(Chunk::place).collect(),
            Self::Bytes(entry) => vec![&entry.place],
        }
    }
}

/// All entries, by name.
pub(super) type Entries = BTreeMap<String, Entry>;

/// The name of an entry, and the offsets of a chunk if it is a tensor.
type Index<'d> = (&'d str, Option<Vec<u64>>);

/// Reads the entries. Reports all problems at once.
pub(super) fn entries(document: &Document) -> Result<Entries, Error> {
    let root = document.root();
    if !root.is_object_of(MODULE, "Metadata") {
        let reason = format!("it holds {}, not the metadata of a distributed checkpoint", root.describe());
        return Err(Error::invalid(reason));
    }
    let mut problems = Vec::new();
    let places = places(root, &mut problems);
    let mut reader = Reader { places, budget: MAX_COMPARISONS };
    let mut entries = Entries::new();
    match root.field("state_dict_metadata") {
        Some(list) if list.kind() == Kind::Dict => {
            for (name, value) in list.entries() {
                let Some(name) = name.as_str() else {
                    problems.push(format!("the name of an entry is {}", name.describe()));
                    continue;
                };
                let new = reader.entry(name, value).map(|entry| entries.insert(name.to_owned(), entry).is_none());
                match new {
                    Ok(true) => {}
                    Ok(false) => problems.push(format!("`{}` is listed twice", shortened(name))),
                    Err(problem) => problems.push(format!("`{}`: {problem}", shortened(name))),
                }
            }
        }
        _ => problems.push("the list of entries (`state_dict_metadata`) is missing".into()),
    }
    if !problems.is_empty() {
        return Err(Error::invalid(join_problems(&problems)));
    }
    check_places(&entries)?;
    Ok(entries)
}

/// Sizes or offsets.
fn numbers(value: Option<Value<'_>>) -> Option<Vec<u64>> {
    let value = value.filter(|value| matches!(value.kind(), Kind::Tuple | Kind::List))?;
    if value.items().len() > MAX_DIMENSIONS {
        return None;
    }
    value.items().map(Value::as_u64).collect()
}

/// Where everything is stored, from `storage_data`.
fn places<'d>(root: Value<'d>, problems: &mut Vec<String>) -> HashMap<Index<'d>, Place> {
    let mut places = HashMap::new();
    let mut files: HashMap<&str, Arc<str>> = HashMap::new();
    let Some(list) = root.field("storage_data").filter(|list| list.kind() == Kind::Dict) else {
        problems.push("the list of places (`storage_data`) is missing".into());
        return places;
    };
    for (index, info) in list.entries() {
        let name = index.field("fqn").and_then(Value::as_str);
        let name = name.filter(|_| index.is_object_of(MODULE, "MetadataIndex"));
        let offset = index.field("offset").filter(|offset| !offset.is_none());
        let (Some(name), Ok(offset)) = (name, offset.map(|offset| numbers(Some(offset)).ok_or(())).transpose()) else {
            problems.push("a place belongs to no entry".into());
            continue;
        };
        match place(info, &mut files).map(|place| places.insert((name, offset), place).is_none()) {
            Ok(true) => {}
            Ok(false) => problems.push(format!("`{}` has two places for one chunk", shortened(name))),
            Err(problem) => problems.push(format!("the place of `{}`: {problem}", shortened(name))),
        }
    }
    places
}

fn place<'d>(info: Value<'d>, files: &mut HashMap<&'d str, Arc<str>>) -> Result<Place, String> {
    if !info.is_object_of(PYTORCH, "_StorageInfo") && !info.is_object_of(OLMO_CORE, "_StorageInfo") {
        return Err(format!("it is {}, which this program does not know", info.describe()));
    }
    let file = info.field("relative_path").and_then(Value::as_str).ok_or("the name of its file is missing")?;
    if let Some(problem) = problem_of_file_name(file) {
        return Err(format!("the file name `{}` {problem}", shortened(file)));
    }
    let number = |field: &str| info.field(field).and_then(Value::as_u64).ok_or(format!("its {field} is missing"));
    let (offset, length) = (number("offset")?, number("length")?);
    if offset.checked_add(length).is_none() {
        return Err("it ends beyond 64 bits".into());
    }
    // Compression and the like.
    let transforms = info.field("transform_descriptors");
    if transforms.is_some_and(|list| !list.is_none() && list.items().len() > 0) {
        return Err("it is transformed (compressed or encrypted), which this program does not read".into());
    }
    let file = files.entry(file).or_insert_with(|| file.into()).clone();
    Ok(Place { file, offset, length })
}

struct Reader<'d> {
    places: HashMap<Index<'d>, Place>,
    budget: u64,
}

impl<'d> Reader<'d> {
    fn entry(&mut self, name: &'d str, value: Value<'_>) -> Result<Entry, String> {
        if value.is_object_of(MODULE, "BytesStorageMetadata") {
            let place = self.places.get(&(name, None)).ok_or("it has no place: a shard is missing")?;
            return Ok(Entry::Bytes(BytesEntry { place: place.clone() }));
        }
        if !value.is_object_of(MODULE, "TensorStorageMetadata") {
            return Err(format!("it is {}, which this program does not know", value.describe()));
        }
        let dtype = dtype(value.field("properties"))?;
        let shape = numbers(value.field("size")).ok_or("its shape is missing")?;
        let list = value.field("chunks").filter(|list| list.kind() == Kind::List).ok_or("its chunks are missing")?;
        let mut extents = Vec::new();
        for chunk in list.items() {
            let offsets = numbers(chunk.field("offsets")).ok_or("the offsets of a chunk are missing")?;
            let sizes = numbers(chunk.field("sizes")).ok_or("the sizes of a chunk are missing")?;
            extents.push(Extent { offsets, sizes });
        }
        if let Some(problem) = problem_of_tiling(&shape, &extents, &mut self.budget) {
            return Err(problem);
        }
        let mut chunks = Vec::new();
        for extent in extents {
            let elements = volume(&extent.sizes).unwrap_or(u64::MAX);
            let Some(place) = self.places.get(&(name, Some(extent.offsets.clone()))) else {
                // Ranks without elements write nothing.
                if elements == 0 {
                    continue;
                }
                return Err(format!("the chunk at {:?} has no place: a shard is missing", extent.offsets));
            };
            if elements.checked_mul(dtype.size() as u64).is_none_or(|bytes| bytes > place.length) {
                return Err(format!("the chunk at {:?} is larger than its place in {}", extent.offsets, place.file));
            }
            chunks.push(Chunk { extent, place: place.clone() });
        }
        Ok(Entry::Tensor(TensorEntry { dtype, shape, chunks }))
    }
}

/// The element type, from the properties of a tensor.
fn dtype(properties: Option<Value<'_>>) -> Result<DType, String> {
    let properties = properties.filter(|value| value.is_object_of(MODULE, "TensorProperties"));
    let properties = properties.ok_or("its properties are missing")?;
    // The state is a tuple that begins with type and layout; of older versions, a dict.
    let part = |index: usize, name: &str| {
        let state = properties.state()?;
        if state.kind() == Kind::Tuple { state.item(index) } else { state.get(name) }
    };
    let dtype = match part(0, "dtype").map(Value::kind) {
        Some(Kind::DType(dtype)) => dtype,
        Some(_) => {
            return Err(format!("its element type is {}", part(0, "dtype").map_or("missing".into(), Value::describe)));
        }
        None => return Err("its element type is missing".into()),
    };
    let layout = part(1, "layout").and_then(|layout| layout.args()?.item(0)?.as_str());
    match layout {
        None | Some("torch.strided") => Ok(dtype),
        Some(other) => Err(format!("its layout is {}; only dense tensors are read", shortened(other))),
    }
}

/// Places must not share bytes: otherwise a small shard could describe many large tensors.
fn check_places(entries: &Entries) -> Result<(), Error> {
    let mut places: Vec<(&Place, &str)> = Vec::new();
    for (name, entry) in entries {
        match entry {
            Entry::Tensor(tensor) => places.extend(tensor.chunks.iter().map(|chunk| (&chunk.place, name.as_str()))),
            Entry::Bytes(entry) => places.push((&entry.place, name)),
        }
    }
    let key = |place: &Place| (Arc::clone(&place.file), place.offset, place.length);
    places.sort_by_cached_key(|(place, _)| key(place));
    for pair in places.windows(2) {
        let [(first, first_name), (second, second_name)] = [pair[0], pair[1]];
        if first.file == second.file && second.offset < first.offset + first.length {
            let names = [first_name, second_name].map(shortened);
            return Err(Error::invalid(format!("`{}` and `{}` overlap in {}", names[0], names[1], first.file)));
        }
    }
    Ok(())
}
