//! [`Lock`]: the exact content of an experiment's remote sources. It is written to
//! `EXPERIMENT.lock.yaml` next to the experiment and should be committed.

use std::collections::BTreeMap;

use olmo_base::Digest;
use olmo_pickle::Ranges;
use serde::{Deserialize, Serialize};

use crate::source::file_kind;
use crate::source::{Source, is_sha256};

const FORMAT: u32 = 1;

/// The locked remote sources of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    format: u32,
    /// Keyed by [`Source`] as text.
    pub sources: BTreeMap<String, Locked>,
}

/// A locked source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// For the hub: the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// For a file in a wheel: the name of the wheel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wheel: Option<String>,
    /// Its files, sorted by path.
    pub files: Vec<LockedFile>,
}

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Path in the repository or the wheel; for an address, the file's name.
    pub path: String,
    /// Size of the whole file in bytes.
    pub size: u64,
    /// If only ranges of it are fetched: their first bytes and their ends. The digests are those of
    /// these bytes, one range after the other; the rest of the file is not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Vec<(u64, u64)>>,
    /// The server's name for the content, if only ranges are fetched and it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// For comparison with other tools.
    pub sha256: String,
    /// Its name in the store.
    pub blake3: Digest,
}

impl LockedFile {
    /// Number of bytes that are fetched.
    pub fn fetched_bytes(&self) -> u64 {
        match &self.ranges {
            Some(ranges) => ranges.iter().map(|(start, end)| end - start).sum(),
            None => self.size,
        }
    }
}

/// Why a text is not a valid [`Lock`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LockError(String);

impl Default for Lock {
    fn default() -> Self {
        Self { format: FORMAT, sources: BTreeMap::new() }
    }
}

impl Lock {
    /// Validates a lock read from a file.
    ///
    /// # Errors
    /// An unknown format, invalid sources, invalid ranges, or files without digests.
    pub fn checked(self) -> Result<Self, LockError> {
        if self.format != FORMAT {
            return Err(LockError(format!("it has format {}, but this build reads {FORMAT}", self.format)));
        }
        for (name, locked) in &self.sources {
            let wrong = |why: String| LockError(format!("`{}`: {why}", name.escape_debug()));
            let source = Source::parse(name).map_err(wrong)?;
            if source.to_string() != *name {
                return Err(wrong(format!("write it as `{source}`")));
            }
            locked.check().map_err(wrong)?;
        }
        Ok(self)
    }
}

impl Locked {
    fn check(&self) -> Result<(), String> {
        if self.files.is_empty() {
            return Err("it has no files".to_owned());
        }
        if let Some(pair) = self.files.windows(2).find(|pair| pair[0].path >= pair[1].path) {
            return Err(format!("its files are not sorted or not unique: `{}`", pair[1].path.escape_debug()));
        }
        let commit = |text: &String| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if self.revision.as_ref().is_some_and(|revision| !commit(revision)) {
            return Err("its revision is not a commit of 40 hex digits".to_owned());
        }
        for file in &self.files {
            let place = |why: &str| format!("file `{}`: {why}", file.path.escape_debug());
            file_kind::bad_path(&file.path).map_or(Ok(()), |why| Err(place(why)))?;
            if let Some(ranges) = &file.ranges {
                Ranges::new(file.size, ranges).map_err(|why| place(&why))?;
            }
            if !is_sha256(&file.sha256) {
                return Err(place("its sha256 is not 64 lowercase hex digits"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_makes_no_sense_is_refused_with_the_name_of_the_source() {
        let file = |path: &str| LockedFile {
            path: path.into(),
            size: 1,
            ranges: None,
            etag: None,
            sha256: "0".repeat(64),
            blake3: Digest::of(b"x"),
        };
        let of = |name: &str, files: Vec<LockedFile>| {
            let locked = Locked { revision: None, wheel: None, files };
            Lock { sources: BTreeMap::from([(name.to_owned(), locked)]), ..Lock::default() }.checked()
        };
        of("hf:a/b", vec![file("a.json"), file("b.json")]).unwrap();
        for (name, files, part) in [
            ("hf:a/b", vec![], "no files"),
            ("hf://a/b", vec![file("a.json")], "write it as `hf:a/b`"),
            ("data.json", vec![file("a.json")], "data.json"),
            ("hf:a/b", vec![file("b.json"), file("a.json")], "sorted"),
            ("hf:a/b", vec![file("../a.json")], "leaves its folder"),
            ("hf:a/b", vec![LockedFile { sha256: "00".into(), ..file("a.json") }], "64"),
            ("hf:a/b", vec![LockedFile { ranges: Some(vec![(0, 2)]), ..file("a.json") }], "0 to 2"),
        ] {
            let error = of(name, files).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(Lock { format: 2, ..Lock::default() }.checked().unwrap_err().to_string().contains("format 2"));
    }
}
