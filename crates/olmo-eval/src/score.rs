//! Scores of an instance, from what the model returned.
//!
//! | score | definition |
//! |---|---|
//! | `acc` | 1 if the correct choice has the largest log-likelihood |
//! | `acc_per_char`, `acc_per_token` | the same, divided by the choice's characters, or by its scored tokens (at least 1) |
//! | `acc_norm`, `acc_bytes` | the same, divided by the choice's characters (bytes) without the space that lm-eval puts before it |
//! | `greedy` | 1 if the correct choice is the model's greedy continuation |
//! | `bits_per_byte` | of the correct choice: `-log-likelihood / (bytes * ln 2)` |
//! | `perplexity` | of the correct choice: `exp(-log-likelihood / tokens)` |
//! | `exact_match` | 1 if the answer equals a correct one |
//!
//! Of equal choices, the first one counts as the largest. A choice without tokens of its own (it
//! merged into the context) has a log-likelihood of 0, but is never the largest.
//!
//! Characters and bytes are those of the continuation as given, without whitespace that moved from
//! the context; tokens include it. The first three and `bits_per_byte` are olmo-eval's, `acc_norm` and
//! `acc_bytes` lm-eval's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::normalize::{self, Normalizer};
use crate::text::{characters, words};

/// What a model returned for a text to score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The continuation as given.
    pub text: String,
    /// The natural logarithm of its probability.
    pub sum_logits: f64,
    /// Number of tokens scored.
    pub num_tokens: usize,
    /// Number of tokens of the request after truncation.
    pub num_tokens_all: usize,
    /// Whether every token is the model's most likely one.
    pub is_greedy: bool,
    /// Its log-likelihood after a prompt without the question, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconditional: Option<f64>,
}

/// What a model generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Without special tokens, up to the first stop sequence.
    pub text: String,
    /// Number of tokens generated, including those of a stop sequence.
    pub num_tokens: usize,
}

/// Scores by name.
pub type Scores = BTreeMap<&'static str, f64>;

impl Scored {
    /// Number of bytes of the text in UTF-8, at least 1.
    pub fn bytes(&self) -> usize {
        self.text.len().max(1)
    }

    /// The negative log-likelihood in bits.
    pub fn bits(&self) -> f64 {
        // Not `-0.0` for a continuation without tokens.
        (0.0 - self.sum_logits) / std::f64::consts::LN_2
    }

    /// Log-likelihood per character.
    pub fn per_char(&self) -> f64 {
        self.sum_logits / characters(&self.text).max(1) as f64
    }

    /// Log-likelihood per scored token.
    pub fn per_token(&self) -> f64 {
        self.sum_logits / self.num_tokens.max(1) as f64
    }

    /// The text without the space before it.
    fn without_space(&self) -> &str {
        self.text.strip_prefix(' ').unwrap_or(&self.text)
    }
}

/// The index of the largest value; the first of equal ones.
pub(crate) fn largest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, value) in values.enumerate() {
        if best.is_none_or(|(_, most)| value > most) {
            best = Some((index, value));
        }
    }
    best.map(|(index, _)| index)
}

/// Scores of a choice. All log-likelihoods must be finite.
pub fn choose(choices: &[Scored], gold: usize) -> Scores {
    let is_best = |value: &dyn Fn(&Scored) -> f64| -> f64 {
        let value = |choice: &Scored| if choice.num_tokens > 0 { value(choice) } else { f64::NEG_INFINITY };
        f64::from(u8::from(largest(choices.iter().map(value)) == Some(gold)))
    };
    let mut scores = Scores::new();
    if choices.len() > 1 {
        scores.insert("acc", is_best(&|choice| choice.sum_logits));
        scores.insert("acc_per_char", is_best(&Scored::per_char));
        scores.insert("acc_per_token", is_best(&Scored::per_token));
        let norm = |choice: &Scored| choice.sum_logits / characters(choice.without_space()).max(1) as f64;
        scores.insert("acc_norm", is_best(&norm));
        let bytes = |choice: &Scored| choice.sum_logits / choice.without_space().len().max(1) as f64;
        scores.insert("acc_bytes", is_best(&bytes));
    }
    if let Some(choice) = choices.get(gold) {
        scores.insert("greedy", f64::from(u8::from(choice.is_greedy)));
        scores.insert("bits_per_byte", choice.bits() / choice.bytes() as f64);
        scores.insert("perplexity", (0.0 - choice.per_token()).exp());
    }
    scores
}

