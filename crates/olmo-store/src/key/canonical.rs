//! [`Encoder`]: the encoding of every digest that is not over a file's bytes. [`super`] specifies it;
//! a change makes a new format of keys and artifacts.

use olmo_base::{ArtifactId, Digest};
use serde_json::{Number, Value};

/// Hashes a sequence of values.
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// Starts a sequence. `what` separates digests of different kinds of things.
    pub(crate) fn new(what: &str) -> Self {
        let mut encoder = Self { bytes: Vec::with_capacity(256) };
        encoder.text(what);
        encoder
    }

    pub(crate) fn finish(self) -> Digest {
        Digest::of(&self.bytes)
    }

    fn length(&mut self, length: usize) {
        self.bytes.extend_from_slice(&(length as u64).to_le_bytes());
    }

    pub(crate) fn null(&mut self) {
        self.bytes.push(b'n');
    }

    pub(crate) fn integer(&mut self, value: i128) {
        self.bytes.push(b'i');
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes.push(b's');
        self.length(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn optional_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    pub(crate) fn digest(&mut self, digest: &Digest) {
        self.bytes.push(b'd');
        self.bytes.extend_from_slice(digest.as_bytes());
    }

    /// Encodes an artifact as its digest.
    pub(crate) fn artifact(&mut self, artifact: ArtifactId) {
        self.digest(&artifact.digest());
    }

    /// Starts a list of `count` values, which follow.
    pub(crate) fn list(&mut self, count: usize) {
        self.bytes.push(b'a');
        self.length(count);
    }

    /// Starts a map of `count` pairs of text and value, which follow in the order of the texts.
    pub(crate) fn map(&mut self, count: usize) {
        self.bytes.push(b'm');
        self.length(count);
    }

    /// Encodes a JSON value. A number without a form (see [`has_form`]) is encoded as its text.
    pub(crate) fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.null(),
            Value::Bool(b) => self.bytes.extend_from_slice(&[b'b', u8::from(*b)]),
            Value::Number(number) => match Form::of(number) {
                Some(Form::Whole(whole)) => self.integer(whole),
                Some(Form::Double(double)) => {
                    self.bytes.push(b'f');
                    self.bytes.extend_from_slice(&double.to_bits().to_le_bytes());
                }
                None => {
                    self.bytes.push(b'?');
                    self.text(&number.to_string());
                }
            },
            Value::String(text) => self.text(text),
            Value::Array(values) => {
                self.list(values.len());
                for v in values {
                    self.value(v);
                }
            }
            Value::Object(fields) => {
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_by_key(|(name, _)| name.as_str());
                self.map(sorted.len());
                for (name, value) in sorted {
                    self.text(name);
                    self.value(value);
                }
            }
        }
    }
}

/// The canonical form of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Whole(i128),
    Double(f64),
}

impl Form {
    fn of(number: &Number) -> Option<Self> {
        if let Some(n) = number.as_u64() {
            return Some(Self::Whole(n.into()));
        }
        if let Some(n) = number.as_i64() {
            return Some(Self::Whole(n.into()));
        }
        number.as_f64().and_then(Self::of_double)
    }

    fn of_double(double: f64) -> Option<Self> {
        const LARGEST: f64 = 18_446_744_073_709_551_616.0; // 2^64
        if !double.is_finite() {
            return None;
        }
        if double.fract() == 0.0 && double.abs() <= LARGEST {
            // Exact: every whole double of this magnitude fits, and -0.0 becomes 0.
            return Some(Self::Whole(double as i128));
        }
        Some(Self::Double(double))
    }
}

/// Whether `value` contains neither infinities nor NaN.
pub(super) fn has_form(value: &Value) -> bool {
    match value {
        Value::Number(number) => Form::of(number).is_some(),
        Value::Array(values) => values.iter().all(has_form),
        Value::Object(fields) => fields.values().all(has_form),
        _ => true,
    }
}

/// Whether two values are equal in a key: maps without order, numbers by value.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    let encode = |value: &Value| {
        let mut encoder = Encoder::new("");
        encoder.value(value);
        encoder.bytes
    };
    encode(a) == encode(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_number_has_one_form_whatever_its_spelling() {
        for spellings in [
            vec!["1", "1.0", "1e0", "10e-1", "1.000"],
            vec!["0", "-0", "-0.0", "0.0", "0e9"],
            vec!["-7", "-7.0", "-70e-1"],
            vec!["18446744073709551616", "18446744073709551616.0", "1.8446744073709551616e19"],
            vec!["1e-5", "0.00001", "1.0e-5", "10e-6"],
            vec!["1e300", "10e299"],
        ] {
            for other in &spellings {
                assert!(equal(&parse(spellings[0]), &parse(other)), "{} and {other}", spellings[0]);
            }
        }
        for (a, b) in [
            ("1", "-1"),
            ("1", "1.5"),
            ("9007199254740993", "9007199254740992"),
            ("1", "\"1\""),
            ("0", "null"),
            ("0", "false"),
            ("1", "true"),
        ] {
            assert!(!equal(&parse(a), &parse(b)), "{a} and {b}");
        }
    }

    #[test]
    fn infinities_and_nan_have_no_form() {
        assert_eq!(Form::of_double(f64::NAN), None);
        assert_eq!(Form::of_double(f64::INFINITY), None);
        assert_eq!(Form::of_double(f64::NEG_INFINITY), None);
        assert_eq!(Form::of_double(-0.0), Some(Form::Whole(0)));
        assert_eq!(Form::of_double(1e19), Some(Form::Whole(10_000_000_000_000_000_000)));
        assert_eq!(Form::of_double(1e20), Some(Form::Double(1e20)));
    }

    #[test]
    fn neighbours_do_not_run_into_each_other() {
        for (a, b) in [
            (json!(["ab", "c"]), json!(["a", "bc"])),
            (json!([[], []]), json!([[[]]])),
            (json!({"a": {}}), json!({"a": []})),
            (json!([["a"], "b"]), json!([["a", "b"]])),
            (json!({"a": null}), json!({})),
            (json!("é"), json!("e\u{301}")),
        ] {
            assert!(!equal(&a, &b), "{a} and {b}");
        }
        assert!(equal(&parse(r#"{"a":1,"b":{"x":1,"y":2}}"#), &parse(r#"{"b":{"y":2,"x":1},"a":1}"#)));
    }

    #[test]
    fn the_bytes_are_as_the_specification_says() {
        let mut encoder = Encoder::new("x");
        encoder.value(&json!({"b": [1, null], "a": 0.5}));
        let mut expected = b"s\x01\0\0\0\0\0\0\0x".to_vec();
        expected.extend_from_slice(b"m\x02\0\0\0\0\0\0\0");
        expected.extend_from_slice(b"s\x01\0\0\0\0\0\0\0af\0\0\0\0\0\0\xe0\x3f");
        expected.extend_from_slice(b"s\x01\0\0\0\0\0\0\0ba\x02\0\0\0\0\0\0\0i\x01");
        expected.extend_from_slice(&[0; 15]);
        expected.push(b'n');
        assert_eq!(encoder.bytes, expected);
    }
}
