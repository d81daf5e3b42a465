//! [`Remote`]: resolves and fetches sources.

use std::fs;
use std::path::{Path, PathBuf};

use crate::by_range::RemoteFile;
use crate::error::RemoteError;
use crate::http::client::Client;
use crate::http::digests::Digests;
use crate::http::download::{self, Downloaded, Expected};
use crate::hub;
use crate::lockfile::{Locked, LockedFile};
use crate::settings::Settings;
use crate::source::{Source, Want};
use crate::url::Url;
use crate::watch::Watch;
use crate::wheel;
use olmo_base::{Digest, IoContext as _};
use olmo_pickle::Ranges;
use olmo_pickle::distributed::{Checkpoint, MODEL_AND_OPTIM};

/// Fetches remote sources.
pub struct Remote {
    client: Client,
}

/// A fetched source.
#[derive(Debug)]
pub struct Fetched {
    /// Its resolved content; identical to the given lock, if there was one.
    pub locked: Locked,
    /// Paths of its files, in the order of `locked.files`.
    pub files: Vec<PathBuf>,
}

/// A file to fetch.
struct PendingFile {
    path: String,
    expected: Expected,
}

impl Remote {
    /// # Errors
    /// The settings are invalid.
    pub fn new(settings: &Settings) -> Result<Self, RemoteError> {
        Ok(Self { client: Client::new(settings)? })
    }

    /// Fetches `source` into `folder`, which is created and must not be used by others. With
    /// `locked`, the content must match it; otherwise the source is resolved. With `single`, it
    /// must be one file. Continues downloads that a stopped process left in `folder`.
    ///
    /// # Errors
    /// No network, no such source, unexpected content, or no space: see [`RemoteError`].
    pub fn fetch(
        &self,
        source: &Source,
        locked: Option<&Locked>,
        single: bool,
        folder: &Path,
        watch: &mut dyn Watch,
    ) -> Result<Fetched, RemoteError> {
        fs::create_dir_all(folder).context_during("create the folder", folder)?;
        let fetched = match source {
            Source::Https { url, sha256 } => {
                let url = Url::parse(url).map_err(|why| RemoteError::Form { source_text: source.to_string(), why })?;
                let expected = Expected { sha256: sha256.clone(), ..Expected::default() };
                let coming = vec![PendingFile { path: url.file_name(), expected }];
                self.fetch_all(coming, locked, folder, (None, None), &|_| Ok(url.clone()), watch)?
            }
            Source::ByRange { url } => {
                let form = |why| RemoteError::Form { source_text: source.to_string(), why };
                let url = Url::parse(url).map_err(form)?;
                let found = RemoteFile::look_up(&self.client, &url, watch)?;
                let place = file_place(folder, &url.file_name())?;
                fs::write(&place, b"").context_during("write", &place)?;
                let Digests { sha256, blake3, .. } = Digests::of(&place).context_during("read", &place)?;
                let (path, ranges) = (url.file_name(), Some(Vec::new()));
                let file = LockedFile { path, size: found.size, ranges, etag: Some(found.etag), sha256, blake3 };
                Fetched { locked: Locked { revision: None, wheel: None, files: vec![file] }, files: vec![place] }
            }
            Source::Step { url, optim } => self.fetch_step(source, (url, *optim), locked, folder, watch)?,
            Source::Hub { repository, revision, path } => {
                let name = source.to_string();
                let (commit, coming) = match locked {
                    Some(Locked { revision: Some(commit), files, .. }) => {
                        let coming =
                            |f: &LockedFile| PendingFile { path: f.path.clone(), expected: Expected::default() };
                        (commit.clone(), files.iter().map(coming).collect())
                    }
                    _ => {
                        let found = hub::look_up(&self.client, &name, repository, revision, path, watch)?;
                        let coming = |(path, expected)| PendingFile { path, expected };
                        (found.commit, found.files.into_iter().map(coming).collect())
                    }
                };
                let coming: Vec<PendingFile> = coming;
                if single && coming.len() > 1 {
                    let why = format!("expected one file, but it selects {}", coming.len());
                    return Err(RemoteError::NoFiles { source_text: name, why });
                }
                let url = |path: &str| hub::file_url(&self.client, &name, repository, &commit, path);
                self.fetch_all(coming, locked, folder, (Some(commit.clone()), None), &url, watch)?
            }
            Source::Pypi { name, version, path } => {
                let text = source.to_string();
                let place = folder.join("wheel");
                let _ = fs::remove_dir_all(&place);
                fs::create_dir_all(&place).context_during("create the folder", &place)?;
                watch.progress(&text, 0, None);
                let wheel = wheel::download(self.client.settings(), &text, name, version, &place)?;
                let wheel_name = wheel.file_name().map(|name| name.to_string_lossy().into_owned());
                let path = if path.is_empty() { wheel_name.clone().unwrap_or_default() } else { path.clone() };
                let to = file_place(folder, &path)?;
                if wheel_name.as_ref() == Some(&path) {
                    fs::rename(&wheel, &to).context_during("rename", &wheel)?;
                } else {
                    wheel::member(&wheel, &path, &to, self.client.settings().max_bytes)?;
                }
                let found = Digests::of(&to).context_during("read", &to)?;
                let wheel = wheel_name;
                let _ = fs::remove_dir_all(&place);
                let files = vec![LockedFile {
                    path,
                    size: found.size,
                    ranges: None,
                    etag: None,
                    sha256: found.sha256,
                    blake3: found.blake3,
                }];
                // The wheel for another platform may contain the same file.
                let wheel = locked.and_then(|locked| locked.wheel.clone()).or(wheel);
                Fetched { locked: Locked { revision: None, wheel, files }, files: vec![to] }
            }
        };
        if let Some(locked) = locked {
            check_lock(source, locked, &fetched.locked)?;
        }
        Ok(fetched)
    }

