//! Paired comparison of two models on the same instances.
//!
//! Models that answer the same questions share the questions' difficulty, so the mean of the
//! differences by instance has a much smaller error than the difference of two means.

use std::collections::BTreeMap;

use olmo_base::SplitMix64;
use serde::Serialize;

use crate::summary::mean;

/// Number of resamples of a bootstrap, unless that takes more than [`MOST_DRAWS`] draws.
const RESAMPLES: usize = 10_000;
/// Fewest resamples.
const LEAST_RESAMPLES: usize = 1_000;
/// Maximum number of draws of a bootstrap with more than the fewest resamples.
const MOST_DRAWS: usize = 100_000_000;

/// Quantiles of the normal distribution: 97.5 % (two sides of 95 %) and 80 %.
const Z_975: f64 = 1.959_963_984_540_054;
const Z_80: f64 = 0.841_621_233_572_914_3;

/// Whether higher or lower values of a metric are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

impl Better {
    /// That of a metric's name: lower for perplexities, losses and bits per byte, else higher.
    pub fn of(metric: &str) -> Self {
        let is_loss = ["ce_loss", "bpb_v"].iter().any(|start| metric.starts_with(start));
        let is_low = is_loss || metric.ends_with("perplexity") || metric.ends_with("bits_per_byte");
        if is_low { Self::Lower } else { Self::Higher }
    }
}

/// Two models on the instances that both have a score of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub better: Better,
    /// Number of instances with a score of both models.
    pub n: usize,
    /// Instances with a score of the first (second) model only.
    pub only_a: usize,
    pub only_b: usize,
    /// Means over the n instances.
    pub mean_a: f64,
    pub mean_b: f64,
    /// Mean of the differences, second minus first.
    pub difference: f64,
    /// Its standard error. Null if there are fewer than two instances.
    pub stderr: Option<f64>,
    /// Its interval of 95 %: percentiles of a bootstrap over instances with a fixed seed.
    pub interval: Option<[f64; 2]>,
    /// Instances on which the second model is better, worse, and equal.
    pub wins: usize,
    pub losses: usize,
    pub ties: usize,
    /// Two-sided p-value of the exact sign test, without ties.
    pub sign_test: f64,
    /// `sign_test`, corrected for the number of comparisons made together (Holm). Equal to it for a
    /// single comparison.
    pub corrected: f64,
    /// The smallest true difference that n instances with this variance show in 80 % of cases at a
    /// level of 5 % (two-sided): `(1.96 + 0.84) * stderr`.
    pub detectable: Option<f64>,
}

/// Compares the scores of two models, by instance. `None` if they have no instance in common.
pub fn compare(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>, better: Better, seed: u64) -> Option<Comparison> {
    let pairs: Vec<(f64, f64)> = a.iter().filter_map(|(id, a)| Some((*a, *b.get(id)?))).collect();
    if pairs.is_empty() {
        return None;
    }
    let n = pairs.len();
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| b - a).collect();
    let difference = mean(&differences);
    let sign = if better == Better::Higher { 1.0 } else { -1.0 };
    let wins = differences.iter().filter(|difference| sign * **difference > 0.0).count();
    let losses = differences.iter().filter(|difference| sign * **difference < 0.0).count();
    let sign_test = sign_test(wins, losses);
    Some(Comparison {
        better,
        n,
        only_a: a.len() - n,
        only_b: b.len() - n,
        mean_a: pairs.iter().map(|(a, _)| a).sum::<f64>() / n as f64,
        mean_b: pairs.iter().map(|(_, b)| b).sum::<f64>() / n as f64,
        difference: difference.value,
        stderr: difference.stderr,
        interval: (n > 1).then(|| bootstrap(&differences, seed)),
        wins,
        losses,
        ties: n - wins - losses,
        sign_test,
        corrected: sign_test,
        detectable: difference.stderr.map(|error| (Z_975 + Z_80) * error),
    })
}

