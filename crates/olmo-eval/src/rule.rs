//! The metrics of ai2-olmo-eval.
//!
//! | metric | definition, for the log-likelihood L of each choice |
//! |---|---|
//! | `acc` | L of the correct choice is the largest |
//! | `len_norm` | the same for L / characters |
//! | `pmi_dc` | the same for L minus the log-likelihood after a prompt without the question |
//! | `f1` | F1 of the answers "choice 0" |
//! | `ce_loss` | -L / characters of the correct choice |
//! | `bpb` | -L / (bytes * ln 2) of the correct choice |
//! | `soft`, `soft_log` | the correct choice's softmax over the values that are compared, and its logarithm |
//!
//! `_v2` counts all characters and bytes of a choice; `_v1` leaves out the first character, usually a
//! space.
//!
//! With [`Rule::compat`], faults of version 0.9.0 are kept: `_v1` of `acc` and `len_norm` is
//! `_v2` (the package computes both from the same list), and `pmi_dc` compares the ratio of the two
//! log-likelihoods, which is also its `ce_loss` and `bpb`.

use serde::{Deserialize, Serialize};

use crate::score::{Scored, Scores, largest};
use crate::text::characters;

/// The metric that a task is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    Acc,
    LenNorm,
    PmiDc,
    F1,
    CeLoss,
    Bpb,
}

/// How a question is scored, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub metric: Metric,
    /// Keeps the faults of ai2-olmo-eval 0.9.0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compat: bool,
    /// Number of examples in the prompt, if the label says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    /// The package and its version.
    pub version: String,
    /// For `pmi_dc`: the prompt without the question, for each choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unconditional: Vec<String>,
}

impl Metric {
    pub const ALL: [Self; 6] = [Self::Acc, Self::LenNorm, Self::PmiDc, Self::F1, Self::CeLoss, Self::Bpb];

    /// Its name in the package.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::LenNorm => "len_norm",
            Self::PmiDc => "pmi_dc",
            Self::F1 => "f1",
            Self::CeLoss => "ce_loss",
            Self::Bpb => "bpb",
        }
    }

    /// The score by which a model is judged: the metric by the OLMES standard.
    pub fn primary(self) -> &'static str {
        match self {
            Self::Acc => "acc_v2",
            Self::LenNorm => "len_norm_v2",
            Self::PmiDc => "pmi_dc_v2",
            Self::F1 => "f1_v2",
            Self::CeLoss => "ce_loss_v2",
            Self::Bpb => "bpb_v2",
        }
    }

    /// Whether only the correct choice is scored.
    pub fn is_of_one_choice(self) -> bool {
        matches!(self, Self::CeLoss | Self::Bpb)
    }
}

/// The values of one version.
struct Version {
    /// What is compared, for each choice.
    compared: Vec<f64>,
    ce_loss: f64,
    bpb: f64,
}

fn version(rule: &Rule, choices: &[Scored], gold: usize, first: usize) -> Version {
    let chars = |choice: &Scored| (characters(&choice.text) - first.min(characters(&choice.text))).max(1) as f64;
    let bytes = |choice: &Scored| {
        let start = choice.text.char_indices().nth(first).map_or(choice.text.len(), |(at, _)| at);
        (choice.text.len() - start).max(1) as f64
    };
    let unconditional = |choice: &Scored| choice.unconditional.unwrap_or(0.0);
    let compared = |choice: &Scored| match rule.metric {
        Metric::Acc | Metric::F1 => choice.sum_logits,
        Metric::LenNorm | Metric::CeLoss | Metric::Bpb => choice.sum_logits / chars(choice),
        Metric::PmiDc if rule.compat => choice.sum_logits / unconditional(choice),
        Metric::PmiDc => choice.sum_logits - unconditional(choice),
    };
    let compared: Vec<f64> = choices.iter().map(compared).collect();
    let right = choices.get(gold);
    let (ce_loss, bpb) = match right {
        Some(_) if rule.metric == Metric::PmiDc && rule.compat => (-compared[gold], -compared[gold]),
        Some(right) => ((0.0 - right.sum_logits) / chars(right), right.bits() / bytes(right)),
        None => (f64::NAN, f64::NAN),
    };
    Version { compared, ce_loss, bpb }
}

