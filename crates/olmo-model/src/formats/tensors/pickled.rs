//! Tensors in files of `torch.save` that hold a state dict.

use std::ops::Range;
use std::sync::Arc;

use olmo_base::Diagnose as _;
use olmo_ops::MappedBytes;
use olmo_pickle::archive::Archive;
use olmo_pickle::{Files as _, ReadAt};

use super::tensor::{Content, Tensor, Tensors};
use crate::error::ModelError;
use crate::formats::files::ModelFiles;

/// A tensor of a state dict.
struct InArchive {
    files: Arc<ModelFiles>,
    file: String,
    archive: Arc<Archive<Box<dyn ReadAt>>>,
    /// Its key in the dict.
    key: String,
}

impl InArchive {
    fn with<T>(
        &self,
        read: impl FnOnce(&olmo_pickle::Tensor<'_>) -> Result<T, olmo_pickle::Error>,
    ) -> Result<T, String> {
        let tensor = self.archive.root().get(&self.key).and_then(|value| value.as_tensor());
        read(&tensor.ok_or("is missing")?).map_err(|error| explain(&error))
    }
}

impl Content for InArchive {
    /// Reads the whole tensor, since its checksum covers all of it.
    fn open(&self) -> Result<Box<dyn ReadAt>, String> {
        Ok(Box::new(self.with(|tensor| self.archive.read(tensor))?))
    }

    fn map(&self) -> Result<Option<(MappedBytes, Range<usize>)>, String> {
        let Some((start, length)) = self.with(|tensor| self.archive.location(tensor))? else { return Ok(None) };
        let map = self.files.map(&self.file).map_err(|error| error.to_string())?;
        Ok(Some((map, start as usize..(start + length) as usize)))
    }
}

/// The reason that an error of the file layer gives, with its hint.
pub(super) fn explain(error: &olmo_pickle::Error) -> String {
    match error.hint() {
        Some(hint) => format!("cannot be read: {error}; {hint}"),
        None => format!("cannot be read: {error}"),
    }
}

/// The tensors in the files `names`, each the state dict of a part of the model. `rename` turns a key
/// into the name of a tensor.
///
/// # Errors
/// A file is missing or damaged, holds other values, or a tensor is in two files.
pub(crate) fn state_dict(
    files: &Arc<ModelFiles>,
    names: &[String],
    rename: impl Fn(&str) -> String,
) -> Result<Tensors, ModelError> {
    let mut all = Tensors::new();
    for file in names {
        let refuse = |error: &olmo_pickle::Error| files.refuse(file, explain(error));
        let opened = files.open(file).map_err(|error| files.refuse(file, format!("cannot be read: {error}")))?;
        let archive = Arc::new(Archive::open(opened).map_err(|error| refuse(&error))?);
        let entries = archive.root().entries();
        let count = entries.len();
        let mut found = 0;
        for (key, tensor) in entries.filter_map(|(key, value)| Some((key.as_str()?, value.as_tensor()?))) {
            found += 1;
            let name = rename(key);
            let shape = tensor.shape.iter().map(|size| *size as usize).collect();
            let content =
                InArchive { files: files.clone(), file: file.clone(), archive: archive.clone(), key: key.to_owned() };
            let tensor = Tensor::new(files.named(file), tensor.dtype, shape, content);
            if all.insert(name.clone(), tensor).is_some() {
                return Err(files.refuse(file, format!("`{name}` is there twice, or also in another shard")));
            }
        }
        if found != count || found == 0 {
            let what = archive.root().describe();
            return Err(files.refuse(file, format!("holds {what}, not a state dict of tensors alone")));
        }
    }
    Ok(all)
}
