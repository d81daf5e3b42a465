//! [`Manifest`]: the files of an artifact. Its digest is the name of the artifact.
//!
//! A manifest is a file in `artifacts-v1/`: sealed JSON ([`crate::disk::seal`]) with the body
//! `{"format":1,"type":"model","files":{"PATH":{"digest":"…","size":7},…}}`, files sorted by
//! path. A file of a reference also has `"source"`, the absolute path of its bytes. A program also
//! has `"executable":true`; a plain file has no such field.
//!
//! The artifact's digest is over the type and, sorted by path, every (path, digest, size), in
//! the encoding of [`crate::key`]: `text("olmo-pipe.artifact") integer(format) text(type)
//! list(n)`, then `text(path) digest integer(size)` for each file, and `null` after a program.
//! Paths of sources are not part of it: equal content has one name. Reading recomputes the digest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use olmo_base::{ArtifactId, Digest, ObjectId};
use olmo_stage::PortType;
use serde::{Deserialize, Serialize};

use crate::disk::{Seen, seal, tree};
use crate::error::StoreError;
use crate::key::Encoder;

const FORMAT: u32 = 1;
pub(crate) const KIND: &str = "manifest";

/// The files of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// The type of the artifact. Part of its name.
    #[serde(rename = "type")]
    pub artifact_type: PortType,
    /// Files by path relative to the artifact's folder, with `/` between names.
    pub files: BTreeMap<String, Entry>,
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Absolute path of the file, if its bytes are outside the store (a reference).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Whether its owner may execute it. Never set for a reference, which has the mode of its source.
    #[serde(default, skip_serializing_if = "is_false")]
    pub executable: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Entry {
    /// A plain file whose bytes are in the store.
    pub fn plain(digest: Digest, size: u64) -> Self {
        Self { digest, size, source: None, executable: false }
    }

    /// The object with its bytes. The bytes of a reference become an object only in a bundle.
    pub fn object(&self) -> ObjectId {
        ObjectId::new(self.digest)
    }
}

impl Manifest {
    /// Checks the paths, and that there is at least one file.
    pub(crate) fn new(artifact_type: PortType, files: BTreeMap<String, Entry>) -> Result<Self, String> {
        let manifest = Self { format: FORMAT, artifact_type, files };
        manifest.check()?;
        Ok(manifest)
    }

    /// One that a hostile hand has written.
    #[cfg(test)]
    pub(crate) fn unchecked(artifact_type: PortType, files: BTreeMap<String, Entry>) -> Self {
        Self { format: FORMAT, artifact_type, files }
    }

    /// Checks the paths, that there are files, and the format. The error says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("it has format {}, this build reads {FORMAT}", self.format));
        }
        if self.files.is_empty() {
            return Err("it has no files".into());
        }
        tree::check_paths(self.files.keys().map(String::as_str))
    }

    /// Parses the file of artifact `artifact`. The error says what is wrong with it.
    pub fn parse(artifact: ArtifactId, text: &[u8]) -> Result<Self, String> {
        let manifest: Manifest =
            serde_json::from_str(seal::open(KIND, &artifact.hex(), text)?).map_err(|e| e.to_string())?;
        manifest.check()?;
        if manifest.digest() == artifact { Ok(manifest) } else { Err("its content has another digest".into()) }
    }

    /// The artifact's digest.
    pub fn digest(&self) -> ArtifactId {
        let mut encoder = Encoder::new("olmo-pipe.artifact");
        encoder.integer(self.format.into());
        encoder.text(&self.artifact_type.to_string());
        encoder.list(self.files.len());
        for (path, entry) in &self.files {
            encoder.text(path);
            encoder.digest(&entry.digest);
            encoder.integer(entry.size.into());
            if entry.executable {
                encoder.null();
            }
        }
        ArtifactId::new(encoder.finish())
    }

    /// Size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, e| sum.saturating_add(e.size))
    }

    /// Whether some of its bytes are outside the store.
    pub fn is_reference(&self) -> bool {
        self.files.values().any(|e| e.source.is_some())
    }
}

/// The digest of the artifact with these files: digest and size by path.
pub fn digest_of(artifact_type: PortType, files: &BTreeMap<String, (Digest, u64)>) -> ArtifactId {
    entries_of(artifact_type, files).digest()
}

pub(crate) fn entries_of(artifact_type: PortType, files: &BTreeMap<String, (Digest, u64)>) -> Manifest {
    let files = files.iter().map(|(name, (digest, size))| (name.clone(), Entry::plain(*digest, *size))).collect();
    Manifest { format: FORMAT, artifact_type, files }
}

/// An artifact in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactInfo {
    pub digest: ArtifactId,
    pub artifact_type: PortType,
    /// Number of files.
    pub files: usize,
    /// Size of all files in bytes.
    pub bytes: u64,
    /// Whether some of its bytes lie outside the store.
    pub reference: bool,
    /// When it was committed here.
    pub made: SystemTime,
}

/// Why a manifest cannot be read.
pub(crate) enum Unread {
    Absent,
    Damaged(String, Seen),
    Io(StoreError),
}