    /// Fetches a step of OLMo-core's trainer: the bytes of its weights, or all of it with `optim`.
    fn fetch_step(
        &self,
        source: &Source,
        (url, optim): (&str, bool),
        locked: Option<&Locked>,
        folder: &Path,
        watch: &mut dyn Watch,
    ) -> Result<Fetched, RemoteError> {
        let form = |why| RemoteError::Form { source_text: source.to_string(), why };
        let at = |path: &str| Url::parse(&format!("{url}{path}")).map_err(form);
        let whole = |path: &str| PendingFile { path: path.to_owned(), expected: Expected::default() };
        let mut fetch =
            |coming: Vec<PendingFile>| self.fetch_all(coming, locked, folder, (None, None), &at, &mut *watch);
        if let Some(locked) = locked {
            return fetch(locked.files.iter().map(|file| whole(&file.path)).collect());
        }
        let mut fetched = fetch(STEP.map(whole).into())?;
        let mut add = |more: Fetched| {
            fetched.locked.files.extend(more.locked.files);
            fetched.files.extend(more.files);
        };
        add(fetch(shards(source, &folder.join("files"), optim)?)?);
        if optim {
            // Checkpoints of the model alone have no state of the trainer.
            match fetch(vec![whole(FIRST_RANK)]) {
                Err(RemoteError::Status { status: 404 | 410, .. }) => {}
                rank => add(rank?),
            }
        }
        Ok(fetched)
    }

    /// Fetches all files of `coming`, one after another.
    fn fetch_all(
        &self,
        coming: Vec<PendingFile>,
        locked: Option<&Locked>,
        folder: &Path,
        (revision, wheel): (Option<String>, Option<String>),
        url: &dyn Fn(&str) -> Result<Url, RemoteError>,
        watch: &mut dyn Watch,
    ) -> Result<Fetched, RemoteError> {
        let most = self.client.settings().max_bytes;
        let (mut files, mut places) = (Vec::new(), Vec::new());
        for PendingFile { path, mut expected } in coming {
            if let Some(known) = locked.and_then(|locked| locked.files.iter().find(|file| file.path == path)) {
                let ranges = known.ranges.as_ref().map(|ranges| Ranges::new(known.size, ranges)).transpose();
                expected = Expected {
                    size: Some(known.fetched_bytes()),
                    sha256: Some(known.sha256.clone()),
                    git: None,
                    ranges: ranges.map_err(|why| RemoteError::NoFiles { source_text: path.clone(), why })?,
                    whole: known.ranges.as_ref().map(|_| known.size),
                };
            }
            if let Some(size) = expected.size.filter(|size| *size > most) {
                return Err(RemoteError::TooLarge { what: path, size, most });
            }
            let place = file_place(folder, &path)?;
            let Downloaded { digests, whole, etag } =
                download::download(&self.client, &url(&path)?, &expected, &place, watch)?;
            let known = locked.and_then(|locked| locked.files.iter().find(|file| file.path == path));
            let etag = known.map_or(etag, |known| known.etag.clone()).filter(|_| expected.ranges.is_some());
            let ranges = expected.ranges.as_ref().map(Ranges::list);
            let Digests { sha256, blake3, .. } = digests;
            files.push(LockedFile { path, size: whole, ranges, etag, sha256, blake3 });
            places.push(place);
        }
        Ok(Fetched { locked: Locked { revision, wheel, files }, files: places })
    }
}

/// The files of a step of OLMo-core that name the others.
const STEP: [&str; 2] = ["config.json", "model_and_optim/.metadata"];

/// The file of the trainer's state, of the first rank.
const FIRST_RANK: &str = "train/rank0.pt";

/// Prefix of the weights' names in a step.
const WEIGHTS: &str = "model.";

