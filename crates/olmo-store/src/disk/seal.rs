//! JSON files with a checksum over every byte: manifests, action entries, index rows and recorded
//! experiments.
//!
//! The text is `{"checksum":"HEX","body":BODY}` and a newline, and the checksum is over the
//! kind of file, its name and the exact text of BODY. So a flipped bit, a truncation and a file
//! under another name are all detected.

use olmo_base::Digest;

use crate::key::Encoder;

const PREFIX: &str = "{\"checksum\":\"";
const MIDDLE: &str = "\",\"body\":";
const SUFFIX: &str = "}\n";

fn checksum(kind: &str, name: &str, body: &str) -> Digest {
    let mut encoder = Encoder::new("olmo-pipe.seal");
    encoder.text(kind);
    encoder.text(name);
    encoder.text(body);
    encoder.finish()
}

/// The text of a file of `kind` named `name` that holds the JSON text `body`.
pub fn seal(kind: &str, name: &str, body: &str) -> String {
    format!("{PREFIX}{}{MIDDLE}{body}{SUFFIX}", checksum(kind, name, body))
}

/// The body of a sealed file, or why it is damaged.
pub fn open<'t>(kind: &str, name: &str, text: &'t [u8]) -> Result<&'t str, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_at_checked(64));
    let Some((sum, rest)) = parts else { return Err("its head is damaged") };
    let body = rest.strip_prefix(MIDDLE).and_then(|b| b.strip_suffix(SUFFIX)).ok_or("it is cut or damaged")?;
    if checksum(kind, name, body).hex() == sum { Ok(body) } else { Err("its checksum does not hold") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let text = seal("action", "abc", "{\"a\":1}").into_bytes();
        assert_eq!(open("action", "abc", &text), Ok("{\"a\":1}"));
        assert!(open("action", "abd", &text).is_err(), "another name");
        assert!(open("manifest", "abc", &text).is_err(), "another kind");
        for bit in 0..text.len() * 8 {
            let mut bad = text.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open("action", "abc", &bad).is_err(), "bit {bit}");
        }
        for end in 0..text.len() {
            assert!(open("action", "abc", &text[..end]).is_err(), "cut at {end}");
        }
    }
}
