//! [`RemoteError`]: why a remote source cannot be fetched.

use std::path::PathBuf;

use olmo_base::{Diagnose, PathError};

/// Why a remote source cannot be fetched. Each message names the source or the file.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The source is malformed, or does not fit its use.
    #[error("`{source_text}`: {why}")]
    Form { source_text: String, why: String },
    /// The connection failed, every time.
    #[error("{url}: {why}{}", after_attempts(.attempts))]
    Unreachable { url: String, why: String, attempts: u32 },
    /// The server responded with an error.
    #[error("{url}: the server responded with {status}{}", excerpt(.text))]
    Status { url: String, status: u16, text: String, token: bool },
    /// The server asks to wait longer than the limit.
    #[error("{url}: too many requests (429); the server asks to wait {seconds} seconds")]
    TooOften { url: String, seconds: u64 },
    /// The server's response is invalid.
    #[error("{url}: {why}")]
    Answer { url: String, why: String },
    /// A redirect that is not allowed.
    #[error("{url}: redirected to {to}: {why}")]
    Redirect { url: String, to: String, why: String },
    /// The connection ended early, every time.
    #[error("{url}: received only {there} of {expected} bytes{}", after_attempts(.attempts))]
    Half { url: String, there: u64, expected: u64, attempts: u32 },
    /// A file above the size limit.
    #[error("{what}: {size} bytes exceed the limit of {most}")]
    TooLarge { what: String, size: u64, most: u64 },
    /// The size of a file differs from the expected one.
    #[error("{what}: has {found} bytes, expected {expected}")]
    Size { what: String, found: u64, expected: u64 },
    /// The content of a file differs from the expected one.
    #[error("{what}: its {kind} is {found}, expected {expected}")]
    Digest { what: String, kind: &'static str, found: String, expected: String },
    /// A file that is read by range changed on its server.
    #[error("{url}: it changed on the server: its ETag was {expected}, and now it has {found}")]
    Changed { url: String, found: String, expected: String },
    /// The source contains no matching file.
    #[error("`{source_text}`: {why}")]
    NoFiles { source_text: String, why: String },
    /// A server sent an unsafe file name.
    #[error("`{source_text}` contains the file `{path}`: {why}")]
    Path { source_text: String, path: String, why: &'static str },
    /// pip could not be started, or failed.
    #[error("`{source_text}`: {why}")]
    Pip { source_text: String, why: String, missing: bool },
    /// A wheel is unreadable, or lacks the file.
    #[error("{wheel}: {why}")]
    Wheel { wheel: String, why: String, near: Option<String> },
    /// Not enough free space.
    #[error("{}: needs {needed} more bytes, but only {free} are free", .path.display())]
    NoRoom { path: PathBuf, needed: u64, free: u64 },
    #[error(transparent)]
    Io(#[from] PathError),
}

fn after_attempts(attempts: &u32) -> String {
    if *attempts > 1 { format!(", after {attempts} attempts") } else { String::new() }
}

fn excerpt(text: &str) -> String {
    let line: String = text.trim().chars().take(200).flat_map(char::escape_debug).collect();
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

impl Diagnose for RemoteError {
    fn code(&self) -> &'static str {
        match self {
            Self::Form { .. } => "remote::form",
            Self::Unreachable { .. } => "remote::unreachable",
            Self::Status { status: 401 | 403, .. } => "remote::forbidden",
            Self::Status { status: 404 | 410, .. } => "remote::not_found",
            Self::Status { .. } => "remote::status",
            Self::TooOften { .. } => "remote::too_often",
            Self::Answer { .. } => "remote::answer",
            Self::Redirect { .. } => "remote::redirect",
            Self::Half { .. } => "remote::half",
            Self::TooLarge { .. } => "remote::too_large",
            Self::Size { .. } => "remote::size",
            Self::Digest { .. } => "remote::digest",
            Self::Changed { .. } => "remote::changed",
            Self::NoFiles { .. } => "remote::no_files",
            Self::Path { .. } => "remote::path",
            Self::Pip { .. } => "remote::pip",
            Self::Wheel { .. } => "remote::wheel",
            Self::NoRoom { .. } => "remote::no_space",
            Self::Io(error) if error.is_no_space() => "remote::no_space",
            Self::Io(_) => "remote::io",
        }
    }

    fn hint(&self) -> Option<String> {
        let again = "run the same command again to continue the download";
        Some(match self {
            Self::Unreachable { why, .. } if why.contains("certificate") => {
                "its certificate is not trusted: if it comes from your own proxy or server, set SSL_CERT_FILE to a file with \
                 your certificates"
                    .to_owned()
            }
            Self::Unreachable { .. } => {
                format!("check the network and its proxy (HTTPS_PROXY), then {again}")
            }
            Self::Half { .. } => again.to_owned(),
            Self::Status { status: 401 | 403, token: false, .. } => {
                "set HF_TOKEN to a token of your account, and accept the repository's terms on its page".to_owned()
            }
            Self::Status { status: 401 | 403, token: true, .. } => {
                "HF_TOKEN is set but gives no access: accept the repository's terms on its page, or use another token"
                    .to_owned()
            }
            Self::Status { status: 404 | 410, .. } => {
                "check the spelling; if the repository is private, set HF_TOKEN".to_owned()
            }
            Self::TooOften { seconds, .. } => format!("wait {seconds} seconds; {again}"),
            Self::TooLarge { .. } => "if this is intended, raise OLMO_PIPE_MAX_DOWNLOAD_GIB".to_owned(),
            Self::Size { .. } | Self::Digest { .. } | Self::Changed { .. } => {
                "the source changed, or the file was damaged in transit. If you want the new content, run `olmo-pipe lock FILE \
                 --update`"
                    .to_owned()
            }
            Self::Pip { missing: true, .. } => {
                "install Python's pip, or set its path in OLMO_PIPE_PIP (`OLMO_PIPE_PIP=\"/opt/python/bin/python3 -m pip\"`)"
                    .to_owned()
            }
            Self::Pip { .. } => "check pip's own settings: PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf".to_owned(),
            Self::Wheel { near: Some(near), .. } => format!("did you mean `{near}`?"),
            Self::NoRoom { .. } => format!("free some space there, or choose another `--store`; {again}"),
            Self::Io(error) if error.is_no_space() => format!("free some space there; {again}"),
            _ => return None,
        })
    }
}
