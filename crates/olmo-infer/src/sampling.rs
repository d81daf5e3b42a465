//! [`Sampling`]: how the next token is chosen.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use olmo_base::SplitMix64;
use olmo_model::ModelError;

/// How the next token is chosen. The default is greedy.
///
/// The filters apply in the order of `transformers`: repetition penalty, temperature, `top_k`,
/// `top_p`, `min_p`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits. 0 is greedy: always the most likely token (the lowest id if several
    /// are equally likely).
    pub temperature: f64,
    /// Only the k most likely tokens can be chosen; `None`: all.
    pub top_k: Option<usize>,
    /// Only the most likely tokens whose probabilities add up to this can be chosen (at least one);
    /// `None`: all.
    pub top_p: Option<f64>,
    /// Only tokens with at least this share of the largest probability can be chosen; `None`: all.
    pub min_p: Option<f64>,
    /// Divisor of the positive logits, and factor of the negative ones, of tokens that the prompt or
    /// the answer already has. 1 changes nothing.
    pub repetition_penalty: f64,
    /// A choice depends only on the seed and its [`Draw`], not on the prompts that are answered at
    /// the same time.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Which random numbers an answer uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// Index of the prompt.
    pub prompt: u64,
    /// Index of the answer among those to the same prompt.
    pub sample: u64,
}

impl Sampling {
    /// What is wrong with the values; `None` if they can be used.
    pub fn problem(&self) -> Option<String> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Some(format!("`temperature` is {} and must be 0 (greedy) or more", self.temperature));
        }
        if self.top_k == Some(0) {
            return Some("`top_k` is 0 and must be at least 1, or null for all tokens".into());
        }
        if let Some(top_p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Some(format!("`top_p` is {top_p} and must be above 0 and at most 1"));
        }
        if let Some(min_p) = self.min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return Some(format!("`min_p` is {min_p} and must be from 0 to 1"));
        }
        let penalty = Some(self.repetition_penalty).filter(|penalty| !(*penalty > 0.0 && penalty.is_finite()))?;
        Some(format!("`repetition_penalty` is {penalty} and must be above 0; 1 changes nothing"))
    }

    /// Whether a choice depends on the tokens before it.
    pub(crate) fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0
    }

    /// The token that follows, as token number `place` of the answer that `draw` names. `seen` has
    /// the tokens before it, if they are penalized.
    ///
    /// # Errors
    /// A logit is not finite.
    pub(crate) fn choose(
        &self,
        logits: &[f32],
        seen: &BTreeSet<u32>,
        draw: Draw,
        place: usize,
    ) -> Result<u32, ModelError> {
        if let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(ModelError::Input(format!(
                "the model's logits are not finite (that of token {id} is {}): its weights are damaged or its training \
                 diverged",
                logits[id]
            )));
        }
        if !self.penalizes() {
            return Ok(self.choose_from(logits, draw, place));
        }
        let mut penalized = logits.to_vec();
        let penalty = self.repetition_penalty as f32;
        for id in seen {
            if let Some(logit) = penalized.get_mut(*id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        Ok(self.choose_from(&penalized, draw, place))
    }

    fn choose_from(&self, logits: &[f32], draw: Draw, place: usize) -> u32 {
        let best = most_likely(logits);
        if self.temperature == 0.0 {
            return best;
        }
        let largest = f64::from(logits[best as usize]);
        let weight = |id: u32| ((f64::from(logits[id as usize]) - largest) / self.temperature).exp();
        let mut likely: Vec<(u32, f64)> = (0..logits.len() as u32).map(|id| (id, weight(id))).collect();
        let by_weight = |a: &(u32, f64), b: &(u32, f64)| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
        if let Some(count) = self.top_k.filter(|count| *count < likely.len()) {
            likely.select_nth_unstable_by(count, by_weight);
            likely.truncate(count);
            likely.sort_unstable_by_key(|(id, _)| *id);
        }
        if let Some(top_p) = self.top_p.filter(|top_p| *top_p < 1.0) {
            let reached = top_p * likely.iter().map(|(_, weight)| weight).sum::<f64>();
            let mut sum = 0.0;
            keep_largest(&mut likely, by_weight, |weight| {
                let is_kept = sum < reached;
                sum += weight;
                is_kept
            });
        }
        if let Some(min_p) = self.min_p {
            likely.retain(|(_, weight)| *weight >= min_p);
        }
        let sum: f64 = likely.iter().map(|(_, weight)| weight).sum();
        let mut rest = uniform(self.seed, draw, place as u64) * sum;
        for (id, weight) in &likely {
            rest -= weight;
            if rest < 0.0 {
                return *id;
            }
        }
        // Rounding left a rest.
        best
    }
}

