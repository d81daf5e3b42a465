//! Keeps secrets out of a stage's log: what the stage prints goes through here when its contract
//! names secrets, and their values come out as `***`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread::JoinHandle;

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
        let values = names.split(',').filter_map(std::env::var_os);
        Self::new(values.map(|value| value.as_encoded_bytes().to_vec()))
    }

    fn new(values: impl Iterator<Item = Vec<u8>>) -> Self {
        // A secret of several lines is printed line by line as well.
        let parts = values.flat_map(|value| {
            let lines: Vec<Vec<u8>> = value.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
            std::iter::once(value).chain(lines)
        });
        let mut values: Vec<Vec<u8>> = parts.filter(|part| part.len() >= SHORTEST).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values.dedup();
        Self { values }
    }

    /// Where the stage is to print so that `log` gets no secret, and what carries it there; it
    /// ends when nobody holds the place to print any more. Without secrets that is `log` itself.
    pub fn before(self, log: File) -> io::Result<(File, Option<JoinHandle<io::Result<()>>>)> {
        if self.values.is_empty() {
            return Ok((log, None));
        }
        let (reader, writer) = io::pipe()?;
        let writer: std::os::fd::OwnedFd = writer.into();
        Ok((writer.into(), Some(std::thread::spawn(move || self.carry(reader, log)))))
    }

    /// Copies all that `from` gives, without secrets.
    fn carry(&self, mut from: impl Read, mut to: impl Write) -> io::Result<()> {
        let (mut kept, mut chunk) = (Vec::new(), [0; 8192]);
        loop {
            let count = match from.read(&mut chunk) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if count == 0 {
                return to.write_all(&self.redact(&kept));
            }
            kept.extend_from_slice(&chunk[..count]);
            let whole = kept.iter().rposition(|&b| b == b'\n').map(|at| at + 1);
            if let Some(end) = whole {
                to.write_all(&self.redact(&kept[..end]))?;
                kept.drain(..end);
            } else if kept.len() > LONGEST_LINE {
                // A secret may have begun in what stays.
                let clean = self.redact(&kept);
                let stays = self.values.first().map_or(0, |longest| longest.len() - 1).min(clean.len());
                to.write_all(&clean[..clean.len() - stays])?;
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
            redactor.carry(Slow(b"x s3cret y\ns3cret-long abc s3cre\nno end s3cret", step), &mut out).unwrap();
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
        redactor.carry(Slow(&text, 5), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(!out.contains("0123456789") && out.contains("xxx***yyy"));
    }

    #[test]
    fn the_lines_of_a_key_are_masked_one_by_one() {
        let redactor = redactor(&["BEGIN\nabcdef\nEND"]);
        assert_eq!(redactor.redact(b"line abcdef END"), b"line *** END");
    }
}
