//! [`Digest`]: a BLAKE3-256 digest. The names of objects, artifacts and keys have types of their own
//! ([`crate::id`]).

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A BLAKE3-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that is not a [`Digest`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a digest: expected 64 hexadecimal digits in lower case")]
pub struct DigestError(String);

/// Hashes the bytes that are written to it.
#[derive(Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// The digest of all bytes written so far.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Digest {
    /// Creates a hasher.
    pub fn hasher() -> Hasher {
        Hasher::default()
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of all bytes of `reader`, and the number of bytes.
    pub fn of_reader(reader: &mut dyn Read) -> io::Result<(Self, u64)> {
        let mut hasher = blake3::Hasher::new();
        // The buffer fits into the L2 cache together with the state of the hasher.
        let mut buffer = vec![0u8; 1 << 17];
        let mut size = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok((Self(*hasher.finalize().as_bytes()), size)),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    size += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The digest and size in bytes of the file at `path`.
    pub fn of_file(path: &Path) -> io::Result<(Self, u64)> {
        // Opening a FIFO must not block, and a device may be endless.
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let file_type = file.metadata()?.file_type();
        if !file_type.is_file() {
            let message = format!("it is {}, not a regular file", crate::files::kind_name(file_type));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Self::of_reader(&mut file)
    }

    /// Parses 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let bytes = text.as_bytes();
        let mut out = [0u8; 32];
        let nibble = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        if bytes.len() != 64 {
            return Err(DigestError(text.into()));
        }
        for (i, o) in out.iter_mut().enumerate() {
            match (nibble(bytes[2 * i]), nibble(bytes[2 * i + 1])) {
                (Some(h), Some(l)) => *o = h << 4 | l,
                _ => return Err(DigestError(text.into())),
            }
        }
        Ok(Self(out))
    }

    /// All 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The first twelve hexadecimal digits, for messages.
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Two hexadecimal digits for each byte.
fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::from_hex(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::from_hex(&text).map_err(serde::de::Error::custom)
    }
}