/// Keeps the first entries in the order of `compare` for which `keep` holds, called once for each of
/// them, in this order. Sorts no more than it needs.
fn keep_largest(
    entries: &mut Vec<(u32, f64)>,
    compare: impl Fn(&(u32, f64), &(u32, f64)) -> Ordering,
    mut keep: impl FnMut(f64) -> bool,
) {
    let (mut sorted, mut size) = (0, 64);
    while sorted < entries.len() {
        let rest = &mut entries[sorted..];
        if size < rest.len() {
            rest.select_nth_unstable_by(size, &compare);
        }
        let size_here = size.min(rest.len());
        rest[..size_here].sort_unstable_by(&compare);
        if let Some(end) = rest[..size_here].iter().position(|(_, weight)| !keep(*weight)) {
            entries.truncate(sorted + end);
            return;
        }
        sorted += size_here;
        size *= 4;
    }
}

/// The index of the largest logit; the lowest index if several are equal.
pub(crate) fn most_likely(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// A number in [0, 1) that looks random, for each seed, draw and place.
fn uniform(seed: u64, draw: Draw, place: u64) -> f64 {
    /// An odd number, so that different samples have different states.
    const SAMPLE: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |state: u64| SplitMix64::new(state).next_u64();
    let of_prompt = mix(mix(seed) ^ draw.prompt);
    let of_sample = if draw.sample == 0 { of_prompt } else { mix(of_prompt ^ draw.sample.wrapping_mul(SAMPLE)) };
    let mixed = mix(of_sample ^ place);
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 40_000;

    fn choose(sampling: &Sampling, logits: &[f32], index: usize) -> u32 {
        let draw = Draw { prompt: index as u64 % 7, sample: index as u64 % 3 };
        sampling.choose(logits, &BTreeSet::new(), draw, index).unwrap()
    }

    /// Checks that draws follow `weights`, by a chi-squared test that fails one time in a million.
    fn follows(sampling: &Sampling, logits: &[f32], weights: &[f64]) {
        let mut counts = vec![0usize; logits.len()];
        for index in 0..DRAWS {
            counts[choose(sampling, logits, index) as usize] += 1;
        }
        let total: f64 = weights.iter().sum();
        let (mut chi_squared, mut degrees) = (0.0, -1.0f64);
        for (count, weight) in counts.iter().zip(weights) {
            if *weight == 0.0 {
                assert_eq!(*count, 0, "{sampling:?}: {counts:?}");
                continue;
            }
            let expected = weight / total * DRAWS as f64;
            chi_squared += (*count as f64 - expected).powi(2) / expected;
            degrees += 1.0;
        }
        // Wilson and Hilferty's approximation of the distribution's quantile.
        let most = degrees * (1.0 - 2.0 / (9.0 * degrees) + 4.75 * (2.0 / (9.0 * degrees)).sqrt()).powi(3);
        assert!(degrees == 0.0 || chi_squared < most, "{sampling:?}: {chi_squared} of {most}, {counts:?}");
    }

    #[test]
    fn draws_follow_the_distribution_that_the_filters_leave() {
        let weights = [0.1f64, 0.4, 0.2, 0.3];
        let logits: Vec<f32> = weights.iter().map(|weight| weight.ln() as f32).collect();
        let plain = Sampling { temperature: 1.0, seed: 5, ..Sampling::default() };
        follows(&plain, &logits, &weights);
        follows(&Sampling { top_k: Some(2), ..plain.clone() }, &logits, &[0.0, 0.4, 0.0, 0.3]);
        // 0.4 + 0.3 do not reach 0.75, 0.2 more do.
        follows(&Sampling { top_p: Some(0.75), ..plain.clone() }, &logits, &[0.0, 0.4, 0.2, 0.3]);
        follows(&Sampling { temperature: 0.5, ..plain.clone() }, &logits, &weights.map(|weight| weight * weight));
        // 0.2 is half of 0.4, 0.1 is less.
        follows(&Sampling { min_p: Some(0.45), ..plain.clone() }, &logits, &[0.0, 0.4, 0.2, 0.3]);
        // After `top_k`, `top_p` is a share of what is left: 0.5 of 0.7 needs the first alone.
        follows(&Sampling { top_k: Some(2), top_p: Some(0.5), ..plain }, &logits, &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_large_vocabulary_is_filtered_exactly() {
        let logits: Vec<f32> = (0..3000).map(|id| ((id * 7919) % 3000) as f32 / 600.0).collect();
        let mut sorted: Vec<(usize, f64)> = logits.iter().map(|logit| f64::from(*logit).exp()).enumerate().collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = sorted.iter().map(|(_, weight)| weight).sum();
        for top_p in [0.01, 0.5, 0.9] {
            let (mut sum, mut kept) = (0.0, vec![0.0; logits.len()]);
            for (id, weight) in &sorted {
                if sum >= top_p * total {
                    break;
                }
                sum += weight;
                kept[*id] = *weight;
            }
            let sampling = Sampling { temperature: 1.0, top_p: Some(top_p), seed: 2, ..Sampling::default() };
            follows(&sampling, &logits, &kept);
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_most_likely_and_a_seed_gives_the_same_draws() {
        assert_eq!(choose(&Sampling::default(), &[0.5, 2.0, 2.0], 0), 1);
        let draws = |seed: u64, sample: u64| -> Vec<u32> {
            let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
            let draw = Draw { prompt: 3, sample };
            (0..50).map(|place| sampling.choose(&[0.0; 100], &BTreeSet::new(), draw, place).unwrap()).collect()
        };
        assert_eq!(draws(1, 0), draws(1, 0));
        assert_ne!(draws(1, 0), draws(2, 0));
        assert_ne!(draws(1, 0), draws(1, 1));
    }

    #[test]
    fn tokens_that_were_seen_are_penalized_by_their_sign() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let choose = |logits: &[f32], seen: &[u32]| {
            let seen = seen.iter().copied().collect();
            sampling.choose(logits, &seen, Draw::default(), 0).unwrap()
        };
        assert_eq!(choose(&[3.0, 2.0, -1.0], &[]), 0);
        assert_eq!(choose(&[3.0, 2.0, -1.0], &[0]), 1);
        assert_eq!(choose(&[-1.0, -1.5, -3.0], &[0]), 1);
        // An id beyond the vocabulary has no logit.
        assert_eq!(choose(&[3.0, 2.0], &[9]), 0);
    }

    #[test]
    fn numbers_that_cannot_be_used_are_refused() {
        let plain = Sampling::default();
        let good = Sampling { temperature: 0.7, top_k: Some(50), top_p: Some(0.95), min_p: Some(0.05), ..plain };
        assert_eq!(good.problem(), None);
        for (wrong, name) in [
            (Sampling { temperature: f64::NAN, ..good.clone() }, "temperature"),
            (Sampling { temperature: -1.0, ..good.clone() }, "temperature"),
            (Sampling { top_k: Some(0), ..good.clone() }, "top_k"),
            (Sampling { top_p: Some(0.0), ..good.clone() }, "top_p"),
            (Sampling { top_p: Some(f64::NAN), ..good.clone() }, "top_p"),
            (Sampling { min_p: Some(1.5), ..good.clone() }, "min_p"),
            (Sampling { repetition_penalty: 0.0, ..good.clone() }, "repetition_penalty"),
            (Sampling { repetition_penalty: f64::INFINITY, ..good }, "repetition_penalty"),
        ] {
            assert!(wrong.problem().is_some_and(|problem| problem.contains(name)), "{name}");
        }
        assert!(Sampling::default().choose(&[0.0, f32::NAN], &BTreeSet::new(), Draw::default(), 0).is_err());
    }
}
