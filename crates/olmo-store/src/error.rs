//! [`StoreError`]: what went wrong in a store, where, why, and the way out.

use std::io;
use std::path::{Path, PathBuf};

use olmo_base::{ActionKey, ArtifactId, Diagnose, Digest, ObjectId, PathError, nearest};

/// Why an operation on a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error(transparent)]
    Io(PathError),

    #[error("no room to write {}: {source}", path.display())]
    NoSpace { path: PathBuf, source: io::Error },

    #[error("the store {} has format {found}, and this build knows formats up to {known}", root.display())]
    NewerFormat { root: PathBuf, found: u32, known: u32 },

    #[error("{} does not hold a format number, so this folder may not be a store", path.display())]
    DamagedFormat { path: PathBuf },

    #[error("the file system of {} has no working file locks ({why})", root.display())]
    NoLocks { root: PathBuf, why: String },

    #[error("made no files in {}", folder.display())]
    NoFiles { folder: PathBuf },

    #[error("{} cannot go into the store: {why}", path.display())]
    Refused { path: PathBuf, why: String },

    #[error("{} changed while it was read", path.display())]
    ChangedWhileRead { path: PathBuf },

    #[error("the source {} changed: it was {old} and is now {new}", path.display())]
    SourceChanged { path: PathBuf, old: Digest, new: Digest },

    #[error("{} was written to while a stage could read it; its content is what it was, but the stage may have read something else", path.display())]
    SourceTouched { path: PathBuf },

    #[error("the source {} of artifact {} cannot be read: {source}", path.display(), artifact.short())]
    SourceMissing { path: PathBuf, artifact: ArtifactId, source: io::Error },

    #[error("the store has no artifact {artifact}")]
    NoArtifact { artifact: ArtifactId },

    #[error("the manifest of artifact {artifact} is damaged ({why}){}", moved(kept))]
    DamagedManifest { artifact: ArtifactId, why: String, kept: Option<PathBuf> },

    #[error("object {object} of artifact {artifact} is damaged{}", moved(kept))]
    Corrupt { object: ObjectId, artifact: ArtifactId, kept: Option<PathBuf> },

    #[error("object {object} of artifact {artifact} is missing from the store")]
    MissingObject { object: ObjectId, artifact: ArtifactId },

    #[error("artifact {artifact} has no files in a folder `{prefix}`")]
    NoSubtree { artifact: ArtifactId, prefix: String },

    #[error("{} is there already and is not an empty folder", path.display())]
    DestinationExists { path: PathBuf },

    #[error("`{name}` cannot be a tag: {why}")]
    NotATag { name: String, why: String },

    #[error("the tag `{name}` already names artifact {}", artifact.short())]
    TagInUse { name: String, artifact: ArtifactId },

    #[error("there is no tag `{name}`")]
    UnknownTag { name: String, known: Vec<String> },

    #[error("the tag `{name}` is damaged ({why}){}", moved(kept))]
    DamagedTag { name: String, why: String, kept: Option<PathBuf> },

    #[error("cannot make {how} at {}: {source}", to.display())]
    CannotShare { how: &'static str, to: PathBuf, source: io::Error },

    #[error("a commit or an export of the store {} does not end", root.display())]
    Busy { root: PathBuf },

    #[error("the store {} is there already, and no group shares it", root.display())]
    NotShared { root: PathBuf },

    #[error("the action's record has key {record}, not {key}")]
    WrongKey { key: ActionKey, record: ActionKey },

    #[error("`{text}` is not the beginning of a digest (hexadecimal digits in lower case)")]
    NotAPrefix { text: String },

    #[error("the store has no artifact whose digest begins with `{text}`")]
    UnknownPrefix { text: String },

    #[error("{} artifacts begin with `{text}`: {}{}", candidates.len(), first_few(candidates), if candidates.len() > 4 { ", …" } else { "" })]
    AmbiguousPrefix { text: String, candidates: Vec<ArtifactId> },
}

/// Where a damaged file went.
fn moved(kept: &Option<PathBuf>) -> String {
    kept.as_ref().map(|kept| format!("; it was moved to {}", kept.display())).unwrap_or_default()
}

fn first_few(artifacts: &[ArtifactId]) -> String {
    artifacts.iter().take(4).map(ArtifactId::short).collect::<Vec<_>>().join(", ")
}

impl StoreError {
    /// Whether an artifact is damaged, so that its maker has to run again.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. } | Self::MissingObject { .. } | Self::DamagedManifest { .. } | Self::NoArtifact { .. }
        )
    }

    /// Whether the operation failed because a file does not exist.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Io(error) if error.source.kind() == io::ErrorKind::NotFound)
    }

    /// A path that cannot go into the store.
    pub(crate) fn refused(path: &Path, why: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), why: why.into() }
    }
}

impl From<PathError> for StoreError {
    /// A full disk becomes [`StoreError::NoSpace`].
    fn from(error: PathError) -> Self {
        match error.is_no_space() {
            true => Self::NoSpace { path: error.path, source: error.source },
            false => Self::Io(error),
        }
    }
}

