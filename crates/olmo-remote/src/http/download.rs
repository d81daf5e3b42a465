//! Downloads one file, or ranges of it, into a folder. Ranges are written one after the other.
//!
//! If the process ends, the received bytes stay in `NAME.part`. The journal `NAME.from` records the
//! length and digest of the part as it grows. The next call continues the part if it still matches
//! them and the server reports that the file is unchanged.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use olmo_base::digest::Hasher;
use olmo_base::{Digest, IoContext as _, journal};
use olmo_pickle::Ranges;

use crate::error::RemoteError;
use crate::http::client::{Client, content_range};
use crate::http::digests::Digests;
use crate::url::Url;
use crate::watch::Watch;

/// Number of new bytes that count as progress and reset the attempts.
const PROGRESS: u64 = 1 << 20;

/// What is known about a file before the download.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    /// Number of bytes to download.
    pub size: Option<u64>,
    pub sha256: Option<String>,
    /// Git object name.
    pub git: Option<String>,
    /// The ranges to download; by default, the whole file.
    pub ranges: Option<Ranges>,
    /// With `ranges`: size of the whole file in bytes.
    pub whole: Option<u64>,
}

/// A downloaded file.
pub(crate) struct Downloaded {
    /// Size and digests of the downloaded bytes.
    pub digests: Digests,
    /// Size of the whole file in bytes.
    pub whole: u64,
    /// The server's name for the content.
    pub etag: Option<String>,
}

impl Expected {
    fn is_named(&self) -> bool {
        self.sha256.is_some() || self.git.is_some()
    }

    /// # Errors
    /// The first property of `found` that differs from the expected one; `what` names the file.
    pub(crate) fn check(&self, what: &str, found: &Digests) -> Result<(), RemoteError> {
        if let Some(expected) = self.size.filter(|size| *size != found.size) {
            return Err(RemoteError::Size { what: what.to_owned(), found: found.size, expected });
        }
        let digests = [("SHA-256", &self.sha256, &found.sha256), ("git digest", &self.git, &found.git)];
        for (kind, expected, found) in digests {
            if let Some(expected) = expected.as_ref().filter(|expected| *expected != found) {
                let (found, expected) = (found.clone(), expected.clone());
                return Err(RemoteError::Digest { what: what.to_owned(), kind, found, expected });
            }
        }
        Ok(())
    }
}

/// Number of bytes after which to record the length and digest of a part.
const SEAL_EVERY: u64 = 64 << 10;

/// A line of `NAME.from`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JournalLine {
    /// The first line: the file that the part belongs to.
    Begun { url: String, etag: Option<String> },
    /// The digest of the first `length` bytes of the part. Later bytes are not used.
    Sealed { length: u64, digest: Digest },
}