/// Percentiles 2.5 and 97.5 of the means of resamples.
fn bootstrap(values: &[f64], seed: u64) -> [f64; 2] {
    let n = values.len();
    let resamples = RESAMPLES.min(MOST_DRAWS / n).max(LEAST_RESAMPLES);
    let mut numbers = SplitMix64::new(seed);
    let mut draw = || ((u128::from(numbers.next_u64()) * n as u128) >> 64) as usize;
    let mut means: Vec<f64> = (0..resamples).map(|_| (0..n).map(|_| values[draw()]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    let percentile = |share: f64| means[((resamples - 1) as f64 * share).round() as usize];
    [percentile(0.025), percentile(0.975)]
}

/// The two-sided p-value of `wins` against `losses` if both are equally likely.
pub fn sign_test(wins: usize, losses: usize) -> f64 {
    let (count, fewer) = (wins + losses, wins.min(losses));
    let mut logarithm = -(count as f64) * std::f64::consts::LN_2;
    let mut tail = logarithm.exp();
    for index in 1..=fewer {
        logarithm += ((count - index + 1) as f64 / index as f64).ln();
        tail += logarithm.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Corrects the p-values of comparisons that are made together, by Holm's method: the k-th smallest
/// of m is multiplied by `m - k + 1`, and none becomes smaller than one before it.
pub fn correct(comparisons: &mut [&mut Comparison]) {
    comparisons.sort_by(|a, b| a.sign_test.total_cmp(&b.sign_test));
    let count = comparisons.len();
    let mut least = 0f64;
    for (index, comparison) in comparisons.iter_mut().enumerate() {
        least = least.max((comparison.sign_test * (count - index) as f64).min(1.0));
        comparison.corrected = least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f64]) -> BTreeMap<String, f64> {
        values.iter().enumerate().map(|(index, value)| (format!("q{index}"), *value)).collect()
    }

    #[test]
    fn the_sign_test_is_exact() {
        // 2 (1 + 10 + 45) / 1024.
        assert!((sign_test(8, 2) - 0.109_375).abs() < 1e-15 && sign_test(2, 8) == sign_test(8, 2));
        assert_eq!([sign_test(0, 0), sign_test(3, 3), sign_test(1, 0)], [1.0, 1.0, 1.0]);
        // Python: twice the sum of exp(lgamma(..) - ..) over the tail.
        assert!((sign_test(5200, 4800) - 6.593_515_598e-5).abs() < 1e-12, "{}", sign_test(5200, 4800));
    }

    #[test]
    fn instances_are_paired_by_id_and_lower_may_be_better() {
        let a = scores(&[1.0, 0.0, 1.0, 0.0, 1.0]);
        let mut b = scores(&[1.0, 1.0, 0.0, 1.0]);
        b.insert("other".into(), 1.0);
        let found = compare(&a, &b, Better::Higher, 0).unwrap();
        assert_eq!((found.n, found.only_a, found.only_b), (4, 1, 1));
        assert_eq!((found.mean_a, found.mean_b, found.difference), (0.5, 0.75, 0.25));
        assert_eq!((found.wins, found.losses, found.ties), (2, 1, 1));
        let lower = compare(&a, &b, Better::of("bits_per_byte"), 0).unwrap();
        assert_eq!((lower.wins, lower.losses), (1, 2));
        assert_eq!(compare(&a, &BTreeMap::new(), Better::Higher, 0), None);
        assert_eq!(Better::of("acc_norm"), Better::Higher);
    }

    #[test]
    fn the_interval_is_close_to_that_of_the_normal_distribution_and_the_same_every_time() {
        let mut numbers = SplitMix64::new(4);
        let mut coin = |share: u64| if numbers.next_u64() % 100 < share { 1.0 } else { 0.0 };
        let a = scores(&(0..2000).map(|_| coin(50)).collect::<Vec<_>>());
        let b = scores(&(0..2000).map(|_| coin(60)).collect::<Vec<_>>());
        let found = compare(&a, &b, Better::Higher, 7).unwrap();
        let (error, [low, high]) = (found.stderr.unwrap(), found.interval.unwrap());
        assert!((low - (found.difference - Z_975 * error)).abs() < 0.1 * error, "{low}");
        assert!((high - (found.difference + Z_975 * error)).abs() < 0.1 * error, "{high}");
        assert_eq!(compare(&a, &b, Better::Higher, 7).unwrap(), found);
        assert_ne!(compare(&a, &b, Better::Higher, 8).unwrap().interval, found.interval);
        assert!((found.detectable.unwrap() / error - 2.801_585).abs() < 1e-5);
    }

    #[test]
    fn several_comparisons_correct_each_other() {
        let with = |p: f64| {
            let comparison = compare(&scores(&[1.0]), &scores(&[1.0]), Better::Higher, 0).unwrap();
            Comparison { sign_test: p, ..comparison }
        };
        let mut all = [with(0.04), with(0.01), with(0.03), with(0.9)];
        correct(&mut all.iter_mut().collect::<Vec<_>>());
        let corrected: Vec<f64> = all.iter().map(|comparison| comparison.corrected).collect();
        for (got, want) in corrected.iter().zip([0.09, 0.04, 0.09, 0.9]) {
            assert!((got - want).abs() < 1e-12, "{corrected:?}");
        }
    }
}
