//! The key of a stage: a digest over everything that can change its result, and nothing else.
//!
//! [`KeyRecord`] has the parts in readable form; [`KeyRecord::digest`] is the key; [`diff`] returns the
//! fields in which two keys differ. Two stages with the same key are the same work.
//!
//! # Encoding
//!
//! A digest is BLAKE3-256 over a sequence of values, each with a tag byte before it. Lengths and
//! counts are unsigned 64-bit numbers, little-endian.
//!
//! | value | bytes |
//! |---|---|
//! | null | `n` |
//! | false, true | `b` 0, `b` 1 |
//! | integer | `i`, then 16 bytes, two's complement, little-endian |
//! | other number | `f`, then the 8 bytes of the IEEE 754 double, little-endian |
//! | text | `s`, length in bytes, UTF-8 as it is (no normalisation) |
//! | digest | `d`, 32 bytes |
//! | list | `a`, count, the values |
//! | map | `m`, count, for each name in the order of its bytes: text, value |
//!
//! A number has one form, whatever its spelling: if it is a whole number of magnitude up to 2^64
//! it is an integer (`1`, `1.0`, `1e0` are equal, and `-0.0` is `0`), else a double. Infinities
//! and NaN have no form and are refused by [`KeyRecord::new`].
//!
//! Each sequence begins with a text that names its kind. A key record is
//! `text("olmo-pipe.key")`, then format (integer), stage (text), version (integer), params (map),
//! inputs (map of port to a list of lists [label: text or null, digest]), backend (text or null),
//! precision (text or null), and command (null, or a list: argv (list of texts), files (map of
//! path to digest), environment (map of name to digest)).

mod canonical;
mod difference;
mod params;
mod record;

pub use difference::{FieldChange, diff};
pub use record::{CommandKey, KeyError, KeyInput, KeyRecord};

pub(crate) use canonical::Encoder;
