//! Tensors in files of `torch.save` that hold a state dict.

use std::ops::Range;
use std::sync::Arc;

use olmo_base::Diagnose as _;
use olmo_ops::MappedBytes;
use olmo_pickle::archive::Archive;
use olmo_pickle::{Files as _, ReadAt, Value};

use super::tensor::{Content, Tensor, Tensors};
use crate::error::ModelError;
use crate::formats::files::ModelFiles;

/// A file of `torch.save`, open.
#[derive(Clone)]
pub(crate) struct SavedFile {
    files: Arc<ModelFiles>,
    file: String,
    archive: Arc<Archive<Box<dyn ReadAt>>>,
}

impl SavedFile {
    /// # Errors
    /// The file is missing or damaged.
    pub(crate) fn open(files: &Arc<ModelFiles>, file: &str) -> Result<Self, ModelError> {
        let opened = files.open(file).map_err(|error| files.refuse(file, format!("cannot be read: {error}")))?;
        let archive = Archive::open(opened).map_err(|error| files.refuse(file, explain(&error)))?;
        Ok(Self { files: files.clone(), file: file.to_owned(), archive: Arc::new(archive) })
    }

    /// What was saved.
    pub(crate) fn root(&self) -> Value<'_> {
        self.archive.root()
    }

    /// An error for this file.
    pub(crate) fn refuse(&self, reason: impl Into<String>) -> ModelError {
        self.files.refuse(&self.file, reason)
    }

    /// The tensor that dicts in dicts hold under `keys`.
    pub(crate) fn tensor(&self, keys: Vec<String>) -> Option<Tensor> {
        let tensor = at(self.root(), &keys)?.as_tensor()?;
        let (dtype, shape) = (tensor.dtype, tensor.shape.iter().map(|size| *size as usize).collect());
        Some(Tensor::new(self.files.named(&self.file), dtype, shape, InArchive { file: self.clone(), keys }))
    }
}

/// What dicts in dicts hold under `keys`, which may also be integers, in decimal.
fn at<'d>(root: Value<'d>, keys: &[String]) -> Option<Value<'d>> {
    let is = |found: Value<'_>, key: &str| match found.as_str() {
        Some(text) => text == key,
        None => found.as_i64().is_some_and(|number| number.to_string() == key),
    };
    // The last of equal keys counts.
    let find = |value: Value<'d>, key: &String| value.entries().filter(|(found, _)| is(*found, key)).last();
    keys.iter().try_fold(root, |value, key| find(value, key).map(|(_, value)| value))
}

/// A tensor in the file.
struct InArchive {
    file: SavedFile,
    keys: Vec<String>,
}

impl InArchive {
    fn with<T>(
        &self,
        read: impl FnOnce(&olmo_pickle::Tensor<'_>) -> Result<T, olmo_pickle::Error>,
    ) -> Result<T, String> {
        let tensor = at(self.file.root(), &self.keys).and_then(|value| value.as_tensor());
        read(&tensor.ok_or("is missing")?).map_err(|error| explain(&error))
    }
}

impl Content for InArchive {
    /// Reads the whole tensor, since its checksum covers all of it.
    fn open(&self) -> Result<Box<dyn ReadAt>, String> {
        Ok(Box::new(self.with(|tensor| self.file.archive.read(tensor))?))
    }

    fn map(&self) -> Result<Option<(MappedBytes, Range<usize>)>, String> {
        let Some((start, length)) = self.with(|tensor| self.file.archive.location(tensor))? else { return Ok(None) };
        let map = self.file.files.map(&self.file.file).map_err(|error| error.to_string())?;
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
        let saved = SavedFile::open(files, file)?;
        let entries = saved.root().entries();
        let count = entries.len();
        let mut found = 0;
        for key in entries.filter_map(|(key, value)| value.as_tensor().and(key.as_str())) {
            let Some(tensor) = saved.tensor(vec![key.to_owned()]) else { continue };
            found += 1;
            let name = rename(key);
            if all.insert(name.clone(), tensor).is_some() {
                return Err(saved.refuse(format!("`{name}` is there twice, or also in another shard")));
            }
        }
        if found != count || found == 0 {
            let what = saved.root().describe();
            return Err(saved.refuse(format!("holds {what}, not a state dict of tensors alone")));
        }
    }
    Ok(all)
}
