//! [`Redactor`]: masks secrets in the output of a stage or its check program. Their values become
//! `***`, both in plain form and as escaped in JSON. A value in another encoding (base64, URLs) is
//! not recognized.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::exec::supervise::stage_log::StageLog;

/// The variable with the names of the secret variables, separated by commas. Set for the
/// supervisor.
pub(crate) const VARIABLE: &str = "OLMO_PIPE_SECRETS";
/// Replaces a secret.
const MASK: &[u8] = b"***";
/// Shortest value that is masked. Masking shorter ones would make logs unreadable without hiding
/// much.
const SHORTEST: usize = 4;
/// Longest part of an unfinished line that is held back.
const LONGEST_LINE: usize = 64 * 1024;

/// Masks secret values, longest first.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    values: Vec<Vec<u8>>,
}

impl Redactor {
    /// Masks the secrets that [`VARIABLE`] in this process's environment names.
    pub(crate) fn from_environment() -> Self {
        let names = std::env::var(VARIABLE).unwrap_or_default();
        Self::from_variables(names.split(','))
    }

    /// Masks the values of the environment variables `names` that are set.
    pub(crate) fn from_variables<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        Self::new(names.filter_map(std::env::var_os).map(|value| value.as_encoded_bytes().to_vec()))
    }

    fn new(values: impl Iterator<Item = Vec<u8>>) -> Self {
        // A secret of several lines may also be printed line by line.
        let parts = values.flat_map(|value| {
            let lines: Vec<Vec<u8>> = value.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
            std::iter::once(value).chain(lines)
        });
        let parts: Vec<Vec<u8>> = parts.filter(|part| part.len() >= SHORTEST).collect();
        let escaped: Vec<Vec<u8>> = parts.iter().flat_map(|part| json_forms(part)).collect();
        let mut values = [parts, escaped].concat();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// Returns the write end of a pipe whose content is copied to `log` without secrets, and the
    /// thread that copies it. The thread ends once all write ends are closed.
    pub(crate) fn redact_into(self: Arc<Self>, log: StageLog) -> io::Result<(File, JoinHandle<io::Result<()>>)> {
        let (reader, writer) = io::pipe()?;
        let writer: std::os::fd::OwnedFd = writer.into();
        let copier = std::thread::Builder::new().name("log".into());
        let copier = copier.spawn(move || {
            let mut log = log;
            self.copy_redacted(reader, |bytes| log.append(bytes))
        });
        let copier = copier.map_err(|e| {
            io::Error::new(e.kind(), format!("cannot start a thread: {e}; raise the limit (ulimit -u)"))
        })?;
        Ok((writer.into(), copier))
    }

    /// Returns `text` without secrets.
    pub(crate) fn redact_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.redact(text.as_bytes())).into_owned()
    }

    /// Copies everything from `from` to `to`, without secrets.
    fn copy_redacted(&self, mut from: impl Read, mut to: impl FnMut(&[u8])) -> io::Result<()> {
        let (mut kept, mut chunk) = (Vec::new(), [0; 16384]);
        loop {
            let count = match from.read(&mut chunk) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if self.values.is_empty() && count > 0 {
                to(&chunk[..count]);
                continue;
            }
            if count == 0 {
                to(&self.redact(&kept));
                return Ok(());
            }
            kept.extend_from_slice(&chunk[..count]);
            let whole = kept.iter().rposition(|&b| b == b'\n').map(|at| at + 1);
            if let Some(end) = whole {
                to(&self.redact(&kept[..end]));
                kept.drain(..end);
            } else if kept.len() > LONGEST_LINE {
                // The part that is held back may contain the start of a secret.
                let clean = self.redact(&kept);
                let stays = self.values.first().map_or(0, |longest| longest.len() - 1).min(clean.len());
                to(&clean[..clean.len() - stays]);
                kept = clean[clean.len() - stays..].to_vec();
            }
        }
    }

    fn redact(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            match self.values.iter().find(|value| text[at..].starts_with(value)) {
                Some(value) => {
                    out.extend_from_slice(MASK);
                    at += value.len();
                }
                None => {
                    out.push(text[at]);
                    at += 1;
                }
            }
        }
        out
    }
}

/// The forms of `value` in JSON that differ from it: with the required escapes, and with all
/// non-ASCII characters escaped, as Python and others do.
fn json_forms(value: &[u8]) -> Vec<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(value) else { return Vec::new() };
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let plain = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned();
    let ascii = |upper: bool| -> String {
        let mut escaped = String::new();
        for c in plain.chars() {
            if c.is_ascii() {
                escaped.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
            }
        }
        escaped
    };
    let slashes = plain.replace('/', "\\/");
    let forms = [ascii(false), ascii(true), slashes, plain.clone()];
    forms.into_iter().map(String::into_bytes).filter(|form| form != value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        Redactor::new(values.iter().map(|value| value.as_bytes().to_vec()))
    }

    /// A reader that returns a few bytes at a time.
    struct Slow<'t>(&'t [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_secret_is_masked_even_if_it_is_split_between_reads() {
        let redactor = redactor(&["s3cret", "s3cret-long", "abc"]);
        for step in 1..40 {
            let mut out = Vec::new();
            let text = b"x s3cret y\ns3cret-long abc s3cre\nno end s3cret";
            redactor.copy_redacted(Slow(text, step), |bytes| out.extend_from_slice(bytes)).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), "x *** y\n*** abc s3cre\nno end ***");
        }
    }

    #[test]
    fn an_endless_line_is_not_held_back_forever_and_leaks_nothing() {
        let redactor = redactor(&["0123456789"]);
        let mut text = vec![b'x'; LONGEST_LINE - 3];
        text.extend_from_slice(b"0123456789");
        text.extend(vec![b'y'; LONGEST_LINE]);
        let mut out = Vec::new();
        redactor.copy_redacted(Slow(&text, 5), |bytes| out.extend_from_slice(bytes)).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(!out.contains("0123456789") && out.contains("xxx***yyy"));
    }

    #[test]
    fn the_lines_of_a_key_are_masked_one_by_one() {
        let redactor = redactor(&["BEGIN\nabcdef\nEND"]);
        assert_eq!(redactor.redact(b"line abcdef END"), b"line *** END");
    }

    #[test]
    fn a_secret_is_masked_in_all_its_json_forms() {
        let redactor = redactor(&["pa\"ss\\wörd/😀\tx"]);
        let value = "pa\"ss\\wörd/😀\tx";
        let forms = [
            serde_json::to_string(value).unwrap(),
            r#""pa\"ss\\w\u00f6rd/\ud83d\ude00\tx""#.into(),
            r#""pa\"ss\\w\u00F6rd/\uD83D\uDE00\tx""#.into(),
            r#""pa\"ss\\wörd\/😀\tx""#.into(),
            format!("\"{value}\""),
        ];
        for form in forms {
            assert_eq!(redactor.redact_text(&form), "\"***\"", "{form}");
        }
    }
}
