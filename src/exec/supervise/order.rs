//! [`Order`]: the command that a supervisor has to start. The engine writes it to the supervisor's
//! standard input, so that no argument in the process table names the store or the stage's program.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// Longest order in bytes. Operating systems accept fewer bytes of arguments.
const LONGEST: usize = 64 << 20;

/// The command to start, and the place for its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub place: Place,
    /// How many bytes of the output are kept.
    pub log_limit: u64,
    pub argv: Vec<OsString>,
}

/// Where a process reads its input and writes its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The folder of an attempt: no input, and a log for the output.
    Attempt(PathBuf),
    /// Open file descriptors for standard input, output and error.
    Files([RawFd; 3]),
}

impl Order {
    /// Writes the order to `pipe`. Nothing else may be written to it afterwards.
    pub(super) fn send(&self, pipe: &mut impl Write) -> io::Result<()> {
        let place = match &self.place {
            Place::Attempt(folder) => vec![b"attempt".to_vec(), folder.as_os_str().as_bytes().to_vec()],
            Place::Files(files) => vec![b"files".to_vec(), files.map(|file| file.to_string()).join(" ").into_bytes()],
        };
        let argv = self.argv.iter().map(|argument| argument.as_bytes().to_vec());
        let words: Vec<Vec<u8>> =
            place.into_iter().chain([self.log_limit.to_string().into_bytes()]).chain(argv).collect();
        let mut text = Vec::new();
        for word in &words {
            text.extend_from_slice(&word_length(word.len())?);
            text.extend_from_slice(word);
        }
        pipe.write_all(&word_length(text.len())?)?;
        pipe.write_all(&text)
    }

    /// Reads an order.
    pub(super) fn receive(pipe: &mut impl Read) -> io::Result<Self> {
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut length = [0; 4];
        pipe.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST {
            return Err(broken("the order is too long"));
        }
        let mut text = vec![0; length];
        pipe.read_exact(&mut text)?;
        let mut words = Vec::new();
        let mut rest = text.as_slice();
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*head) as usize;
            let word = tail.get(..length).ok_or_else(|| broken("the order is truncated"))?;
            words.push(OsString::from_vec(word.to_vec()));
            rest = &tail[length..];
        }
        let mut words = words.into_iter();
        let kind = words.next().unwrap_or_default();
        let place = words.next().unwrap_or_default();
        let numbers: Vec<RawFd> =
            place.to_str().unwrap_or_default().split(' ').filter_map(|number| number.parse().ok()).collect();
        let place = match (kind.as_bytes(), numbers.as_slice()) {
            (b"attempt", _) => Place::Attempt(place.into()),
            (b"files", &[input, output, error]) => Place::Files([input, output, error]),
            _ => return Err(broken("the order names no place")),
        };
        let limit = words.next().and_then(|limit| limit.to_str()?.parse().ok());
        let log_limit = limit.ok_or_else(|| broken("the order has no log limit"))?;
        let argv: Vec<OsString> = words.collect();
        if argv.is_empty() {
            return Err(broken("the order names no program"));
        }
        Ok(Self { place, log_limit, argv })
    }
}

fn word_length(length: usize) -> io::Result<[u8; 4]> {
    let length = u32::try_from(length).ok().filter(|length| *length as usize <= LONGEST);
    Ok(length.ok_or_else(|| io::Error::other("the arguments are too long"))?.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_received_as_sent_and_a_truncated_one_is_an_error() {
        let argv = vec!["/bin/sh".into(), String::new().into(), OsString::from_vec(b"\xff\n x".to_vec())];
        for place in [Place::Attempt("/a b/c".into()), Place::Files([3, 4, 17])] {
            let order = Order { place, log_limit: 7, argv: argv.clone() };
            let mut text = Vec::new();
            order.send(&mut text).unwrap();
            assert_eq!(Order::receive(&mut text.as_slice()).unwrap(), order);
            for end in 0..text.len() {
                assert!(Order::receive(&mut &text[..end]).is_err(), "{end}");
            }
        }
    }
}
