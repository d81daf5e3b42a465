//! Typed names of the things in a store. All are digests, and each kind has its own type, so that
//! the compiler refuses an artifact where an object or a key is expected.
//!
//! A [`Digest`] becomes an id only through `new`, at the place that knows what was hashed. An id
//! has the same text and JSON form as its digest.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// The id with this digest.
            pub const fn new(digest: Digest) -> Self {
                Self(digest)
            }

            /// Parses 64 lower-case hexadecimal digits.
            pub fn from_hex(text: &str) -> Result<Self, DigestError> {
                Digest::from_hex(text).map(Self)
            }

            /// The digest, without its meaning.
            pub const fn digest(&self) -> Digest {
                self.0
            }

            /// All 64 hexadecimal digits.
            pub fn hex(&self) -> String {
                self.0.hex()
            }

            /// The first twelve hexadecimal digits, for messages.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                Self::from_hex(text)
            }
        }
    };
}

define_id! {
    /// A file's bytes in the store: their BLAKE3 digest.
    ObjectId
}

define_id! {
    /// An artifact: the digest of its manifest. References, tags and ports name artifacts by it. A
    /// part of an artifact, such as `model/` of a checkpoint, is an artifact too.
    ArtifactId
}

define_id! {
    /// The cache key of a task: the digest of its key record. It names the task's action, lock and
    /// folder of unfinished work.
    ActionKey
}

impl ObjectId {
    /// The object with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Digest::of(bytes))
    }

    /// The object with all bytes of `reader`, and the number of bytes.
    pub fn of_reader(reader: &mut dyn Read) -> io::Result<(Self, u64)> {
        Digest::of_reader(reader).map(|(digest, size)| (Self(digest), size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_text_and_json_of_its_digest() {
        let digest = Digest::of(b"bytes");
        let id = ArtifactId::new(digest);
        assert_eq!((id.to_string(), id.hex(), id.short()), (digest.to_string(), digest.hex(), digest.short()));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, serde_json::to_string(&digest).unwrap());
        assert_eq!(serde_json::from_str::<ArtifactId>(&json).unwrap(), id);
        assert_eq!(id.hex().parse::<ArtifactId>().unwrap(), id);
        assert_eq!(format!("{id:?}"), format!("ArtifactId({})", digest.short()));
        assert_eq!(ObjectId::of(b"bytes").digest(), digest);
    }

    #[test]
    fn an_id_can_be_the_key_of_a_json_map() {
        let map = std::collections::BTreeMap::from([(ActionKey::new(Digest::of(b"key")), 1)]);
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(json, format!("{{\"{}\":1}}", Digest::of(b"key")));
        assert_eq!(serde_json::from_str::<std::collections::BTreeMap<ActionKey, i32>>(&json).unwrap(), map);
    }

    #[test]
    fn a_text_that_is_no_digest_is_no_id() {
        let error = "abc".parse::<ObjectId>().unwrap_err();
        assert_eq!(error.to_string(), "`abc` is not a digest: expected 64 hexadecimal digits in lower case");
        assert!(ActionKey::from_hex(&"A".repeat(64)).is_err());
    }
}