/// Downloads `url` to the file `path`, whose folder must exist. Keeps an existing file if it
/// matches the expected digests.
pub(crate) fn download(
    client: &Client,
    url: &Url,
    expected: &Expected,
    path: &Path,
    watch: &mut dyn Watch,
) -> Result<Downloaded, RemoteError> {
    let what = url.to_string();
    if expected.is_named() && path.is_file() {
        let digests = Digests::of(path).context_during("read", path)?;
        if expected.check(&what, &digests).is_ok() {
            let whole = expected.whole.unwrap_or(digests.size);
            return Ok(Downloaded { digests, whole, etag: None });
        }
    }
    let most = client.settings().max_bytes;
    if let Some(size) = expected.size.filter(|size| *size > most) {
        return Err(RemoteError::TooLarge { what, size, most });
    }
    let part = with_ending(path, "part");
    let begun = with_ending(path, "from");
    let mut again = true;
    loop {
        let mut transfer = Transfer {
            client,
            url,
            expected,
            part: &part,
            begun: &begun,
            resumed: false,
            etag: None,
            whole: None,
            cut: false,
            there: 0,
            sealed: 0,
            hasher: Hasher::default(),
            notes: None,
        };
        transfer.run(watch)?;
        let Transfer { resumed, whole, etag, .. } = transfer;
        let digests = Digests::of(&part).context_during("read", &part)?;
        let checked = expected.check(&what, &digests);
        if checked.is_ok() {
            fs::rename(&part, path).context_during("rename", &part)?;
            let _ = fs::remove_file(&begun);
            let whole = expected.whole.or(whole).unwrap_or(digests.size);
            return Ok(Downloaded { digests, whole, etag });
        }
        // The part may belong to another file; a complete download cannot.
        let _ = fs::remove_file(&begun);
        fs::remove_file(&part).context_during("remove", &part)?;
        if !(resumed && std::mem::take(&mut again)) {
            checked?;
        }
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

struct Transfer<'a> {
    client: &'a Client,
    url: &'a Url,
    expected: &'a Expected,
    part: &'a Path,
    begun: &'a Path,
    /// Whether bytes from an earlier connection were kept.
    resumed: bool,
    etag: Option<String>,
    /// Size of the whole file in bytes, once this process knows it.
    whole: Option<u64>,
    /// Whether the last connection ended before it had sent what was requested.
    cut: bool,
    /// Length of the part so far, in bytes.
    there: u64,
    /// Length last recorded, in bytes.
    sealed: u64,
    /// Has hashed the part so far.
    hasher: Hasher,
    /// `NAME.from`, once it has a line.
    notes: Option<journal::Writer<JournalLine>>,
}

impl Transfer<'_> {
    /// Downloads until the part is the whole file.
    fn run(&mut self, watch: &mut dyn Watch) -> Result<(), RemoteError> {
        let mut file = olmo_base::files::open_or_create_regular(self.part).context_during("open", self.part)?;
        self.take_up(&mut file)?;
        let mut attempts = 0;
        let mut counted_from = self.there;
        loop {
            let (there, total) = match self.connect(&mut file, watch)? {
                None => return Ok(()),
                Some(found) => found,
            };
            let Some(total) = total.filter(|total| there < *total) else { return Ok(()) };
            if !self.cut {
                // The next range.
                continue;
            }
            if there >= counted_from.saturating_add(PROGRESS) {
                (attempts, counted_from) = (0, there);
            }
            attempts += 1;
            if attempts >= self.client.settings().attempts {
                let (url, expected) = (self.url.to_string(), total);
                return Err(RemoteError::Half { url, there, expected, attempts });
            }
            let error = RemoteError::Half { url: self.url.to_string(), there, expected: total, attempts };
            watch.waits(&error, self.client.settings().pause);
            std::thread::sleep(self.client.settings().pause);
        }
    }

    /// What the part belongs to: the file, and the ranges of it.
    fn name(&self) -> String {
        match &self.expected.ranges {
            Some(ranges) => format!("{}#{}", self.url, Digest::of(&ranges.to_json())),
            None => self.url.to_string(),
        }
    }

    /// Keeps as much of an earlier part as its recorded length and digest confirm; otherwise starts
    /// over.
    fn take_up(&mut self, file: &mut File) -> Result<(), RemoteError> {
        let notes =
            journal::read_prefix::<JournalLine>(self.begun).map(|contents| contents.records).unwrap_or_default();
        if let (Some(JournalLine::Begun { url, etag }), Some(JournalLine::Sealed { length, digest })) =
            (notes.first(), notes.last())
            && *url == self.name()
        {
            let mut hasher = Hasher::default();
            let read = io::copy(&mut (&mut *file).take(*length), &mut hasher);
            let read = read.context_during("read", self.part)?;
            if read == *length && hasher.finish() == *digest {
                file.set_len(*length).context_during("write", self.part)?;
                (self.etag, self.there, self.hasher) = (etag.clone(), *length, hasher);
                let _ = fs::remove_file(self.begun);
                return self.seal();
            }
        }
        self.restart(file).map(drop)
    }

    /// Makes one connection. Returns the number of bytes present afterwards and the total size, if
    /// known; `None` if the file is complete.
    fn connect(&mut self, file: &mut File, watch: &mut dyn Watch) -> Result<Option<(u64, Option<u64>)>, RemoteError> {
        let what = self.url.to_string();
        let mut there = self.there;
        if there > 0 && self.expected.size == Some(there) {
            self.resumed = true;
            return Ok(None);
        }
        let strong = self.etag.clone().filter(|etag| etag.starts_with('"'));
        let too_long = self.expected.size.is_some_and(|size| there > size);
        // Between the ranges of one process, the size of the whole file has to do.
        let unsure = strong.is_none() && !self.expected.is_named() && self.whole.is_none();
        if there > 0 && (too_long || unsure) {
            there = self.restart(file)?;
        }
        // The first byte to request and, of a range, its end.
        let (from, to) = match &self.expected.ranges {
            Some(ranges) => ranges.locate(there).map_or((there, None), |(from, to)| (from, Some(to))),
            None => (there, None),
        };
        let mut headers = Vec::new();
        match to {
            Some(to) => headers.push(("range", format!("bytes={from}-{}", to - 1))),
            None if there > 0 => headers.push(("range", format!("bytes={there}-"))),
            None => {}
        }
        if there > 0 {
            // A file with a known digest is verified at the end instead.
            headers.extend(strong.clone().filter(|_| !self.expected.is_named()).map(|etag| ("if-range", etag)));
        }
        let answer = self.client.get(self.url, &headers, watch)?;
        let mut offset = from;
        let whole = match answer.status() {
            206 => {
                let (_, total) = content_range(answer.header("content-range").unwrap_or_default())
                    .filter(|(start, _)| *start == Some(from))
                    .ok_or_else(|| RemoteError::Answer {
                        url: what.clone(),
                        why: "it sent a different range than requested".to_owned(),
                    })?;
                self.resumed |= there > 0;
                total
            }
            416 => {
                let total = content_range(answer.header("content-range").unwrap_or_default()).and_then(|(_, t)| t);
                if let Some(expected) = to {
                    return Err(RemoteError::Size { what, found: total.unwrap_or_default(), expected });
                }
                if there > 0 && total == Some(there) && self.expected.size.is_none() {
                    self.resumed = true;
                    return Ok(None);
                }
                if there == 0 {
                    return Err(RemoteError::Answer { url: what, why: "it sent no range".to_owned() });
                }
                self.restart(file)?;
                return Ok(Some((0, self.expected.size.or(total).or(Some(1)))));
            }
            // The whole file.
            _ => {
                there = self.restart(file)?;
                offset = 0;
                answer.number("content-length")
            }
        };
        let expected_whole = match &self.expected.ranges {
            Some(_) => self.expected.whole.or(self.whole),
            None => self.expected.size,
        };
        if let (Some(found), Some(expected)) = (whole, expected_whole)
            && found != expected
        {
            self.restart(file)?;
            return Err(RemoteError::Size { what, found, expected });
        }
        if let (Some(found), Some(expected)) = (whole, to)
            && found < expected
        {
            return Err(RemoteError::Size { what, found, expected });
        }
        let total = if self.expected.ranges.is_some() { self.expected.size } else { whole.or(self.expected.size) };
        let etag = answer.header("etag").map(str::to_owned);
        if there > 0 && self.expected.ranges.is_some() && etag.is_some() && self.etag.is_some() && etag != self.etag {
            // The file changed between two ranges.
            self.restart(file)?;
            self.cut = true;
            return Ok(Some((0, total)));
        }
        let most = self.client.settings().max_bytes;
        if let Some(size) = total.filter(|size| *size > most) {
            return Err(RemoteError::TooLarge { what, size, most });
        }
        self.check_room(total.map_or(0, |total| total.saturating_sub(there)))?;
        if there == 0 {
            self.etag = etag;
        }
        self.whole = whole;
        // How long the part is once the server has sent what was requested.
        let goal = match (answer.status(), to) {
            (206, Some(to)) => Some(there + (to - from)),
            _ => total,
        };
        self.cut = true;
        file.seek(SeekFrom::Start(there)).context_during("write", self.part)?;
        let mut body = answer.reader();
        let mut buffer = vec![0u8; 1 << 17];
        loop {
            watch.progress(&what, there, total);
            let count = match body.read(&mut buffer) {
                Ok(0) if total.is_none() => return Ok(None),
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // The connection broke: keep what was received. Without a size, the number of
                // missing bytes is unknown.
                Err(_) => break,
            };
            let received = &buffer[..count];
            let kept = kept(self.expected.ranges.as_ref(), offset, received);
            offset += count as u64;
            there += kept.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            if let Some(expected) = total.filter(|total| there > *total) {
                self.restart(file)?;
                return Err(RemoteError::Size { what, found: there, expected });
            }
            if there > most {
                self.restart(file)?;
                return Err(RemoteError::TooLarge { what, size: there, most });
            }
            for bytes in kept {
                file.write_all(bytes).context_during("write", self.part)?;
                self.hasher.write_all(bytes).context_during("write", self.part)?;
            }
            self.there = there;
            if there >= self.sealed + SEAL_EVERY {
                self.seal()?;
            }
            if goal == Some(there) && to.is_some() {
                break;
            }
        }
        self.cut = goal != Some(there);
        self.seal()?;
        // The size is unknown and the file is truncated: at least one byte is missing.
        Ok(Some((there, total.or(Some(there + 1)))))
    }

    /// Starts over at byte 0.
    fn restart(&mut self, file: &File) -> Result<u64, RemoteError> {
        file.set_len(0).context_during("write", self.part)?;
        let _ = fs::remove_file(self.begun);
        (self.etag, self.there, self.sealed, self.hasher, self.notes) = (None, 0, 0, Hasher::default(), None);
        self.whole = None;
        Ok(0)
    }

    /// Records the length and digest of the part so far.
    fn seal(&mut self) -> Result<(), RemoteError> {
        let name = self.name();
        let notes = match &mut self.notes {
            Some(notes) => notes,
            none => {
                let mut notes = journal::Writer::open(self.begun, false).context_during("write", self.begun)?;
                let begun = JournalLine::Begun { url: name, etag: self.etag.clone() };
                notes.append(&begun).context_during("write", self.begun)?;
                none.insert(notes)
            }
        };
        let sealed = JournalLine::Sealed { length: self.there, digest: self.hasher.finish() };
        self.sealed = self.there;
        Ok(notes.append(&sealed).context_during("write", self.begun)?)
    }

    fn check_room(&self, needed: u64) -> Result<(), RemoteError> {
        let Ok(fs) = rustix::fs::statvfs(self.part) else { return Ok(()) };
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        if needed > free {
            return Err(RemoteError::NoRoom { path: self.part.to_owned(), needed, free });
        }
        Ok(())
    }
}

/// The parts of `bytes`, which begin at byte `offset` of the file, that belong to the download.
fn kept<'b>(ranges: Option<&Ranges>, offset: u64, bytes: &'b [u8]) -> Vec<&'b [u8]> {
    match ranges {
        Some(ranges) => {
            let parts = ranges.within(offset, bytes.len() as u64);
            parts.map(|(start, end)| &bytes[start as usize..end as usize]).collect()
        }
        None => vec![bytes],
    }
}
