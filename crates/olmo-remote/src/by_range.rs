//! [`RemoteFile`]: a file that stays on its server and is read by range, and its [`RangeReader`].

use std::io::Read as _;

use serde::{Deserialize, Serialize};

use crate::error::RemoteError;
use crate::http::client::{Client, content_range};
use crate::settings::Settings;
use crate::url::Url;
use crate::watch::Watch;

const FORMAT: u32 = 1;

/// A file on a server. Its etag is the server's name for its content: what is read later must have
/// the same one. Nobody verified the whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteFile {
    pub url: String,
    /// Size in bytes.
    pub size: u64,
    pub etag: String,
}

/// `NAME.remote.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    file: RemoteFile,
}

impl RemoteFile {
    /// The name of the file that stands for the remote file `name` in an artifact.
    pub fn file_name(name: &str) -> String {
        format!("{name}.remote.json")
    }

    /// The content of `NAME.remote.json`.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of texts and numbers always serializes.
        let mut text = serde_json::to_vec(&Document { format: FORMAT, file: self.clone() }).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// # Errors
    /// What is wrong with the content of `NAME.remote.json`, as text.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if document.format != FORMAT {
            return Err(format!("it has format {}, but this build reads {FORMAT}", document.format));
        }
        Ok(document.file)
    }

    /// The file at `url` as it is now.
    pub(crate) fn look_up(client: &Client, url: &Url, watch: &mut dyn Watch) -> Result<Self, RemoteError> {
        let answer = client.get(url, &[("range", "bytes=0-0".to_owned())], watch)?;
        let refuse = |why: &str| RemoteError::Answer { url: url.to_string(), why: why.to_owned() };
        if answer.status() != 206 {
            return Err(refuse("the server does not send ranges of the file; write its address without `#by-range`"));
        }
        let size = content_range(answer.header("content-range").unwrap_or_default()).and_then(|(_, size)| size);
        let size = size.ok_or_else(|| refuse("the server does not report the size of the file"))?;
        let etag = answer.header("etag").filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let etag = etag.ok_or_else(|| {
            refuse(
                "the server has no strong ETag for the file, so that a change of it would go unnoticed; write its address \
                 without `#by-range`",
            )
        })?;
        Ok(Self { url: url.to_string(), size, etag })
    }
}

/// Reads ranges of remote files, from several threads if need be.
pub struct RangeReader {
    client: Client,
}

impl std::fmt::Debug for RangeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangeReader").finish_non_exhaustive()
    }
}

impl RangeReader {
    /// # Errors
    /// The settings are invalid.
    pub fn new(settings: &Settings) -> Result<Self, RemoteError> {
        Ok(Self { client: Client::new(settings)? })
    }

    /// The `length` bytes of `file` from `offset` on. Waits and tries again if the connection fails.
    ///
    /// # Errors
    /// No network, or the file changed: see [`RemoteError`].
    pub fn read(&self, file: &RemoteFile, offset: u64, length: usize) -> Result<Vec<u8>, RemoteError> {
        let form = |why| RemoteError::Form { source_text: file.url.clone(), why };
        let url = Url::parse(&file.url).map_err(form)?;
        let settings = self.client.settings();
        for attempt in 1.. {
            let bytes = self.read_once(&url, file, offset, length)?;
            if bytes.len() == length {
                return Ok(bytes);
            }
            if attempt >= settings.attempts {
                let (there, expected) = (bytes.len() as u64, length as u64);
                return Err(RemoteError::Half { url: file.url.clone(), there, expected, attempts: attempt });
            }
            std::thread::sleep(settings.pause);
        }
        Ok(Vec::new())
    }

    /// What one connection sends of the range.
    fn read_once(&self, url: &Url, file: &RemoteFile, offset: u64, length: usize) -> Result<Vec<u8>, RemoteError> {
        let range = format!("bytes={offset}-{}", (offset + length as u64).saturating_sub(1));
        let changed =
            |found: String| RemoteError::Changed { url: file.url.clone(), found, expected: file.etag.clone() };
        let answer = self.client.get(url, &[("range", range), ("if-match", file.etag.clone())], &mut ());
        let answer = answer.map_err(|error| match error {
            RemoteError::Status { status: 412, .. } => changed("another one".to_owned()),
            error => error,
        })?;
        if let Some(etag) = answer.header("etag").filter(|etag| *etag != file.etag) {
            return Err(changed(etag.to_owned()));
        }
        let range = content_range(answer.header("content-range").unwrap_or_default());
        match (answer.status(), range) {
            (206, Some((start, size))) if start == Some(offset) && size.is_none_or(|size| size == file.size) => {}
            (206, Some((_, Some(size)))) if size != file.size => return Err(changed(format!("{size} bytes"))),
            _ => {
                let why = "it sent a different range than requested".to_owned();
                return Err(RemoteError::Answer { url: file.url.clone(), why });
            }
        }
        let mut bytes = Vec::with_capacity(length);
        // A connection that breaks gives less, and the caller asks again.
        let _ = answer.reader().take(length as u64).read_to_end(&mut bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_file_is_read_as_it_was_written_and_nothing_else_is() {
        let file = RemoteFile { url: "https://h.example/a.npy".into(), size: 12, etag: "\"1\"".into() };
        assert_eq!(RemoteFile::from_json(&file.to_json()), Ok(file));
        for text in ["", "{}", r#"{"format": 2, "file": {"url": "a", "size": 1, "etag": ""}}"#] {
            assert!(RemoteFile::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