impl Diagnose for StoreError {
    fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store::io",
            Self::NoSpace { .. } => "store::no_space",
            Self::NewerFormat { .. } => "store::newer_format",
            Self::DamagedFormat { .. } => "store::damaged_format",
            Self::NoLocks { .. } => "store::no_locks",
            Self::NoFiles { .. } => "store::no_files",
            Self::Refused { .. } => "store::refused",
            Self::ChangedWhileRead { .. } => "store::changed_while_read",
            Self::SourceChanged { .. } => "store::source_changed",
            Self::SourceTouched { .. } => "store::source_touched",
            Self::SourceMissing { .. } => "store::source_missing",
            Self::NoArtifact { .. } => "store::no_artifact",
            Self::DamagedManifest { .. } => "store::damaged_manifest",
            Self::Corrupt { .. } => "store::corrupt",
            Self::MissingObject { .. } => "store::missing_object",
            Self::NoSubtree { .. } => "store::no_subtree",
            Self::DestinationExists { .. } => "store::destination_exists",
            Self::NotATag { .. } => "store::not_a_tag",
            Self::TagInUse { .. } => "store::tag_in_use",
            Self::UnknownTag { .. } => "store::unknown_tag",
            Self::DamagedTag { .. } => "store::damaged_tag",
            Self::CannotShare { .. } => "store::cannot_share",
            Self::Busy { .. } => "store::busy",
            Self::NotShared { .. } => "store::not_shared",
            Self::WrongKey { .. } => "store::wrong_key",
            Self::NotAPrefix { .. } => "store::not_a_prefix",
            Self::UnknownPrefix { .. } => "store::unknown_prefix",
            Self::AmbiguousPrefix { .. } => "store::ambiguous_prefix",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoSpace { .. } => "free some space there (nothing half-written is left) and run the same command again".into(),
            Self::NewerFormat { .. } => "use the newer olmo-pipe that made it, or another store: --store FOLDER".into(),
            Self::DamagedFormat { path } => format!(
                "if this is a store of this version, write `{}` into {}; else name another folder: --store FOLDER",
                crate::layout::FORMAT,
                path.display()
            ),
            Self::NoLocks { .. } => {
                "put the store on a local disk or a network file system mounted with locks: --store FOLDER".into()
            }
            Self::NoFiles { .. } => "a stage must write at least one file for each of its output ports".into(),
            Self::ChangedWhileRead { .. } => "something still writes to it; stop that, then run the same command again".into(),
            Self::SourceChanged { .. } => {
                "run the experiment again to use the new content, or put the old file back to resume".into()
            }
            Self::SourceTouched { .. } => {
                "run the same command again, and leave the file alone until the stage has ended".into()
            }
            Self::SourceMissing { path, .. } => format!("put {} back, or run the experiment with its new place", path.display()),
            Self::NoArtifact { .. } | Self::UnknownPrefix { .. } => "`olmo-pipe artifacts list` shows what there is".into(),
            Self::DamagedManifest { .. } | Self::Corrupt { .. } | Self::MissingObject { .. } => {
                "if a stage made it, run its experiment again: that stage runs anew; if it was imported, import it again. \
                 `olmo-pipe artifacts verify` looks for more damage"
                    .into()
            }
            Self::DestinationExists { .. } => "name another folder, or remove this one first".into(),
            Self::AmbiguousPrefix { .. } => "write some more digits".into(),
            Self::NotAPrefix { .. } => "write the first digits that `olmo-pipe artifacts list` shows".into(),
            Self::NotATag { .. } => "for example `best` or `sft-v1.2`".into(),
            Self::TagInUse { .. } => "to give the name to the other artifact: `artifacts tag --move`".into(),
            Self::UnknownTag { name, known } => {
                let near = nearest::help(name, known.iter().map(String::as_str));
                near.unwrap_or_else(|| "`olmo-pipe artifacts tags` lists the tags that there are".into())
            }
            Self::CannotShare { .. } => "the place is on another file system, or this one cannot: use `--how copy`".into(),
            Self::Busy { .. } => "nothing was removed; try again once it has ended".into(),
            Self::NotShared { root } => {
                let root = root.display();
                format!(
                    "its owner can give it to a group: chgrp -R GROUP {root} && chmod -R g+rwX {root} && \
                     find {root} -type d -exec chmod g+s {{}} +"
                )
            }
            Self::DamagedTag { .. } => "give the tag again: `artifacts tag NAME ARTIFACT`".into(),
            Self::Io(error) => return Some(io_hint(&error.path, &error.source)),
            Self::Refused { path, .. } => format!(
                "an artifact holds regular files and folders, with names that every file system can hold; change {}, then \
                 run the same command again",
                path.display()
            ),
            Self::NoSubtree { artifact, .. } => format!("`olmo-pipe artifacts show {}` lists its files", artifact.short()),
            Self::WrongKey { .. } => return None,
        };
        Some(text)
    }
}

/// How to fix the I/O error `source` at `path`.
fn io_hint(path: &Path, source: &io::Error) -> String {
    let shown = path.display();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "this user may not do that: use a store of your own (--store FOLDER), or let the owner share this one with a \
             group (docs/store.md, `Sharing a store`)"
                .into()
        }
        io::ErrorKind::InvalidInput
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::AlreadyExists => format!(
            "something else is in its place: `olmo-pipe artifacts verify --repair` moves it away, or do it by hand: \
             mv {shown} {shown}.away"
        ),
        io::ErrorKind::NotFound => format!("look whether {shown} and its disk are where they should be"),
        _ => format!("look whether the disk of {shown} is sound and mounted (`dmesg` tells), then try again"),
    }
}
