//! [`GgufValue`]: the metadata of a GGUF file.

/// A value of a GGUF file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    Uint8(u8),
    Int8(i8),
    Uint16(u16),
    Int16(i16),
    Uint32(u32),
    Int32(i32),
    Float32(f32),
    Bool(bool),
    String(String),
    Uint64(u64),
    Int64(i64),
    Float64(f64),
    /// A list of strings.
    Strings(Vec<String>),
    /// A list of i32.
    Int32s(Vec<i32>),
    /// A list of bools.
    Bools(Vec<bool>),
    /// A list of other values, all of the same type.
    Others(Vec<GgufValue>),
}

impl GgufValue {
    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            GgufValue::Uint8(value) => Some(value.into()),
            GgufValue::Uint16(value) => Some(value.into()),
            GgufValue::Uint32(value) => Some(value.into()),
            GgufValue::Uint64(value) => Some(value),
            GgufValue::Int8(value) => value.try_into().ok(),
            GgufValue::Int16(value) => value.try_into().ok(),
            GgufValue::Int32(value) => value.try_into().ok(),
            GgufValue::Int64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// A number. An f32 counts as the shortest decimal number that it is nearest to: 1e-5 stays 1e-5.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            GgufValue::Float32(value) => value.to_string().parse().ok(),
            GgufValue::Float64(value) => Some(value),
            _ => self.as_u64().map(|value| value as f64),
        }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            GgufValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            GgufValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The value for messages, shortened.
    pub(crate) fn shown(&self) -> String {
        let text = format!("{self:?}");
        match text.char_indices().nth(60) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// Numbers of the types in a file.
pub(super) mod types {
    pub(crate) const UINT8: u32 = 0;
    pub(crate) const INT8: u32 = 1;
    pub(crate) const UINT16: u32 = 2;
    pub(crate) const INT16: u32 = 3;
    pub(crate) const UINT32: u32 = 4;
    pub(crate) const INT32: u32 = 5;
    pub(crate) const FLOAT32: u32 = 6;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const STRING: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
    pub(crate) const UINT64: u32 = 10;
    pub(crate) const INT64: u32 = 11;
    pub(crate) const FLOAT64: u32 = 12;
}

impl GgufValue {
    /// The number of its type.
    fn type_number(&self) -> u32 {
        match self {
            GgufValue::Uint8(_) => types::UINT8,
            GgufValue::Int8(_) => types::INT8,
            GgufValue::Uint16(_) => types::UINT16,
            GgufValue::Int16(_) => types::INT16,
            GgufValue::Uint32(_) => types::UINT32,
            GgufValue::Int32(_) => types::INT32,
            GgufValue::Float32(_) => types::FLOAT32,
            GgufValue::Bool(_) => types::BOOL,
            GgufValue::String(_) => types::STRING,
            GgufValue::Uint64(_) => types::UINT64,
            GgufValue::Int64(_) => types::INT64,
            GgufValue::Float64(_) => types::FLOAT64,
            GgufValue::Strings(_) | GgufValue::Int32s(_) | GgufValue::Bools(_) | GgufValue::Others(_) => types::ARRAY,
        }
    }

    /// Appends the value with its type, as in a file.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.type_number().to_le_bytes());
        self.write_bare(bytes);
    }

    fn write_bare(&self, bytes: &mut Vec<u8>) {
        let mut list = |element: u32, length: usize| {
            bytes.extend(element.to_le_bytes());
            bytes.extend((length as u64).to_le_bytes());
        };
        match self {
            GgufValue::Uint8(value) => bytes.push(*value),
            GgufValue::Int8(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Uint16(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Int16(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Uint32(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Int32(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Float32(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Bool(value) => bytes.push(u8::from(*value)),
            GgufValue::String(text) => write_text(text, bytes),
            GgufValue::Uint64(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Int64(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Float64(value) => bytes.extend(value.to_le_bytes()),
            GgufValue::Strings(texts) => {
                list(types::STRING, texts.len());
                for text in texts {
                    write_text(text, bytes);
                }
            }
            GgufValue::Int32s(values) => {
                list(types::INT32, values.len());
                for value in values {
                    bytes.extend(value.to_le_bytes());
                }
            }
            GgufValue::Bools(values) => {
                list(types::BOOL, values.len());
                bytes.extend(values.iter().map(|value| u8::from(*value)));
            }
            GgufValue::Others(values) => {
                list(values.first().map_or(types::UINT8, GgufValue::type_number), values.len());
                for value in values {
                    value.write_bare(bytes);
                }
            }
        }
    }
}

/// Appends a text with its length.
pub(super) fn write_text(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