/// The package's metrics of one question. All log-likelihoods must be finite. `f1` is a metric of
/// all questions together ([`crate::summary::Sample::positive`]).
pub fn scores(rule: &Rule, choices: &[Scored], gold: usize) -> Scores {
    let with_space = version(rule, choices, gold, 0);
    let without_space = version(rule, choices, gold, 1);
    let mut scores = Scores::from([
        ("ce_loss_v1", without_space.ce_loss),
        ("ce_loss_v2", with_space.ce_loss),
        ("bpb_v1", without_space.bpb),
        ("bpb_v2", with_space.bpb),
    ]);
    if choices.len() < 2 {
        return scores;
    }
    let names = match rule.metric {
        Metric::Acc => ("acc_v1", "acc_v2"),
        Metric::LenNorm => ("len_norm_v1", "len_norm_v2"),
        Metric::PmiDc => ("pmi_dc_v1", "pmi_dc_v2"),
        Metric::F1 | Metric::CeLoss | Metric::Bpb => return scores,
    };
    let is_right = |version: &Version| f64::from(u8::from(largest(version.compared.iter().copied()) == Some(gold)));
    scores.insert(names.0, is_right(if rule.compat { &with_space } else { &without_space }));
    scores.insert(names.1, is_right(&with_space));
    for (version, soft, soft_log) in
        [(&without_space, "soft_v1", "soft_log_v1"), (&with_space, "soft_v2", "soft_log_v2")]
    {
        let log = log_softmax(&version.compared, gold);
        scores.insert(soft, log.exp());
        scores.insert(soft_log, log);
    }
    scores
}

/// The logarithm of the softmax of `values` at `index`.
fn log_softmax(values: &[f64], index: usize) -> f64 {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = values.iter().map(|value| (value - most).exp()).sum();
    values.get(index).map_or(f64::NAN, |value| value - most - sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(metric: Metric, compat: bool) -> Rule {
        Rule { metric, compat, shots: None, version: String::new(), unconditional: Vec::new() }
    }

    fn scored(text: &str, sum_logits: f64, unconditional: f64) -> Scored {
        Scored {
            text: text.into(),
            sum_logits,
            num_tokens: 1,
            num_tokens_all: 2,
            is_greedy: false,
            unconditional: Some(unconditional),
        }
    }

    #[test]
    fn version_1_leaves_out_the_space_and_the_package_compares_only_version_2() {
        // Per character: -0.5 and -0.52; without the space: -1 and -0.65.
        let choices = [scored(" a", -1.0, -1.0), scored(" bcde", -2.6, -4.0)];
        let found = scores(&rule(Metric::LenNorm, false), &choices, 0);
        assert_eq!((found["len_norm_v1"], found["len_norm_v2"]), (0.0, 1.0));
        let found = scores(&rule(Metric::LenNorm, true), &choices, 0);
        assert_eq!((found["len_norm_v1"], found["len_norm_v2"]), (1.0, 1.0));
        assert_eq!((found["ce_loss_v1"], found["ce_loss_v2"]), (1.0, 0.5));
        assert!((found["bpb_v1"] - 1.0 / std::f64::consts::LN_2).abs() < 1e-12);
        assert!((found["soft_v2"] - 1.0 / (1.0 + (-0.02f64).exp())).abs() < 1e-12);
        assert!((found["soft_log_v2"] - found["soft_v2"].ln()).abs() < 1e-12);
    }

    #[test]
    fn mutual_information_is_a_difference_and_in_the_package_a_ratio() {
        // Differences: 0 and 1.4. Ratios: 1 and 0.65.
        let choices = [scored(" a", -1.0, -1.0), scored(" bcde", -2.6, -4.0)];
        assert_eq!(scores(&rule(Metric::PmiDc, false), &choices, 1)["pmi_dc_v2"], 1.0);
        let found = scores(&rule(Metric::PmiDc, true), &choices, 0);
        assert_eq!((found["pmi_dc_v2"], found["ce_loss_v2"], found["bpb_v1"]), (1.0, -1.0, -1.0));
    }

    #[test]
    fn a_single_choice_has_losses_only_and_a_single_character_is_not_divided_by_zero() {
        let found = scores(&rule(Metric::Bpb, false), &[scored("x", -1.0, 0.0)], 0);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["bpb_v1", "bpb_v2", "ce_loss_v1", "ce_loss_v2"]);
        assert_eq!(found["bpb_v1"], found["bpb_v2"]);
    }
}
