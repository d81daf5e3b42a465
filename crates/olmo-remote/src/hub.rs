//! The Hugging Face hub: resolves a revision to a commit, and a source to its files.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::error::RemoteError;
use crate::http::client::Client;
use crate::http::download::Expected;
use crate::source::Repository;
use crate::source::file_kind;
use crate::source::pattern;
use crate::url::{Url, encoded};
use crate::watch::Watch;

/// A repository at one commit.
pub(crate) struct Snapshot {
    /// 40 hex digits.
    pub commit: String,
    /// The selected files, sorted by path, with what the hub reports about them.
    pub files: Vec<(String, Expected)>,
}

/// The fields of the hub's API response for a revision that are used.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// Looks up the commit of `revision` in `repository`, and the files that `path` selects.
pub(crate) fn look_up(
    client: &Client,
    source: &str,
    repository: &Repository,
    revision: &str,
    path: &str,
    watch: &mut dyn Watch,
) -> Result<Snapshot, RemoteError> {
    let kind = if repository.dataset { "datasets" } else { "models" };
    let hub = &client.settings().hub;
    let address = format!("{hub}/api/{kind}/{}/revision/{}?blobs=true", repository.id, encoded(revision, false));
    let url = address_of(source, &address)?;
    let text = client.get(&url, &[], watch)?.text()?;
    let answer = |why: String| RemoteError::Answer { url: address.clone(), why };
    let info: Info =
        serde_json::from_str(&text).map_err(|e| answer(format!("cannot parse the hub's response: {e}")))?;
    if info.sha.len() != 40 || !info.sha.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(answer("the hub's response has no commit".to_owned()));
    }
    let files = chosen(source, repository, path, info.siblings)?;
    Ok(Snapshot { commit: info.sha.to_ascii_lowercase(), files })
}

/// The address of a file of `repository` at `commit`.
pub(crate) fn file_url(
    client: &Client,
    source: &str,
    repository: &Repository,
    commit: &str,
    path: &str,
) -> Result<Url, RemoteError> {
    let folder = if repository.dataset { "datasets/" } else { "" };
    let hub = &client.settings().hub;
    address_of(source, &format!("{hub}/{folder}{}/resolve/{commit}/{}", repository.id, encoded(path, true)))
}

fn address_of(source: &str, address: &str) -> Result<Url, RemoteError> {
    Url::parse(address).map_err(|why| RemoteError::Form { source_text: source.to_owned(), why })
}

/// The files that `path` selects: one file, the files of a folder, or those that match a pattern.
/// Only a file named explicitly is an error if its kind is not allowed.
fn chosen(
    source: &str,
    repository: &Repository,
    path: &str,
    siblings: Vec<Sibling>,
) -> Result<Vec<(String, Expected)>, RemoteError> {
    let total = siblings.len();
    let below = format!("{path}/");
    let meant = |name: &str| match path {
        "" => true,
        _ if pattern::is_pattern(path) => pattern::fits(path, name),
        _ => name == path || name.starts_with(&below),
    };
    let hidden = |name: &str| name.split('/').any(|part| part.starts_with('.')) && !file_kind::is_checkpoint(name);
    let taken = |name: &str| match repository.dataset {
        // For a dataset folder, take readable data files; an explicit name may be any allowed file.
        true if !pattern::is_pattern(path) && name != path => file_kind::is_data(name) && !hidden(name),
        _ => file_kind::is_allowed(name) && !hidden(name),
    };
    let mut files = Vec::new();
    let mut left = 0;
    for sibling in siblings {
        let name = sibling.rfilename;
        if !meant(&name) {
            continue;
        }
        if let Some(why) = file_kind::bad_path(&name) {
            return Err(RemoteError::Path { source_text: source.to_owned(), path: name, why });
        }
        if !taken(&name) {
            left += 1;
            continue;
        }
        let lfs = sibling.lfs;
        let large = lfs.is_some();
        let expected = Expected {
            size: lfs.as_ref().and_then(|lfs| lfs.size).or(sibling.size),
            sha256: lfs.and_then(|lfs| lfs.sha256),
            // For a large file, this names the LFS pointer.
            git: sibling.blob_id.filter(|_| !large),
            ..Expected::default()
        };
        files.push((name, expected));
    }
    // `transformers` reads safetensors first, so the same weights as a pickle are not needed.
    let folder = |name: &str| name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let converted: BTreeSet<String> =
        files.iter().filter(|(name, _)| name.ends_with(".safetensors")).map(|(name, _)| folder(name)).collect();
    files.retain(|(name, _)| name == path || !file_kind::is_pytorch_model(name) || !converted.contains(&folder(name)));
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files.dedup_by(|a, b| a.0 == b.0);
    if files.is_empty() {
        let why = match left {
            0 if path.is_empty() => format!("the repository has no file of an allowed kind ({total} files)"),
            0 => format!("there is no `{}` among the {total} files of the repository", path.escape_debug()),
            _ => format!("{left} files match, but none is of an allowed kind ({})", file_kind::listed()),
        };
        return Err(RemoteError::NoFiles { source_text: source.to_owned(), why });
    }
    Ok(files)
}
