//! [`FolderFiles`]: the files below a folder, whole or in ranges.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::{Files, ReadAt, open_file};
use crate::ranges::{Ranges, open_ranges};

/// The files below a folder.
pub struct FolderFiles {
    folder: PathBuf,
}

impl FolderFiles {
    /// The files below `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }
}

impl Files for FolderFiles {
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        match open_file(&self.folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let [bytes, list] = Ranges::file_names(name).map(|name| self.folder.join(name));
                if list.is_file() { open_ranges(&bytes, &list) } else { Err(error) }
            }
            opened => opened,
        }
    }
}
