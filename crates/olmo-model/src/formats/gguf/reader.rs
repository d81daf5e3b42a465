//! Opens the model in a GGUF file.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;
use olmo_ops::MappedBytes;
use olmo_pickle::ReadAt;

use super::architecture::{Architecture, EMBEDDING, HEAD, permuted_row};
use super::config::{self, Shapes};
use super::header::{Header, Metadata};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::formats::files::ModelFiles;
use crate::formats::lfs_pointer::lfs_pointer;
use crate::formats::parts::no_extras;
use crate::formats::stored_model::StoredModel;
use crate::formats::tensors::{Content, Tensor, Tensors};

/// A tensor's bytes in a mapped file.
struct InFile {
    map: Arc<Mmap>,
    range: Range<usize>,
    /// Set if the file has the rows of each head in another order.
    permuted: Option<Permuted>,
}

/// Rows of `row` bytes in heads of `width` rows.
#[derive(Clone, Copy)]
struct Permuted {
    row: usize,
    width: usize,
}

impl Content for InFile {
    fn open(&self) -> Result<Box<dyn ReadAt>, String> {
        Ok(Box::new(Bytes { map: self.map.clone(), range: self.range.clone(), permuted: self.permuted }))
    }

    fn map(&self) -> Result<Option<(MappedBytes, Range<usize>)>, String> {
        let is_plain = self.permuted.is_none();
        Ok(is_plain.then(|| (self.map.clone() as MappedBytes, self.range.clone())))
    }
}

/// The bytes of a tensor, with its rows in our order.
struct Bytes {
    map: Arc<Mmap>,
    range: Range<usize>,
    permuted: Option<Permuted>,
}

impl ReadAt for Bytes {
    fn length(&self) -> u64 {
        self.range.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.map.get(self.range.clone()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let Some(Permuted { row, width }) = self.permuted else { return bytes.read_exact_at(buffer, offset) };
        let mut at = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (index, within) = (at / row, at % row);
            let length = rest.len().min(row - within);
            let (piece, after) = rest.split_at_mut(length);
            bytes.read_exact_at(piece, (permuted_row(index, width) * row + within) as u64)?;
            at += length;
            rest = after;
        }
        Ok(())
    }
}

/// Opens the model in the GGUF file `name`.
///
/// # Errors
/// The file is damaged, or its metadata or tensors are not those of a model that is supported.
pub(crate) fn open_gguf(files: &Arc<ModelFiles>, name: &str) -> Result<StoredModel, ModelError> {
    let map = files.map(name)?;
    let mut header = read(files, name, &map)?;
    drop_repeated_head(&mut header, &map);
    let (architecture, config) = understand(files, name, &header)?;
    let path = files.named(name);
    let mut tensors = Tensors::new();
    for (tensor, info) in header.tensors {
        let heads = architecture.permuted_heads(&config, &tensor);
        let rows = info.shape.first().copied().unwrap_or(1);
        let permuted = heads.filter(|heads| info.shape.len() == 2 && rows.is_multiple_of(2 * heads));
        let permuted = permuted.map(|heads| Permuted { row: info.range.len() / rows, width: rows / heads });
        let content = InFile { map: map.clone(), range: info.range, permuted };
        tensors.insert(tensor, Tensor::new(path.clone(), info.encoding, info.shape, content));
    }
    StoredModel::new(&path, config.clone(), architecture.parts(&config), tensors, &no_extras)
}

/// Drops a head that repeats the embedding: llama.cpp needs one in OLMo 2, even if the embedding is the
/// head.
fn drop_repeated_head(header: &mut Header, bytes: &[u8]) {
    let (Some(embedding), Some(head)) = (header.tensors.get(EMBEDDING), header.tensors.get(HEAD)) else { return };
    let is_same = embedding.encoding == head.encoding && embedding.shape == head.shape;
    if is_same && bytes[embedding.range.clone()] == bytes[head.range.clone()] {
        header.tensors.remove(HEAD);
    }
}

fn read(files: &ModelFiles, name: &str, bytes: &[u8]) -> Result<Header, ModelError> {
    Header::read(bytes).map_err(|why| files.refuse(name, lfs_pointer(bytes).unwrap_or(why)))
}

fn understand(files: &ModelFiles, name: &str, header: &Header) -> Result<(Architecture, ModelConfig), ModelError> {
    let embedding = header.tensors.get(EMBEDDING).and_then(|tensor| tensor.shape.first());
    let shapes = Shapes { rows: embedding.copied().unwrap_or(0), has_head: header.tensors.contains_key(HEAD) };
    let understood = config::understand(&header.metadata, &shapes);
    let (architecture, config) =
        understood.map_err(|problems| ModelError::NotUnderstood { path: files.named(name), problems })?;
    config.validate()?;
    Ok((architecture, config))
}

/// The metadata of the GGUF file at `path`.
///
/// # Errors
/// It is missing or damaged.
pub fn read_gguf_metadata(path: &std::path::Path) -> Result<Metadata, ModelError> {
    let files = ModelFiles::list(path)?;
    let name = files.gguf_file().map(str::to_owned);
    let name = name.ok_or_else(|| ModelError::folder(path, "has no GGUF file"))?;
    let map = files.map(&name)?;
    Ok(read(&files, &name, &map)?.metadata)
}
