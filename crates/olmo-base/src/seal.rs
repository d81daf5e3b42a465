//! [`Seal`]: the size and digest of every file of a finished piece of work.
//!
//! A stage leaves files and folders for later attempts: a saved training state, a finished part of
//! an output, or a list item that the engine has not committed yet. The seal of `NAME` is the file
//! `.NAME.seal` in the same folder. It is written last, and synced. A later attempt uses only
//! pieces that are sealed and match their seals. All others are unfinished or damaged.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::files::Durability;
use crate::{files, journal};

/// Largest seal that is read, in bytes: enough for a million files.
const MAX_SEAL: u64 = 256 << 20;

/// The content of a sealed file or folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The files by path below the folder, with `/` as separator. For a sealed file, the path is
    /// empty.
    pub files: BTreeMap<String, SealedFile>,
}

/// A file in a [`Seal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedFile {
    /// Size in bytes.
    pub size: u64,
    pub digest: Digest,
}

/// Why a piece of work cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// Its writer was stopped before it finished, or the seal was lost.
    #[error("it has no seal, so it is unfinished")]
    Unsealed,
    #[error("its seal is damaged")]
    DamagedSeal,
    #[error("`{path}` is not as it was sealed: {why}")]
    Differs { path: String, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Seal {
    /// Computes the seal of the file or folder `piece` from its content.
    ///
    /// # Errors
    /// An I/O error occurred, or `piece` contains something other than folders and regular files.
    fn of(piece: &Path) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        collect(piece, "", &mut found)?;
        Ok(Self { files: found })
    }

    /// Seals `piece`. Its files must be complete and synced.
    ///
    /// # Errors
    /// A file cannot be read or written. `piece` is then unsealed.
    pub fn write(piece: &Path) -> io::Result<Self> {
        let seal = Self::of(piece)?;
        let body = serde_json::to_string(&seal).map_err(io::Error::other)?;
        files::write(&seal_path(piece), journal::encode(&body).as_bytes(), Durability::Machine)?;
        Ok(seal)
    }

    /// Reads the seal of `piece`, but not `piece` itself.
    ///
    /// # Errors
    /// [`Unsound::Unsealed`], [`Unsound::DamagedSeal`] or [`Unsound::Io`].
    pub fn read(piece: &Path) -> Result<Self, Unsound> {
        let place = seal_path(piece);
        let text = files::read_regular_text(&place, MAX_SEAL).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Unsound::Unsealed,
            io::ErrorKind::InvalidData => Unsound::DamagedSeal,
            _ => Unsound::Io { path: place, source },
        })?;
        let body = text.strip_suffix('\n').and_then(journal::decode).ok_or(Unsound::DamagedSeal)?;
        serde_json::from_str(body).map_err(|_| Unsound::DamagedSeal)
    }

    /// Reads all of `piece` and compares it with its seal.
    ///
    /// # Errors
    /// Why `piece` cannot be used.
    pub fn check(piece: &Path) -> Result<(), Unsound> {
        let sealed = Self::read(piece)?;
        let found = Self::of(piece).map_err(|source| Unsound::Io { path: piece.to_owned(), source })?;
        sealed.compare(&found.files.into_iter().map(|(path, file)| (path, (file.size, file.digest))).collect())
    }

    /// Compares the sealed files with `found` (size in bytes and digest by path).
    ///
    /// # Errors
    /// [`Unsound::Differs`] with the first difference.
    pub fn compare(&self, found: &BTreeMap<String, (u64, Digest)>) -> Result<(), Unsound> {
        let differs = |path: &str, why: String| Err(Unsound::Differs { path: path.to_owned(), why });
        for (path, sealed) in &self.files {
            match found.get(path) {
                None => return differs(path, "it is missing".into()),
                Some((size, _)) if *size != sealed.size => {
                    return differs(path, format!("it has {size} bytes instead of {}", sealed.size));
                }
                Some((_, digest)) if *digest != sealed.digest => {
                    return differs(path, "its content has changed".into());
                }
                Some(_) => {}
            }
        }
        match found.keys().find(|path| !self.files.contains_key(*path)) {
            Some(path) => differs(path, "it was added later".into()),
            None => Ok(()),
        }
    }
}

