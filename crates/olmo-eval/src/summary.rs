//! Metrics of a task: means of the scores of its instances, with standard errors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::request::Formulation;

/// A metric with its error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub value: f64,
    /// Standard error. Null if there are fewer than two instances.
    pub stderr: Option<f64>,
    /// Number of instances that the value is of.
    pub n: usize,
}

/// The metrics of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskMetrics {
    pub formulation: Formulation,
    /// Number of examples in the prompts, if known.
    pub shots: Option<usize>,
    /// Version of the task, if known.
    pub version: Option<String>,
    /// The metric that the task is judged by.
    #[serde(default)]
    pub primary: Option<String>,
    /// Number of instances in the requests.
    pub instances: usize,
    /// Instances without scores. No metric includes them.
    pub failed: usize,
    /// Instances whose prompt was cut at the beginning.
    pub truncated: usize,
    pub metrics: BTreeMap<String, Metric>,
}

/// The scores of an instance, and the sums for the metrics that are ratios of sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    pub scores: BTreeMap<&'static str, f64>,
    /// Nats of the correct text, and its lengths.
    pub ratio: Option<Lengths>,
    /// For F1: whether the model's answer and the correct one are choice 0.
    pub positive: Option<(bool, bool)>,
}

/// A text's negative log-likelihood and lengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    pub nats: f64,
    pub bytes: f64,
    /// Only for whole texts.
    pub words: Option<f64>,
}

/// The metrics of the instances that did not fail.
///
/// `bits_per_byte` is the mean over instances, or over all bytes for whole texts (as in
/// lm-evaluation-harness); `corpus_bits_per_byte` is over all bytes. Perplexities of whole texts are
/// over all bytes (words) too.
pub fn summarize(formulation: Formulation, samples: &[Sample]) -> BTreeMap<String, Metric> {
    let mut metrics = BTreeMap::new();
    let names: std::collections::BTreeSet<&'static str> =
        samples.iter().flat_map(|sample| sample.scores.keys().copied()).collect();
    if formulation != Formulation::Rolling {
        for name in names {
            let values: Vec<f64> = samples.iter().filter_map(|sample| sample.scores.get(name).copied()).collect();
            metrics.insert(name.to_owned(), mean(&values));
        }
    }
    let positive: Vec<(bool, bool)> = samples.iter().filter_map(|sample| sample.positive).collect();
    if !positive.is_empty() {
        // Without the space, the sums that are compared are the same.
        metrics.insert("f1_v1".into(), f1(&positive));
        metrics.insert("f1_v2".into(), f1(&positive));
    }
    if formulation == Formulation::Tokens
        && let Some(loss) = metrics.get("ce_loss").copied()
    {
        // As in OLMo: of the mean loss, not the mean of perplexities.
        metrics.insert("perplexity".into(), exponential(loss));
        return metrics;
    }
    let lengths: Vec<Lengths> = samples.iter().filter_map(|sample| sample.ratio).collect();
    if lengths.is_empty() {
        return metrics;
    }
    let nats: Vec<f64> = lengths.iter().map(|lengths| lengths.nats).collect();
    let per_byte = ratio(&nats, &lengths.iter().map(|lengths| lengths.bytes).collect::<Vec<_>>());
    let bits = scaled(per_byte, 1.0 / std::f64::consts::LN_2);
    if formulation != Formulation::Rolling {
        metrics.insert("corpus_bits_per_byte".into(), bits);
        return metrics;
    }
    metrics.insert("bits_per_byte".into(), bits);
    metrics.insert("byte_perplexity".into(), exponential(per_byte));
    let words: Vec<f64> = lengths.iter().filter_map(|lengths| lengths.words).collect();
    if words.len() == nats.len() {
        metrics.insert("word_perplexity".into(), exponential(ratio(&nats, &words)));
    }
    metrics
}

/// F1 of (answered, correct): twice the hits over all positive answers and labels. 0 without any.
fn f1(positive: &[(bool, bool)]) -> Metric {
    let number = |yes: bool| f64::from(u8::from(yes));
    let hits: Vec<f64> = positive.iter().map(|(answered, right)| 2.0 * number(*answered && *right)).collect();
    let all: Vec<f64> = positive.iter().map(|(answered, right)| number(*answered) + number(*right)).collect();
    if all.iter().sum::<f64>() == 0.0 {
        return Metric { value: 0.0, stderr: None, n: positive.len() };
    }
    ratio(&hits, &all)
}

/// The mean, with the standard error `s / sqrt(n)`; s is the sample's standard deviation (divisor
/// n - 1), as in lm-evaluation-harness.
pub fn mean(values: &[f64]) -> Metric {
    let n = values.len();
    let value = values.iter().sum::<f64>() / n.max(1) as f64;
    let squares: f64 = values.iter().map(|x| (x - value).powi(2)).sum();
    Metric { value, stderr: error(squares, n), n }
}

