//! [`Normalizer`]: named changes of a text before it is compared.

use serde::{Deserialize, Serialize};

use crate::text::is_space;

/// A change of both the answer and the correct answer before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalizer {
    /// Removes whitespace at both ends.
    Strip,
    /// Lower case, as `ignore_case` of lm-evaluation-harness.
    IgnoreCase,
    /// Removes ASCII punctuation, as `ignore_punctuation` of lm-evaluation-harness.
    IgnorePunctuation,
    /// Removes ASCII digits, as `ignore_numbers` of lm-evaluation-harness.
    IgnoreNumbers,
    /// SQuAD's: lower case, no ASCII punctuation, no articles, single spaces.
    Squad,
    /// Keeps the last number, without thousands separators, a trailing point or zeros after the
    /// decimal point. A text without a number becomes empty and equals nothing.
    LastNumber,
    /// Keeps the first line that is not empty.
    FirstLine,
}

impl Normalizer {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Strip,
        Self::IgnoreCase,
        Self::IgnorePunctuation,
        Self::IgnoreNumbers,
        Self::Squad,
        Self::LastNumber,
        Self::FirstLine,
    ];

    /// Its name in params.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strip => "strip",
            Self::IgnoreCase => "ignore_case",
            Self::IgnorePunctuation => "ignore_punctuation",
            Self::IgnoreNumbers => "ignore_numbers",
            Self::Squad => "squad",
            Self::LastNumber => "last_number",
            Self::FirstLine => "first_line",
        }
    }

    /// The changed text; `None` if the text has nothing to compare.
    pub fn apply(self, text: &str) -> Option<String> {
        let without = |drop: fn(char) -> bool| text.chars().filter(|c| !drop(*c)).collect::<String>();
        Some(match self {
            Self::Strip => text.trim_matches(is_space).to_owned(),
            Self::IgnoreCase => text.to_lowercase(),
            Self::IgnorePunctuation => without(|c| c.is_ascii_punctuation()),
            Self::IgnoreNumbers => without(|c| c.is_ascii_digit()),
            Self::Squad => squad(text),
            Self::LastNumber => return last_number(text),
            Self::FirstLine => text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned(),
        })
    }
}

/// Whether `answer` equals one of `gold` after `normalizers`, applied in order.
pub fn exact_match(answer: &str, gold: &[String], normalizers: &[Normalizer]) -> bool {
    let normal = |text: &str| normalizers.iter().try_fold(text.to_owned(), |text, change| change.apply(&text));
    let Some(answer) = normal(answer) else { return false };
    gold.iter().any(|gold| normal(gold).is_some_and(|gold| gold == answer))
}

fn squad(text: &str) -> String {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let words = text.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

fn last_number(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let last = bytes.iter().rposition(u8::is_ascii_digit)?;
    let in_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b',');
    let mut start = bytes[..last].iter().rposition(|byte| !in_number(byte)).map_or(0, |before| before + 1);
    // A point belongs to the number unless more of them, or a comma, come before it.
    if !(bytes[start] == b'.' && bytes[start + 1].is_ascii_digit()) {
        start += bytes[start..].iter().take_while(|byte| !byte.is_ascii_digit()).count();
    }
    let negative = text[..start].ends_with('-') && !text[..start - 1].ends_with(|c: char| c.is_ascii_digit());
    let number: String = text[start..=last].chars().filter(|c| *c != ',').collect();
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    Some(format!("{}{number}", if negative { "-" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_normaliser_has_the_name_that_params_use() {
        for normalizer in Normalizer::ALL {
            assert_eq!(serde_json::to_value(normalizer).unwrap(), normalizer.name());
        }
    }

    #[test]
    fn texts_are_changed_as_described() {
        for (normalizer, text, changed) in [
            (Normalizer::Strip, " a b\n", "a b"),
            (Normalizer::IgnoreCase, "The ÉCOLE", "the école"),
            (Normalizer::IgnorePunctuation, "a, b! – c", "a b – c"),
            (Normalizer::IgnoreNumbers, "a 12 b", "a  b"),
            (Normalizer::Squad, " The  cat's an   Apple. ", "cats apple"),
            (Normalizer::LastNumber, "3 apples, so $1,234.50 in all.", "1234.5"),
            (Normalizer::LastNumber, "it is -7.", "-7"),
            (Normalizer::LastNumber, "10-7", "7"),
            (Normalizer::LastNumber, "100", "100"),
            (Normalizer::LastNumber, "x=.5", ".5"),
            (Normalizer::LastNumber, "so ...12", "12"),
            (Normalizer::FirstLine, "\n \nYes.\nNo.", "Yes."),
        ] {
            assert_eq!(normalizer.apply(text).as_deref(), Some(changed), "{normalizer:?} of {text:?}");
        }
        assert_eq!(Normalizer::LastNumber.apply("none"), None);
    }

    #[test]
    fn an_answer_matches_any_correct_one_and_nothing_equals_nothing() {
        let gold = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert!(exact_match(" b ", &gold(&["a", "B"]), &[Normalizer::Strip, Normalizer::IgnoreCase]));
        assert!(!exact_match(" b ", &gold(&["b"]), &[]));
        assert!(!exact_match("none", &gold(&["no number"]), &[Normalizer::LastNumber]));
        assert!(!exact_match("", &[], &[]));
    }
}