/// Removes `piece` and its seal, the seal first.
///
/// # Errors
/// The piece or its seal cannot be removed.
pub fn remove(piece: &Path) -> io::Result<()> {
    let ignore_missing = |removed: io::Result<()>| match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    ignore_missing(fs::remove_file(seal_path(piece)))?;
    let is_folder = fs::symlink_metadata(piece).is_ok_and(|found| found.is_dir());
    ignore_missing(if is_folder { fs::remove_dir_all(piece) } else { fs::remove_file(piece) })
}

/// Whether `piece` has a seal. The piece may still be damaged.
pub fn is_sealed(piece: &Path) -> bool {
    fs::symlink_metadata(seal_path(piece)).is_ok()
}

/// `FOLDER/.NAME.seal` for the piece `FOLDER/NAME`. The names of pieces never start with a dot.
fn seal_path(piece: &Path) -> PathBuf {
    let name = piece.file_name().unwrap_or_default().to_string_lossy();
    piece.with_file_name(format!(".{name}.seal"))
}

fn collect(path: &Path, name: &str, found: &mut BTreeMap<String, SealedFile>) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        let (digest, size) = Digest::of_reader(&mut files::open_regular(path)?)?;
        found.insert(name.to_owned(), SealedFile { size, digest });
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let own = entry.file_name().into_string().map_err(|_| io::Error::other("a file name is not UTF-8"))?;
        let below = if name.is_empty() { own } else { format!("{name}/{own}") };
        collect(&entry.path(), &below, found)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("olmo-seal-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("step2/model")).unwrap();
        fs::write(dir.join("step2/model/weights"), "weights").unwrap();
        fs::write(dir.join("step2/empty"), "").unwrap();
        dir
    }

    #[test]
    fn a_sealed_folder_is_valid_until_anything_in_it_changes() {
        let dir = folder("changes");
        let piece = dir.join("step2");
        assert!(matches!(Seal::check(&piece), Err(Unsound::Unsealed)));
        Seal::write(&piece).unwrap();
        Seal::check(&piece).unwrap();
        let weights = piece.join("model/weights");
        for text in ["weighTs", "weight", ""] {
            fs::write(&weights, text).unwrap();
            let why = Seal::check(&piece).unwrap_err();
            assert!(matches!(why, Unsound::Differs { .. }), "{why}");
        }
        fs::write(&weights, "weights").unwrap();
        Seal::check(&piece).unwrap();
        fs::write(piece.join("more"), "").unwrap();
        assert!(Seal::check(&piece).unwrap_err().to_string().contains("`more`"));
        fs::remove_file(piece.join("more")).unwrap();
        fs::remove_file(piece.join("empty")).unwrap();
        assert!(Seal::check(&piece).unwrap_err().to_string().contains("missing"));
        remove(&piece).unwrap();
        remove(&piece).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn every_flipped_bit_of_a_seal_is_noticed() {
        let dir = folder("bits");
        let piece = dir.join("step2");
        Seal::write(&piece).unwrap();
        let sound = fs::read(dir.join(".step2.seal")).unwrap();
        for bit in 0..sound.len() * 8 {
            let mut bad = sound.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(dir.join(".step2.seal"), bad).unwrap();
            assert!(matches!(Seal::check(&piece), Err(Unsound::DamagedSeal)), "bit {bit}");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_single_file_is_sealed_and_a_link_is_not() {
        let dir = folder("file");
        let part = dir.join("part");
        fs::write(&part, "part").unwrap();
        Seal::write(&part).unwrap();
        Seal::check(&part).unwrap();
        fs::write(&part, "").unwrap();
        assert!(Seal::check(&part).is_err());
        std::os::unix::fs::symlink(&part, dir.join("step2/link")).unwrap();
        assert!(Seal::write(&dir.join("step2")).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
