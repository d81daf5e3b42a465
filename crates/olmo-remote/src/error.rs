//! [`RemoteError`]: why a remote source could not be had.

use std::path::PathBuf;

use olmo_base::{Diagnose, PathError};

/// Why a remote source could not be had. Each message names the source or the file.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The source is not written right, or is not what is wanted.
    #[error("`{source_text}`: {why}")]
    Form { source_text: String, why: String },
    /// No connection, or one that broke again and again.
    #[error("{url}: {why}{}", after(.attempts))]
    Unreachable { url: String, why: String, attempts: u32 },
    /// The server's answer is an error.
    #[error("{url}: the server answers {status}{}", said(.text))]
    Status { url: String, status: u16, text: String, token: bool },
    /// The server asks to wait longer than is waited.
    #[error("{url}: the server is asked too often (429) and wants {seconds} seconds of peace")]
    TooOften { url: String, seconds: u64 },
    /// The server's answer makes no sense.
    #[error("{url}: {why}")]
    Answer { url: String, why: String },
    /// A redirect that is not followed.
    #[error("{url}: it is redirected to {to}: {why}")]
    Redirect { url: String, to: String, why: String },
    /// The connection ended early, again and again.
    #[error("{url}: only {there} of {expected} bytes came{}", after(.attempts))]
    Half { url: String, there: u64, expected: u64, attempts: u32 },
    /// A file that is larger than what is taken.
    #[error("{what}: {size} bytes are more than the {most} that are taken")]
    TooLarge { what: String, size: u64, most: u64 },
    /// A file has another size than was promised.
    #[error("{what}: it has {found} bytes, and {expected} were promised")]
    Size { what: String, found: u64, expected: u64 },
    /// A file has another content than was promised.
    #[error("{what}: its {kind} is {found}, and {expected} was promised")]
    Digest { what: String, kind: &'static str, found: String, expected: String },
    /// The source holds no file of those that are wanted.
    #[error("`{source_text}`: {why}")]
    NoFiles { source_text: String, why: String },
    /// A name from a server that is not used.
    #[error("`{source_text}` holds the file `{path}`: {why}")]
    Path { source_text: String, path: String, why: &'static str },
    /// pip could not be started, or failed.
    #[error("`{source_text}`: {why}")]
    Pip { source_text: String, why: String, missing: bool },
    /// A wheel that cannot be read, or lacks the file.
    #[error("{wheel}: {why}")]
    Wheel { wheel: String, why: String, near: Option<String> },
    /// Not enough room for what is to come.
    #[error("{}: {needed} bytes are to come, and {free} are free", .path.display())]
    NoRoom { path: PathBuf, needed: u64, free: u64 },
    #[error(transparent)]
    Io(#[from] PathError),
}

fn after(attempts: &u32) -> String {
    if *attempts > 1 { format!(", after {attempts} attempts") } else { String::new() }
}

fn said(text: &str) -> String {
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
        let again = "run the same command again: what has come stays and is gone on with";
        Some(match self {
            Self::Unreachable { why, .. } if why.contains("certificate") => {
                "its certificate is not trusted: if a proxy or a server of your own made it, name the certificates that are in \
                 SSL_CERT_FILE"
                    .to_owned()
            }
            Self::Unreachable { .. } => {
                format!("see that the network and its proxy (HTTPS_PROXY) work, and {again}")
            }
            Self::Half { .. } => again.to_owned(),
            Self::Status { status: 401 | 403, token: false, .. } => {
                "set HF_TOKEN to a token of your account, and accept the repository's terms on its page".to_owned()
            }
            Self::Status { status: 401 | 403, token: true, .. } => {
                "HF_TOKEN is set, but gives no access: accept the repository's terms on its page, or use another token"
                    .to_owned()
            }
            Self::Status { status: 404 | 410, .. } => {
                "look for a typing error; a private repository is not found either, unless HF_TOKEN is set".to_owned()
            }
            Self::TooOften { seconds, .. } => format!("wait {seconds} seconds; {again}"),
            Self::TooLarge { .. } => "if that is meant, set OLMO_PIPE_MAX_DOWNLOAD_GIB higher".to_owned(),
            Self::Size { .. } | Self::Digest { .. } => {
                "the source changed, or the file was damaged on its way. If the new content is meant, `olmo-pipe lock FILE \
                 --update` records it"
                    .to_owned()
            }
            Self::Pip { missing: true, .. } => {
                "install Python's pip, or name it in OLMO_PIPE_PIP (`OLMO_PIPE_PIP=\"/opt/python/bin/python3 -m pip\"`)"
                    .to_owned()
            }
            Self::Pip { .. } => "pip's own settings hold here: PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf".to_owned(),
            Self::Wheel { near: Some(near), .. } => format!("did you mean `{near}`?"),
            Self::NoRoom { .. } => format!("free some space there, or choose another `--store`; {again}"),
            Self::Io(error) if error.is_no_space() => format!("free some space there; {again}"),
            _ => return None,
        })
    }
}
