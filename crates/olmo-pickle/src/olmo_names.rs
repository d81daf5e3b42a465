//! Names of tensors in the safetensors files that OLMo writes.
//!
//! OLMo flattens nested dicts. A name is the urlsafe base64 of the pickle of a pair: the keys that
//! lead to the tensor, and whether the tensor is really another value, pickled into bytes
//! (`olmo/safetensors_util.py`). OLMo itself executes these pickles when it reads them.

use crate::document::{Kind, Value};
use crate::error::{Error, shortened};
use crate::pickle::{Item, Protocol, parse, write};

/// The decoded name of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlmoName {
    /// The keys that lead to it from the outermost dict. Numbers are written in decimal.
    pub keys: Vec<String>,
    /// Whether its bytes are the pickle of another value.
    pub is_pickled: bool,
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Decodes urlsafe base64.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut number = 0u32;
        for digit in group {
            number = number << 6 | DIGITS.iter().position(|known| known == digit)? as u32;
        }
        // Four digits are three bytes; a shorter group has its bytes at the top.
        number <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&number.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let number = u32::from_be_bytes(padded);
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

impl OlmoName {
    /// Decodes a name.
    ///
    /// # Errors
    /// It is not such a name: the file has plain names, or is damaged.
    pub fn decode(name: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Error::invalid(format!("`{}` is not a name of OLMo's: {reason}", shortened(name)));
        let pickle = decode_base64(name).ok_or_else(|| bad("it is not base64"))?;
        let document = parse(&pickle).map_err(|error| bad(&error.to_string()))?;
        let root = document.root();
        let keys = root.item(0).filter(|keys| keys.kind() == Kind::Tuple && root.items().len() == 2);
        let is_pickled = root.item(1).and_then(Value::as_bool);
        let (Some(keys), Some(is_pickled)) = (keys, is_pickled) else {
            return Err(bad("it is not a pair of keys and a flag"));
        };
        let key = |value: Value<'_>| match value.kind() {
            Kind::Str(text) => Ok(text.to_owned()),
            Kind::Int(number) => Ok(number.to_string()),
            _ => Err(bad(&format!("a key is {}", value.describe()))),
        };
        Ok(Self { keys: keys.items().map(key).collect::<Result<_, _>>()?, is_pickled })
    }

    /// The name of a tensor that is reached by one key, as OLMo reads it.
    pub fn encode(key: &str) -> String {
        let pair = Item::Tuple(vec![Item::Tuple(vec![Item::text(key)]), Item::Bool(false)]);
        encode_base64(&write(&pair, Protocol::Four))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_olmo_wrote_are_decoded() {
        // By pickle.dumps and base64.urlsafe_b64encode of Python 3.11, as OLMo's encode_key does.
        for (name, keys, is_pickled) in [
            ("gASVHwAAAAAAAACMFnRyYW5zZm9ybWVyLnd0ZS53ZWlnaHSUhZSJhpQu", &["transformer.wte.weight"][..], false),
            ("gASVGgAAAAAAAACMBXN0YXRllEsDjAdleHBfYXZnlIeUiYaULg==", &["state", "3", "exp_avg"], false),
            ("gASVFQAAAAAAAACMDHBhcmFtX2dyb3Vwc5SFlIiGlC4=", &["param_groups"], true),
        ] {
            let decoded = OlmoName::decode(name).unwrap();
            assert_eq!(decoded.keys, keys);
            assert_eq!(decoded.is_pickled, is_pickled);
        }
        let name = OlmoName::encode("transformer.wte.weight");
        assert_eq!(OlmoName::decode(&name).unwrap().keys, ["transformer.wte.weight"]);
    }

    #[test]
    fn other_names_are_refused() {
        for (name, reason) in [
            ("model.embed_tokens.weight", "not base64"),
            ("AAAAA", "not base64"),
            ("AAAA", "no opcode"),
            ("gAROLg==", "not a pair"),
            ("", "ends within"),
        ] {
            let message = OlmoName::decode(name).unwrap_err().to_string();
            assert!(message.contains(reason), "{name}: {message}");
        }
    }

    #[test]
    fn base64_round_trips() {
        for length in 0..10u8 {
            let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(91).wrapping_add(200)).collect();
            assert_eq!(decode_base64(&encode_base64(&bytes)).unwrap(), bytes);
        }
        assert_eq!(encode_base64(b"\xff\xfe"), "__4=");
    }
}