/// The shards of the step whose first files are in `folder`, as its `.metadata` names them: whole
/// with `optim`, otherwise the bytes of the weights.
fn shards(source: &Source, folder: &Path, optim: bool) -> Result<Vec<PendingFile>, RemoteError> {
    let refuse = |why: String| RemoteError::NoFiles { source_text: source.to_string(), why };
    let checkpoint = Checkpoint::open_folder(folder).map_err(|error| refuse(error.to_string()))?;
    let path = |shard: &str| format!("{MODEL_AND_OPTIM}/{shard}");
    if optim {
        let whole = |shard: &str| PendingFile { path: path(shard), expected: Expected::default() };
        return Ok(checkpoint.shards().into_iter().map(whole).collect());
    }
    let ranges = checkpoint.ranges(|name| name.starts_with(WEIGHTS));
    if ranges.values().all(Vec::is_empty) {
        return Err(refuse(format!("its `.metadata` lists no weights (`{WEIGHTS}…`)")));
    }
    let partial = |(shard, ranges): (&str, Vec<(u64, u64)>)| {
        let end = ranges.last().map_or(0, |(_, end)| *end);
        let ranges = Ranges::new(end, &ranges).map_err(&refuse)?;
        let expected = Expected { size: Some(ranges.length()), ranges: Some(ranges), ..Expected::default() };
        Ok(PendingFile { path: path(shard), expected })
    };
    ranges.into_iter().filter(|(_, ranges)| !ranges.is_empty()).map(partial).collect()
}

/// Path of the file `path` of a source in its folder; creates its parent folders.
fn file_place(folder: &Path, path: &str) -> Result<PathBuf, RemoteError> {
    let place = folder.join("files").join(path);
    let parent = place.parent().unwrap_or(folder);
    fs::create_dir_all(parent).context_during("create the folder", parent)?;
    Ok(place)
}

/// Checks that a source matches its lock.
fn check_lock(source: &Source, locked: &Locked, found: &Locked) -> Result<(), RemoteError> {
    for file in &locked.files {
        let what = format!("{source}, {}", file.path);
        let Some(now) = found.files.iter().find(|now| now.path == file.path) else {
            let why = format!("the locked file `{}` no longer exists", file.path);
            return Err(RemoteError::NoFiles { source_text: source.to_string(), why });
        };
        if now.size != file.size {
            return Err(RemoteError::Size { what, found: now.size, expected: file.size });
        }
        let etags = (file.etag.as_ref(), now.etag.as_ref());
        if let (Some(expected), Some(found)) = etags
            && expected != found
        {
            return Err(RemoteError::Changed { url: what, found: found.clone(), expected: expected.clone() });
        }
        for (kind, now, then) in [
            ("SHA-256", now.sha256.clone(), file.sha256.clone()),
            ("BLAKE3", now.blake3.to_string(), file.blake3.to_string()),
        ] {
            if now != then {
                return Err(RemoteError::Digest { what, kind, found: now, expected: then });
            }
        }
    }
    Ok(())
}

/// A file of an artifact.
pub enum ArtifactFile<'l> {
    /// The fetched bytes of a file.
    Fetched(&'l LockedFile),
    /// What describes a file of which not everything was fetched: the list of the fetched ranges, or
    /// the [`RemoteFile`].
    Description(Vec<u8>),
}

impl ArtifactFile<'_> {
    /// Digest of its content.
    pub fn blake3(&self) -> Digest {
        match self {
            Self::Fetched(file) => file.blake3,
            Self::Description(text) => Digest::of(text),
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Fetched(file) => file.fetched_bytes(),
            Self::Description(text) => text.len() as u64,
        }
    }
}

impl Locked {
    /// The artifacts that a source with this content gives for `want`, each with its files by name.
    pub fn artifacts(&self, source: &Source, want: Want) -> Vec<Vec<(String, ArtifactFile<'_>)>> {
        if want != Want::Folder {
            let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
            return self.files.iter().map(|file| file.artifact_files(source, name(&file.path))).collect();
        }
        let below = match source {
            Source::Hub { path, .. } if !path.is_empty() => format!("{path}/"),
            _ => String::new(),
        };
        let name = |file: &LockedFile| file.path.strip_prefix(&below).unwrap_or(&file.path).to_owned();
        vec![self.files.iter().flat_map(|file| file.artifact_files(source, name(file))).collect()]
    }
}

impl LockedFile {
    /// The files of an artifact that hold this one, which the artifact calls `name`.
    fn artifact_files(&self, source: &Source, name: String) -> Vec<(String, ArtifactFile<'_>)> {
        if let Source::ByRange { url } = source {
            let (url, etag) = (url.clone(), self.etag.clone().unwrap_or_default());
            let file = RemoteFile { url, size: self.size, etag };
            return vec![(RemoteFile::file_name(&name), ArtifactFile::Description(file.to_json()))];
        }
        // The lock was checked when it was read.
        let Some(Ok(ranges)) = self.ranges.as_ref().map(|ranges| Ranges::new(self.size, ranges)) else {
            return vec![(name, ArtifactFile::Fetched(self))];
        };
        let [bytes, list] = Ranges::file_names(&name);
        vec![(bytes, ArtifactFile::Fetched(self)), (list, ArtifactFile::Description(ranges.to_json()))]
    }
}
