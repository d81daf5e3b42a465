//! [`Header`]: everything in a GGUF file but its tensors' elements.
//!
//! The file is untrusted: every count is checked against the bytes that are there before memory is
//! reserved for it.

use std::collections::BTreeMap;
use std::ops::Range;

use olmo_ops::BlockType;
use olmo_pickle::DType;

use super::value::{GgufValue, types};
use crate::formats::tensors::Encoding;

/// The first bytes of a file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensors in a file that does not name another one.
pub(super) const ALIGNMENT: usize = 32;
/// The key that names another alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
/// Largest number of dimensions of a tensor.
const MOST_DIMENSIONS: u32 = 4;

/// Largest number of elements of a list whose elements take more memory than they have in the file.
const MOST_OTHERS: usize = 1 << 22;

/// Metadata by key, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(String, GgufValue)>);

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// All keys with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Adds a key at the end.
    pub fn push(&mut self, key: impl Into<String>, value: GgufValue) {
        self.0.push((key.into(), value));
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<(String, GgufValue)> for Metadata {
    fn extend<T: IntoIterator<Item = (String, GgufValue)>>(&mut self, entries: T) {
        self.0.extend(entries);
    }
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorInfo {
    pub encoding: Encoding,
    /// Rows first: reversed, compared with the file.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// Metadata and tensors of a file.
#[derive(Debug)]
pub(crate) struct Header {
    pub metadata: Metadata,
    pub tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Reads the header of the file with the content `bytes`.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence that begins with its name.
    pub(crate) fn read(bytes: &[u8]) -> Result<Header, String> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.array::<4>().ok() != Some(MAGIC) {
            return Err("is not a GGUF file: it does not begin with `GGUF`".into());
        }
        match cursor.u32()? {
            2 | 3 => {}
            version if version.swap_bytes() <= 3 => {
                return Err("is a big-endian GGUF file, which is not supported".into());
            }
            version => return Err(format!("has version {version} of GGUF; 2 and 3 are supported")),
        }
        let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
        let metadata = read_metadata(&mut cursor, keys)?;
        let alignment = match metadata.get(ALIGNMENT_KEY) {
            None => ALIGNMENT,
            Some(value) => {
                let alignment = value.as_u64().and_then(|value| usize::try_from(value).ok());
                let is_valid = |alignment: &usize| alignment.is_power_of_two() && (8..=1 << 16).contains(alignment);
                alignment.filter(is_valid).ok_or_else(|| format!("has `{ALIGNMENT_KEY}` {}", value.shown()))?
            }
        };
        let tensors = read_tensors(&mut cursor, tensors, alignment)?;
        Ok(Header { metadata, tensors })
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, String> {
    // A key has at least its length, its type and a byte of a value.
    let mut entries = Vec::with_capacity(cursor.count(count, 13, "metadata keys")?);
    let mut known = std::collections::HashSet::new();
    for _ in 0..count {
        let key = cursor.text()?;
        let value = cursor.value().map_err(|why| format!("{why} (in the value of `{}`)", key.escape_debug()))?;
        if !known.insert(key.clone()) {
            return Err(format!("has the metadata key `{}` twice", key.escape_debug()));
        }
        entries.push((key, value));
    }
    Ok(Metadata(entries))
}

fn read_tensors(cursor: &mut Cursor<'_>, count: u64, alignment: usize) -> Result<BTreeMap<String, TensorInfo>, String> {
    let mut infos = Vec::with_capacity(cursor.count(count, 24, "tensors")?);
    for _ in 0..count {
        let name = cursor.text()?;
        let about = |why: String| format!("has a tensor `{}` {why}", name.escape_debug());
        let dimensions = cursor.u32()?;
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            return Err(about(format!("with {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let length = cursor.u64()?;
            shape.push(usize::try_from(length).map_err(|_| about(format!("with a dimension of {length}")))?);
        }
        let encoding = encoding(cursor.u32()?).map_err(&about)?;
        let offset = cursor.u64()?;
        let size =
            encoding.bytes(&shape).ok_or_else(|| about(format!("of shape {shape:?}, which has no whole blocks")))?;
        shape.reverse();
        infos.push((name, encoding, shape, offset, size));
    }
    // A file without tensors may end here.
    let start = cursor.at.next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, encoding, shape, offset, size) in infos {
        let about = |why: &str| format!("has a tensor `{}` {why}", name.escape_debug());
        let first = usize::try_from(offset).ok().filter(|offset| offset.is_multiple_of(alignment));
        let first = first.ok_or_else(|| about("that is not aligned"))?;
        let range = start.checked_add(first).and_then(|first| Some(first..first.checked_add(size)?));
        let range = range.filter(|range| range.end <= cursor.bytes.len());
        let range = range.ok_or_else(|| about("that lies beyond the end of the file, which may be incomplete"))?;
        let twice = about("twice");
        if tensors.insert(name, TensorInfo { encoding, shape, range }).is_some() {
            return Err(twice);
        }
    }
    Ok(tensors)
}

/// Numbers of the types of tensors that can be read or are known by name.
fn encoding(number: u32) -> Result<Encoding, String> {
    let name = match number {
        0 => return Ok(DType::Float32.into()),
        1 => return Ok(DType::Float16.into()),
        2 => return Ok(BlockType::Q4_0.into()),
        3 => return Ok(BlockType::Q4_1.into()),
        8 => return Ok(BlockType::Q8_0.into()),
        30 => return Ok(DType::Bfloat16.into()),
        6 => "q5_0",
        7 => "q5_1",
        9 => "q8_1",
        10 => "q2_k",
        11 => "q3_k",
        12 => "q4_k",
        13 => "q5_k",
        14 => "q6_k",
        15 => "q8_k",
        16..=23 | 29 => "an i-quant",
        24..=27 => "whole numbers",
        28 => "f64",
        _ => "an unknown type",
    };
    Err(format!("of type {number} ({name}); supported are f32, f16, bf16, q8_0, q4_0 and q4_1"))
}

/// The number of a tensor type.
pub(super) fn type_number(encoding: Encoding) -> u32 {
    match encoding {
        Encoding::Plain(DType::Float16) => 1,
        Encoding::Plain(DType::Bfloat16) => 30,
        Encoding::Plain(_) => 0,
        Encoding::Blocks(BlockType::Q4_0) => 2,
        Encoding::Blocks(BlockType::Q4_1) => 3,
        Encoding::Blocks(BlockType::Q8_0) => 8,
    }
}

/// Reads numbers and texts one after the other.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

const END: &str = "ends within its header";

impl<'b> Cursor<'b> {
    fn take(&mut self, length: u64) -> Result<&'b [u8], String> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or(END)?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N as u64)?;
        taken.try_into().map_err(|_| END.to_owned())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// `count`, if the rest of the file can hold that many things of at least `size` bytes.
    fn count(&self, count: u64, size: usize, what: &str) -> Result<usize, String> {
        let most = (self.bytes.len() - self.at) / size;
        let fits = usize::try_from(count).ok().filter(|count| *count <= most);
        fits.ok_or_else(|| format!("claims to have {count} {what}, more than it has room for"))
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "has a text that is not UTF-8")?;
        Ok(text.to_owned())
    }

    fn bool(&mut self) -> Result<bool, String> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("has a bool that is {other}")),
        }
    }

    fn value(&mut self) -> Result<GgufValue, String> {
        match self.u32()? {
            types::ARRAY => self.list(),
            other => self.value_of(other),
        }
    }

    fn value_of(&mut self, number: u32) -> Result<GgufValue, String> {
        Ok(match number {
            types::UINT8 => GgufValue::Uint8(u8::from_le_bytes(self.array()?)),
            types::INT8 => GgufValue::Int8(i8::from_le_bytes(self.array()?)),
            types::UINT16 => GgufValue::Uint16(u16::from_le_bytes(self.array()?)),
            types::INT16 => GgufValue::Int16(i16::from_le_bytes(self.array()?)),
            types::UINT32 => GgufValue::Uint32(self.u32()?),
            types::INT32 => GgufValue::Int32(i32::from_le_bytes(self.array()?)),
            types::FLOAT32 => GgufValue::Float32(f32::from_le_bytes(self.array()?)),
            types::BOOL => GgufValue::Bool(self.bool()?),
            types::STRING => GgufValue::String(self.text()?),
            types::UINT64 => GgufValue::Uint64(self.u64()?),
            types::INT64 => GgufValue::Int64(i64::from_le_bytes(self.array()?)),
            types::FLOAT64 => GgufValue::Float64(f64::from_le_bytes(self.array()?)),
            types::ARRAY => return Err("has a list of lists".into()),
            other => return Err(format!("has a value of type {other}, which is unknown")),
        })
    }

    fn list(&mut self) -> Result<GgufValue, String> {
        let element = self.u32()?;
        let length = self.u64()?;
        let size = match element {
            types::STRING | types::UINT64 | types::INT64 | types::FLOAT64 => 8,
            types::UINT32 | types::INT32 | types::FLOAT32 => 4,
            types::UINT16 | types::INT16 => 2,
            _ => 1,
        };
        let length = self.count(length, size, "elements of a list")?;
        let is_compact = matches!(element, types::STRING | types::INT32 | types::BOOL);
        if !is_compact && length > MOST_OTHERS {
            return Err(format!(
                "has a list of {length} values of type {element}, more than the {MOST_OTHERS} supported"
            ));
        }
        Ok(match element {
            types::STRING => GgufValue::Strings((0..length).map(|_| self.text()).collect::<Result<_, _>>()?),
            types::INT32 => {
                let read = |_| self.array().map(i32::from_le_bytes);
                GgufValue::Int32s((0..length).map(read).collect::<Result<_, _>>()?)
            }
            types::BOOL => GgufValue::Bools((0..length).map(|_| self.bool()).collect::<Result<_, _>>()?),
            other => GgufValue::Others((0..length).map(|_| self.value_of(other)).collect::<Result<_, _>>()?),
        })
    }
}