/// The standard error of a mean from the sum of squared deviations.
fn error(squares: f64, n: usize) -> Option<f64> {
    (n > 1).then(|| (squares / (n - 1) as f64 / n as f64).sqrt())
}

/// The ratio of two sums, with the standard error of the ratio estimator: that of the mean of
/// `x - ratio * y`, divided by the mean of y (Cochran, Sampling Techniques, 3rd ed., equation 6.13).
fn ratio(x: &[f64], y: &[f64]) -> Metric {
    let n = x.len();
    let total: f64 = y.iter().sum();
    let value = x.iter().sum::<f64>() / total;
    let squares: f64 = x.iter().zip(y).map(|(x, y)| (x - value * y).powi(2)).sum();
    Metric { value, stderr: error(squares, n).map(|error| error / (total / n as f64)), n }
}

fn scaled(metric: Metric, factor: f64) -> Metric {
    Metric { value: metric.value * factor, stderr: metric.stderr.map(|error| error * factor), ..metric }
}

/// `exp` of a metric, whose error grows by the derivative.
fn exponential(metric: Metric) -> Metric {
    let value = metric.value.exp();
    Metric { value, stderr: metric.stderr.map(|error| error * value), ..metric }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_mean_is_lm_evals() {
        let values: Vec<f64> = (0..24).map(|index| f64::from(u8::from(index < 14))).collect();
        let metric = mean(&values);
        // Its numbers for 14 of 24.
        assert!((metric.value - 0.583_333_333_333_333_4).abs() < 1e-15);
        assert!((metric.stderr.unwrap() - 0.102_798_992_457_326_86).abs() < 1e-15);
        assert_eq!(mean(&[1.0]).stderr, None);
    }

    #[test]
    fn the_error_of_a_ratio_is_0_if_all_texts_agree_and_that_of_a_mean_if_all_are_as_long() {
        let same = ratio(&[1.0, 2.0, 5.0], &[2.0, 4.0, 10.0]);
        assert_eq!((same.value, same.stderr), (0.5, Some(0.0)));
        let values = [1.0, 4.0, 2.5, 0.5];
        let (of_ratio, of_mean) = (ratio(&values.map(|x| 3.0 * x), &[3.0; 4]), mean(&values));
        assert!((of_ratio.stderr.unwrap() - of_mean.stderr.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn f1_counts_answers_of_choice_0() {
        let sample = |positive| Sample { positive: Some(positive), ..Sample::default() };
        let samples = [(true, true), (true, false), (false, true), (false, false), (true, true)].map(sample);
        let metrics = summarize(Formulation::MultipleChoice, &samples);
        // Precision and recall are 2/3.
        assert!((metrics["f1_v2"].value - 2.0 / 3.0).abs() < 1e-12);
        assert!(metrics["f1_v1"].stderr.unwrap() > 0.0 && metrics["f1_v1"].n == 5);
        let metrics = summarize(Formulation::MultipleChoice, &[(false, false)].map(sample));
        assert_eq!((metrics["f1_v2"].value, metrics["f1_v2"].stderr), (0.0, None));
    }

    #[test]
    fn rows_of_tokens_have_the_perplexity_of_their_mean_loss() {
        let sample = |loss: f64| Sample {
            scores: BTreeMap::from([("ce_loss", loss), ("perplexity", loss.exp())]),
            ..Sample::default()
        };
        let metrics = summarize(Formulation::Tokens, &[sample(1.0), sample(3.0)]);
        assert_eq!(metrics["ce_loss"].value, 2.0);
        assert!((metrics["perplexity"].value - 2f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn whole_texts_have_metrics_over_all_bytes() {
        let sample = |nats: f64, bytes: f64| Sample {
            scores: BTreeMap::from([("bits_per_byte", 9.0)]),
            ratio: Some(Lengths { nats, bytes, words: Some(1.0) }),
            positive: None,
        };
        let metrics = summarize(Formulation::Rolling, &[sample(1.0, 1.0), sample(1.0, 3.0)]);
        assert!((metrics["bits_per_byte"].value - 0.5 / std::f64::consts::LN_2).abs() < 1e-12);
        assert!((metrics["word_perplexity"].value - 1f64.exp()).abs() < 1e-12);
        let metrics = summarize(Formulation::Loglikelihood, &[sample(1.0, 1.0), sample(1.0, 3.0)]);
        assert_eq!(metrics["bits_per_byte"].value, 9.0);
        assert!(metrics.contains_key("corpus_bits_per_byte"));
    }
}