/// Scores of a whole text.
pub fn roll(text: &Scored) -> Scores {
    let nats = 0.0 - text.sum_logits;
    Scores::from([
        ("bits_per_byte", text.bits() / text.bytes() as f64),
        ("byte_perplexity", (nats / text.bytes() as f64).exp()),
        ("word_perplexity", (nats / words(&text.text) as f64).exp()),
    ])
}

/// Scores of a row of tokens: the mean loss over its tokens.
pub fn tokens(row: &Scored) -> Scores {
    let loss = 0.0 - row.per_token();
    Scores::from([("ce_loss", loss), ("perplexity", loss.exp())])
}

/// Scores of an answer; none if no correct answer is known.
pub fn generate(answer: &Answer, gold: &[String], normalizers: &[Normalizer]) -> Scores {
    if gold.is_empty() {
        return Scores::new();
    }
    let right = normalize::exact_match(&answer.text, gold, normalizers);
    Scores::from([("exact_match", f64::from(u8::from(right)))])
}

/// `text` up to the first of `stop_sequences` in it.
pub fn cut_at_stop<'a>(text: &'a str, stop_sequences: &[String]) -> &'a str {
    let first = stop_sequences.iter().filter_map(|stop| text.find(stop.as_str())).min();
    &text[..first.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(text: &str, sum_logits: f64, num_tokens: usize) -> Scored {
        Scored {
            text: text.into(),
            sum_logits,
            num_tokens,
            num_tokens_all: num_tokens + 1,
            is_greedy: false,
            unconditional: None,
        }
    }

    #[test]
    fn each_score_divides_by_its_own_length_and_the_first_of_equals_wins() {
        let choices = [scored(" ab", -2.0, 2), scored("éé", -2.0, 1), scored(" a", -1.9, 1)];
        let right = |gold: usize, name: &str| choose(&choices, gold)[name] == 1.0;
        assert!(right(2, "acc"));
        // -0.667, -1, -0.95.
        assert!(right(0, "acc_per_char"));
        // -1, -2, -1.9.
        assert!(right(0, "acc_per_token"));
        // -1, -1, -1.9: the first.
        assert!(right(0, "acc_norm") && !right(1, "acc_norm"));
        // -1, -0.5, -1.9.
        assert!(right(1, "acc_bytes"));
        let bits = choose(&choices, 1)["bits_per_byte"];
        assert!((bits - 2.0 / (4.0 * std::f64::consts::LN_2)).abs() < 1e-12);
    }

    #[test]
    fn a_continuation_that_has_merged_away_has_likelihood_one_and_is_never_the_best() {
        let nothing = Scored { is_greedy: true, ..scored("x", 0.0, 0) };
        let scores = choose(&[nothing.clone(), scored("y", -1.0, 1)], 0);
        assert_eq!((scores["greedy"], scores["perplexity"]), (1.0, 1.0));
        assert!(
            ["acc", "acc_per_char", "acc_per_token", "acc_norm", "acc_bytes"].iter().all(|name| scores[name] == 0.0)
        );
        assert_eq!(choose(&[nothing.clone(), scored("y", -1.0, 1)], 1)["acc"], 1.0);
        assert!(scores["bits_per_byte"] == 0.0 && scores["bits_per_byte"].is_sign_positive());
        assert!(!choose(&[nothing], 0).contains_key("acc"));
    }

    #[test]
    fn an_answer_ends_before_the_earliest_stop_sequence() {
        let stops = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(cut_at_stop("a. b? c", &stops(&["?", "."])), "a");
        assert_eq!(cut_at_stop("a", &stops(&["?"])), "a");
        assert_eq!(cut_at_stop("?a", &stops(&["?"])), "");
        assert!(generate(&Answer { text: "a".into(), num_tokens: 1 }, &[], &[]).is_empty());
    }
}
