//! Keeps secrets out of what a stage, or its checking program, prints: their values come out as
//! `***`, as they are and as text of JSON has them. A value that was encoded in another way
//! (base64, URLs) is not recognized.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::exec::supervise::stage_log::StageLog;

/// The variable that tells the supervisor which variables are secrets; their names, with commas.
pub const VARIABLE: &str = "OLMO_PIPE_SECRETS";
/// What stands for a secret.
const MASK: &[u8] = b"***";
/// A shorter value would blot out half of every log, and hides nothing.
const SHORTEST: usize = 4;
/// Of a line that does not end, so much is kept back before it is written.
const LONGEST_LINE: usize = 64 * 1024;

/// The values to look for, longest first.
#[derive(Debug, Default)]
pub struct Redactor {
    values: Vec<Vec<u8>>,
}

impl Redactor {
    /// For the secrets that [`VARIABLE`] names in this process's environment.
    pub fn from_environment() -> Self {
        let names = std::env::var(VARIABLE).unwrap_or_default();
        Self::of_variables(names.split(','))
    }

    /// For the values of the environment variables `names`, as far as they are set.
    pub fn of_variables<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        Self::new(names.filter_map(std::env::var_os).map(|value| value.as_encoded_bytes().to_vec()))
    }

    fn new(values: impl Iterator<Item = Vec<u8>>) -> Self {
        // A secret of several lines is printed line by line as well.
        let parts = values.flat_map(|value| {
            let lines: Vec<Vec<u8>> = value.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
            std::iter::once(value).chain(lines)
        });
        let parts: Vec<Vec<u8>> = parts.filter(|part| part.len() >= SHORTEST).collect();
        let escaped: Vec<Vec<u8>> = parts.iter().flat_map(|part| in_json(part)).collect();
        let mut values = [parts, escaped].concat();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// Where a process is to print so that `log` gets it without secrets, and what carries it
    /// there; it ends when nobody holds the place to print any more.
    pub fn before(self: Arc<Self>, log: StageLog) -> io::Result<(File, JoinHandle<io::Result<()>>)> {
        let (reader, writer) = io::pipe()?;
        let writer: std::os::fd::OwnedFd = writer.into();
        let carrier = std::thread::Builder::new().name("log".into());
        let carrier = carrier.spawn(move || {
            let mut log = log;
            self.carry(reader, |bytes| log.append(bytes))
        });
        let carrier = carrier.map_err(|e| {
            io::Error::new(e.kind(), format!("cannot start a thread: {e}; raise the limit (ulimit -u)"))
        })?;
        Ok((writer.into(), carrier))
    }

    /// `text` without secrets.
    pub fn redact_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.redact(text.as_bytes())).into_owned()
    }

    /// Hands on all that `from` gives, without secrets.
    fn carry(&self, mut from: impl Read, mut to: impl FnMut(&[u8])) -> io::Result<()> {
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
                // A secret may have begun in what stays.
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

/// How `value` stands in text of JSON, if that differs: with escapes where there must be, and with
/// all that is not ASCII escaped, as Python and others do it.
fn in_json(value: &[u8]) -> Vec<Vec<u8>> {
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

    /// Gives a few bytes at a time.
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
    fn a_secret_is_masked_wherever_reads_cut_it() {
        let redactor = redactor(&["s3cret", "s3cret-long", "abc"]);
        for step in 1..40 {
            let mut out = Vec::new();
            let text = b"x s3cret y\ns3cret-long abc s3cre\nno end s3cret";
            redactor.carry(Slow(text, step), |bytes| out.extend_from_slice(bytes)).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), "x *** y\n*** abc s3cre\nno end ***");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever_and_leaks_nothing() {
        let redactor = redactor(&["0123456789"]);
        let mut text = vec![b'x'; LONGEST_LINE - 3];
        text.extend_from_slice(b"0123456789");
        text.extend(vec![b'y'; LONGEST_LINE]);
        let mut out = Vec::new();
        redactor.carry(Slow(&text, 5), |bytes| out.extend_from_slice(bytes)).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(!out.contains("0123456789") && out.contains("xxx***yyy"));
    }

    #[test]
    fn the_lines_of_a_key_are_masked_one_by_one() {
        let redactor = redactor(&["BEGIN\nabcdef\nEND"]);
        assert_eq!(redactor.redact(b"line abcdef END"), b"line *** END");
    }

    #[test]
    fn a_secret_is_masked_as_json_has_it() {
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
