//! Tensors in a distributed checkpoint.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use olmo_ops::MappedBytes;
use olmo_pickle::ReadAt;
use olmo_pickle::distributed::Checkpoint;

use super::pickled::explain;
use super::tensor::{Content, Tensor, Tensors};
use crate::error::ModelError;
use crate::formats::files::ModelFiles;

/// A tensor of a checkpoint, in any number of shards.
struct InShards {
    files: Arc<ModelFiles>,
    checkpoint: Arc<Checkpoint>,
    name: String,
}

impl Content for InShards {
    fn open(&self) -> Result<Box<dyn ReadAt>, String> {
        Ok(Box::new(self.checkpoint.read_tensor(&self.name).map_err(|error| explain(&error))?))
    }

    fn map(&self) -> Result<Option<(MappedBytes, Range<usize>)>, String> {
        let place = self.checkpoint.location(&self.name).map_err(|error| explain(&error))?;
        let Some(place) = place.filter(|place| !self.files.is_partial(&place.file)) else { return Ok(None) };
        let map = self.files.map(&place.file).map_err(|error| error.to_string())?;
        Ok(Some((map, place.offset as usize..(place.offset + place.length) as usize)))
    }
}

/// Opens the checkpoint whose `.metadata` is among the files or in their folder `model_and_optim`.
/// Only `.metadata` is read.
///
/// # Errors
/// It is damaged, or a shard is missing or cut off.
pub(crate) fn checkpoint(files: &Arc<ModelFiles>) -> Result<Arc<Checkpoint>, ModelError> {
    let refuse = |error: olmo_pickle::Error| ModelError::folder(files.shown(), explain(&error));
    let checkpoint = Checkpoint::open(files.clone()).map_err(refuse)?;
    checkpoint.check_shards().map_err(refuse)?;
    Ok(Arc::new(checkpoint))
}

/// The tensors whose names begin with `prefix`.
pub(crate) fn distributed(files: &Arc<ModelFiles>, checkpoint: &Arc<Checkpoint>, prefix: &str) -> Tensors {
    let path: PathBuf = files.shown().to_owned();
    let tensor = |(name, entry): (&str, &olmo_pickle::distributed::TensorEntry)| {
        let shape = entry.shape.iter().map(|size| *size as usize).collect();
        let content = InShards { files: files.clone(), checkpoint: checkpoint.clone(), name: name.to_owned() };
        (name.to_owned(), Tensor::new(path.clone(), entry.dtype, shape, content))
    };
    checkpoint.tensors().filter(|(name, _)| name.starts_with(prefix)).map(tensor).collect()
}
