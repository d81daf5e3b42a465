//! [`Remote`]: resolves and fetches sources.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::RemoteError;
use crate::http::client::Client;
use crate::http::digests::Digests;
use crate::http::download::{self, Expected};
use crate::hub;
use crate::lockfile::{Locked, LockedFile};
use crate::settings::Settings;
use crate::source::{Source, Want};
use crate::url::Url;
use crate::watch::Watch;
use crate::wheel;
use olmo_base::IoContext as _;
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
            Source::Step { url } => {
                let form = |why| RemoteError::Form { source_text: source.to_string(), why };
                let at = |path: &str| Url::parse(&format!("{url}{path}")).map_err(form);
                let coming = |names: Vec<String>| {
                    names.into_iter().map(|path| PendingFile { path, expected: Expected::default() }).collect()
                };
                let named = |names: &[LockedFile]| names.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
                let names = match locked {
                    Some(locked) => named(&locked.files),
                    None => {
                        let first = STEP.map(str::to_owned).to_vec();
                        self.fetch_all(coming(first), None, folder, (None, None), &at, watch)?;
                        step_files(source, &folder.join("files"))?
                    }
                };
                self.fetch_all(coming(names), locked, folder, (None, None), &at, watch)?
            }
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
                let files = vec![LockedFile { path, size: found.size, sha256: found.sha256, blake3: found.blake3 }];
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
                expected = Expected { size: Some(known.size), sha256: Some(known.sha256.clone()), git: None };
            }
            if let Some(size) = expected.size.filter(|size| *size > most) {
                return Err(RemoteError::TooLarge { what: path, size, most });
            }
            let place = file_place(folder, &path)?;
            let found = download::download(&self.client, &url(&path)?, &expected, &place, watch)?;
            files.push(LockedFile { path, size: found.size, sha256: found.sha256, blake3: found.blake3 });
            places.push(place);
        }
        Ok(Fetched { locked: Locked { revision, wheel, files }, files: places })
    }
}

/// The files of a step of OLMo-core that name the others.
const STEP: [&str; 2] = ["config.json", "model_and_optim/.metadata"];

/// The files of the step whose first ones are in `folder`: those, and the shards that its `.metadata`
/// names.
fn step_files(source: &Source, folder: &Path) -> Result<Vec<String>, RemoteError> {
    let opened = Checkpoint::open_folder(folder);
    let checkpoint =
        opened.map_err(|error| RemoteError::NoFiles { source_text: source.to_string(), why: error.to_string() })?;
    let shards = checkpoint.shards().into_iter().map(|shard| format!("{MODEL_AND_OPTIM}/{shard}"));
    Ok(STEP.map(str::to_owned).into_iter().chain(shards).collect())
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

impl Locked {
    /// The artifacts that a source with this content gives for `want`, each with its files by name.
    pub fn artifacts(&self, source: &Source, want: Want) -> Vec<Vec<(String, &LockedFile)>> {
        if want != Want::Folder {
            let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
            return self.files.iter().map(|file| vec![(name(&file.path), file)]).collect();
        }
        let below = match source {
            Source::Hub { path, .. } if !path.is_empty() => format!("{path}/"),
            _ => String::new(),
        };
        let name = |file: &LockedFile| file.path.strip_prefix(&below).unwrap_or(&file.path).to_owned();
        vec![self.files.iter().map(|file| (name(file), file)).collect()]
    }
}
