//! [`ModelFiles`]: the files of a model by name, in a folder or in the store.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;
use olmo_base::IoContext as _;
use olmo_pickle::{Files, Ranges, ReadAt, open_file, open_ranges, read_range};
use serde_json::{Map, Value};

use super::file_names::GGUF_ENDING;
use super::lfs_pointer::lfs_pointer;
use crate::error::{ModelError, shortened};

/// The files of a model: names relative to its folder (`NAME` or `FOLDER/NAME`), and their paths.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    shown: PathBuf,
    paths: BTreeMap<String, PathBuf>,
    /// Mapped files by name.
    maps: Mutex<BTreeMap<String, Arc<Mmap>>>,
}

impl ModelFiles {
    /// Files at `paths`, of a folder that messages call `shown`.
    pub(crate) fn new(shown: &Path, paths: BTreeMap<String, PathBuf>) -> Self {
        Self { shown: shown.to_owned(), paths, maps: Mutex::default() }
    }

    /// The files in `folder` and in its direct subfolders; or the file itself, if it is one.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn list(folder: &Path) -> Result<Self, ModelError> {
        let entries = |folder: &Path| -> io::Result<Vec<PathBuf>> {
            std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
        };
        let mut files = BTreeMap::new();
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if folder.is_file() {
            let parent = folder.parent().unwrap_or(Path::new("."));
            return Ok(Self::new(parent, BTreeMap::from([(name(folder), folder.to_owned())])));
        }
        for path in entries(folder).context(folder)? {
            if path.is_dir() {
                // An unreadable folder is not a model.
                let inner = entries(&path).unwrap_or_default();
                files.extend(inner.into_iter().map(|inner| (format!("{}/{}", name(&path), name(&inner)), inner)));
            } else {
                files.insert(name(&path), path);
            }
        }
        Ok(Self::new(folder, files))
    }

    /// The name of the GGUF file, if there is one, and only one.
    pub(crate) fn gguf_file(&self) -> Option<&str> {
        let mut names = self.names().filter(|name| name.ends_with(GGUF_ENDING) && !name.contains('/'));
        names.next().filter(|_| names.next().is_none())
    }

    /// Whether there is a file `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.paths.contains_key(name)
    }

    /// The names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.paths.keys().map(String::as_str)
    }

    /// The folder in messages.
    pub(crate) fn shown(&self) -> &Path {
        &self.shown
    }

    /// The path of a file in messages: never one inside the store.
    pub(crate) fn named(&self, name: &str) -> PathBuf {
        self.shown.join(name)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.paths.get(name).cloned().unwrap_or_else(|| self.named(name))
    }

    /// If only ranges of the file `name` were fetched: the paths of their bytes and of their list.
    fn ranges(&self, name: &str) -> Option<[&PathBuf; 2]> {
        let [bytes, list] = Ranges::file_names(name);
        Some([self.paths.get(&bytes)?, self.paths.get(&list)?])
    }

    /// Whether only ranges of the file `name` were fetched.
    pub(crate) fn is_partial(&self, name: &str) -> bool {
        !self.has(name) && self.ranges(name).is_some()
    }

    /// An error about the file `name`.
    pub(crate) fn refuse(&self, name: &str, reason: impl Into<String>) -> ModelError {
        ModelError::folder(&self.named(name), reason)
    }

    /// The content of a text file of at most `most` bytes. It may be behind a link, as inputs of
    /// stages are.
    ///
    /// # Errors
    /// It is missing, longer, or no text.
    pub(crate) fn text(&self, name: &str, most: u64) -> Result<String, ModelError> {
        let file = self.open(name).context(self.named(name))?;
        if file.length() > most {
            return Err(self.refuse(name, format!("has {} bytes, more than {most}", file.length())));
        }
        let bytes = read_range(&*file, 0, file.length()).map_err(|error| self.refuse(name, error.to_string()))?;
        String::from_utf8(bytes).map_err(|_| self.refuse(name, "is not text in UTF-8"))
    }

    /// The JSON object in a file.
    ///
    /// # Errors
    /// The file is missing, or something else.
    pub(crate) fn object(&self, name: &str) -> Result<Map<String, Value>, ModelError> {
        let text = std::fs::read(self.place(name)).context(self.named(name))?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(fields)) => Ok(fields),
            Ok(_) => Err(self.refuse(name, "is not a JSON object")),
            Err(error) => {
                let reason = lfs_pointer(&text).unwrap_or_else(|| format!("is not JSON: {error}"));
                Err(self.refuse(name, reason))
            }
        }
    }

    /// The content of a file, mapped; the same one each time.
    ///
    /// # Errors
    /// An I/O error.
    pub(crate) fn map(&self, name: &str) -> Result<Arc<Mmap>, ModelError> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = maps.get(name) {
            return Ok(map.clone());
        }
        let path = self.named(name);
        let file = std::fs::File::open(self.place(name)).context(&path)?;
        // SAFETY: artifacts are read-only copies that are never written to once complete; a model
        // that a user names must not be changed while it is read.
        let map = Arc::new(unsafe { Mmap::map(&file) }.context(&path)?);
        maps.insert(name.to_owned(), map.clone());
        Ok(map)
    }

    /// The files that hold a model's weights: `single`, or the shards listed in `index`.
    ///
    /// # Errors
    /// The index is damaged, or shards are missing.
    pub(crate) fn weight_files(&self, single: &str, index: &str) -> Result<Vec<String>, ModelError> {
        if self.has(single) || !self.has(index) {
            return Ok(vec![single.to_owned()]);
        }
        let fields = self.object(index)?;
        let map = fields.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| self.refuse(index, "has no `weight_map`"))?;
        let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names.dedup();
        // A name with a path could point outside the folder.
        if let Some(name) = names.iter().find(|name| Path::new(name).file_name().is_none_or(|file| file != **name)) {
            return Err(self.refuse(index, format!("names a shard `{name}` that is not in this folder")));
        }
        if names.is_empty() {
            return Err(self.refuse(index, "names no shards"));
        }
        let missing: Vec<String> =
            names.iter().filter(|name| !self.has(name)).map(|name| format!("`{name}`")).collect();
        if missing.is_empty() {
            return Ok(names.into_iter().map(str::to_owned).collect());
        }
        let (shards, lacking) = (names.len(), missing.len());
        let missing = shortened(missing).join(", ");
        let reason =
            format!("names {shards} shards, and {lacking} of them are not in the folder: {missing}; fetch them too");
        Err(self.refuse(index, reason))
    }
}

impl Files for ModelFiles {
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        match (self.paths.get(name), self.ranges(name)) {
            (Some(path), _) => open_file(path),
            (None, Some([bytes, list])) => open_ranges(bytes, list),
            (None, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_outside_the_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("index"), r#"{"weight_map": {"a": "../other.safetensors"}}"#)
            .expect("written");
        let files = ModelFiles::list(folder.path()).expect("listed");
        let error = files.weight_files("single", "index").expect_err("refused");
        assert!(error.to_string().contains("not in this folder"), "{error}");
    }
}
