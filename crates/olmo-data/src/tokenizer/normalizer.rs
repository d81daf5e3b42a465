//! [`Normalizer`]: what a tokenizer does to a text before it splits it.

use serde_json::Value;
use unicode_normalization_alignments::{IsNormalized, is_nfc_quick};

/// The normaliser of a tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Normalizer {
    None,
    Nfc,
    Other,
}

impl Normalizer {
    /// The normaliser that a `tokenizer.json` describes so.
    pub(super) fn of(described: &Value) -> Self {
        match described {
            Value::Null => Self::None,
            normalizer if normalizer["type"] == "NFC" => Self::Nfc,
            _ => Self::Other,
        }
    }

    /// Whether `text` surely stays as it is. Some texts that stay are not recognised.
    pub(super) fn keeps(self, text: &str) -> bool {
        match self {
            Self::None => true,
            Self::Nfc => is_nfc(text),
            Self::Other => false,
        }
    }
}

fn is_nfc(text: &str) -> bool {
    let mut rest = text;
    // ASCII characters combine with nothing before them.
    while let Some(start) = first_above(rest.as_bytes()) {
        let end = rest.as_bytes()[start..].iter().position(u8::is_ascii).map_or(rest.len(), |at| start + at);
        if is_nfc_quick(rest[start..end].chars()) != IsNormalized::Yes {
            return false;
        }
        rest = &rest[end..];
    }
    true
}

/// The place of the first character from U+0300 on, the first that NFC may change. In UTF-8 it
/// begins with a byte from 0xcc on.
fn first_above(bytes: &[u8]) -> Option<usize> {
    // The compiler takes the largest of many bytes at once, but finds the first one by one.
    const MANY: usize = 64;
    let near = bytes.chunks(MANY).position(|chunk| chunk.iter().fold(0, |most, byte| most.max(*byte)) >= 0xcc)? * MANY;
    bytes[near..].iter().position(|byte| *byte >= 0xcc).map(|at| near + at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_normalization_alignments::UnicodeNormalization as _;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn what_is_said_to_stay_stays(text in "(\\PC|[a-zé\u{300}\u{301}\u{37e}\u{1112}\u{1161}\u{11a8}\u{ac00}\u{212a}漢 ]){0,12}") {
            let normal: String = text.nfc().map(|(c, _)| c).collect();
            prop_assert!(!Normalizer::Nfc.keeps(&text) || normal == text);
        }
    }

    #[test]
    fn plain_text_of_many_languages_is_recognised() {
        for text in [
            "",
            "plain",
            "na\u{ef}ve caf\u{e9}",
            "Ελληνικά",
            "Русский",
            "العربية",
            "漢字かな",
            "한국어",
            "“quotes” – 🦀",
        ] {
            assert!(Normalizer::Nfc.keeps(text), "{text}");
        }
        for text in ["e\u{301}", "\u{301}", "\u{37e}", "\u{1112}\u{1161}", "\u{212a}"] {
            assert!(!Normalizer::Nfc.keeps(text), "{text}");
        }
    }
}
