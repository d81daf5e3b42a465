//! Describes a checkpoint, or writes it again; `scripts/check-checkpoints` uses it.
//!
//! usage: checkpoint describe PATH                 (a folder with .metadata, or a file of torch.save)
//!        checkpoint rewrite FOLDER OUT FORMAT     (olmo-core or pytorch: a folder; torch-save: a file)

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use olmo_pickle::archive::{Archive, ArchiveWriter};
use olmo_pickle::distributed::{Checkpoint, CheckpointWriter, Entry, Writer};
use olmo_pickle::pickle::Item;
use olmo_pickle::{Files as _, FolderFiles, Kind, Tensor, Value};
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};

type Fallible<T> = Result<T, Box<dyn Error>>;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value as JSON, with tensors by their digest.
fn json(value: Value<'_>, tensor: &dyn Fn(&Tensor<'_>) -> Fallible<Vec<u8>>) -> Fallible<serde_json::Value> {
    let list = || value.items().map(|item| json(item, tensor)).collect::<Fallible<Vec<_>>>();
    Ok(match value.kind() {
        Kind::None => json!(null),
        Kind::Bool(value) => json!(value),
        Kind::Int(value) => json!(value),
        Kind::Float(value) => json!(value),
        Kind::Str(text) => json!(text),
        Kind::List | Kind::Tuple | Kind::Set => json!(list()?),
        Kind::Dict => {
            let mut map = Map::new();
            for (key, value) in value.entries() {
                map.insert(key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned), json(value, tensor)?);
            }
            json!(map)
        }
        Kind::Tensor(part) => {
            json!({"dtype": part.dtype.name(), "shape": part.shape, "sha256": sha256(&tensor(&part)?)})
        }
        Kind::Array(array) => {
            json!({"numpy": format!("{}{}", array.dtype.0, array.dtype.1), "shape": array.shape, "sha256": sha256(array.bytes)})
        }
        _ => json!(value.as_path().unwrap_or_else(|| format!("{value:?}"))),
    })
}

fn describe(path: &Path) -> Fallible<serde_json::Value> {
    if path.is_file() {
        let (folder, name) = (path.parent().ok_or("no folder")?, path.file_name().ok_or("no name")?);
        let archive = Archive::open(FolderFiles::new(folder).open(name.to_str().ok_or("not UTF-8")?)?)?;
        return json(archive.root(), &|tensor| Ok(archive.read(tensor)?));
    }
    let checkpoint = Checkpoint::open_folder(path)?;
    checkpoint.check_shards()?;
    let mut map = Map::new();
    for (name, entry) in checkpoint.entries() {
        let described = match entry {
            Entry::Tensor(tensor) => {
                let chunks: Vec<_> = tensor.chunks.iter().map(|chunk| [chunk.offsets(), chunk.sizes()]).collect();
                let digest = sha256(&checkpoint.read_tensor(name)?);
                json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "sha256": digest, "chunks": chunks})
            }
            Entry::Bytes(_) => {
                let archive = checkpoint.read_value(name)?;
                json!({"value": json(archive.root(), &|tensor| Ok(archive.read(tensor)?))?})
            }
        };
        map.insert(name.to_owned(), described);
    }
    Ok(json!(map))
}

/// A value without tensors, to be written again.
fn item(value: Value<'_>) -> Fallible<Item> {
    let items = || value.items().map(item).collect::<Fallible<Vec<_>>>();
    Ok(match value.kind() {
        Kind::None => Item::None,
        Kind::Bool(value) => Item::Bool(value),
        Kind::Int(value) => Item::Int(value),
        Kind::Float(value) => Item::Float(value),
        Kind::Str(text) => Item::text(text),
        Kind::List => Item::List(items()?),
        Kind::Tuple => Item::Tuple(items()?),
        _ => return Err(format!("cannot write {}", value.describe()).into()),
    })
}

fn rewrite(from: &Path, to: &Path, format: &str) -> Fallible<()> {
    let checkpoint = Checkpoint::open_folder(from)?;
    let writer = match format {
        "olmo-core" => Writer::OlmoCore,
        "pytorch" => Writer::PyTorch,
        "torch-save" => return rewrite_as_file(&checkpoint, to),
        other => return Err(format!("unknown format {other}").into()),
    };
    std::fs::create_dir_all(to)?;
    let mut writer = CheckpointWriter::create(to, writer)?;
    for (name, entry) in checkpoint.entries() {
        match entry {
            Entry::Tensor(tensor) => {
                writer.tensor(name, tensor.dtype, &tensor.shape, &checkpoint.read_tensor(name)?)?;
            }
            Entry::Bytes(_) => writer.value(name, &item(checkpoint.read_value(name)?.root())?)?,
        }
    }
    Ok(writer.finish()?)
}

/// The tensors as a state dict.
fn rewrite_as_file(checkpoint: &Checkpoint, to: &Path) -> Fallible<()> {
    let tensor = |(storage, (name, tensor)): (usize, (&str, &olmo_pickle::distributed::TensorEntry))| {
        (Item::text(name), Item::Tensor { dtype: tensor.dtype, shape: tensor.shape.clone(), storage })
    };
    let root = Item::OrderedDict(checkpoint.tensors().enumerate().map(tensor).collect());
    let mut archive = ArchiveWriter::new(BufWriter::new(File::create(to)?), "archive", &root)?;
    for (name, _) in checkpoint.tensors() {
        archive.storage(&checkpoint.read_tensor(name)?)?;
    }
    archive.finish()?.1.into_inner()?;
    Ok(())
}

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["describe", path] => println!("{}", serde_json::to_string_pretty(&describe(Path::new(path))?)?),
        ["rewrite", from, to, format] => rewrite(Path::new(from), Path::new(to), format)?,
        _ => {
            return Err(
                "usage: checkpoint describe PATH | checkpoint rewrite FOLDER OUT olmo-core|pytorch|torch-save".into()
            );
        }
    }
    Ok(())
}
