//! [`Sampling`]: how the next token is chosen.

use std::cmp::Ordering;

use olmo_base::SplitMix64;
use olmo_model::ModelError;

/// How the next token is chosen. The default is greedy.
///
/// The filters apply in the order of `transformers`: temperature, then `top_k`, then `top_p`.
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
    /// A choice depends only on the seed, the index of the prompt and the place of the token, not on
    /// the prompts that are answered at the same time.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: None, top_p: None, seed: 0 }
    }
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
        let top_p = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0))?;
        Some(format!("`top_p` is {top_p} and must be above 0 and at most 1"))
    }

    /// The token that follows, as token number `place` of the answer to prompt number `prompt`.
    ///
    /// # Errors
    /// A logit is not finite.
    pub(crate) fn choose(&self, logits: &[f32], prompt: usize, place: usize) -> Result<u32, ModelError> {
        if let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(ModelError::Input(format!(
                "the model's logits are not finite (that of token {id} is {}): its weights are damaged or its training \
                 diverged",
                logits[id]
            )));
        }
        if self.temperature == 0.0 {
            return Ok(most_likely(logits));
        }
        let mut likely: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit =
            |a: &u32, b: &u32| -> Ordering { logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)) };
        let count = self.top_k.map_or(likely.len(), |k| k.min(likely.len()));
        if count < likely.len() {
            likely.select_nth_unstable_by(count, by_logit);
            likely.truncate(count);
        }
        likely.sort_unstable_by(by_logit);
        let largest = f64::from(logits[likely[0] as usize]);
        let weights: Vec<f64> =
            likely.iter().map(|&id| ((f64::from(logits[id as usize]) - largest) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let reached = self.top_p.map_or(f64::INFINITY, |p| p * total);
        let (mut kept, mut sum) = (0, 0.0);
        while kept < weights.len() && (kept == 0 || sum < reached) {
            sum += weights[kept];
            kept += 1;
        }
        let mut rest = uniform(self.seed, prompt as u64, place as u64) * sum;
        for (&id, weight) in likely.iter().zip(&weights[..kept]) {
            rest -= weight;
            if rest < 0.0 {
                return Ok(id);
            }
        }
        // Rounding left a rest: the last one that can be chosen.
        Ok(likely[kept - 1])
    }
}

/// The index of the largest logit; the lowest index if several are equal.
fn most_likely(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// A number in [0, 1) that looks random, for each seed, prompt and place.
fn uniform(seed: u64, prompt: u64, place: u64) -> f64 {
    let mix = |state: u64| SplitMix64::new(state).next_u64();
    let mixed = mix(mix(mix(seed) ^ prompt) ^ place);
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of `logits` is chosen in `draws`, as a fraction.
    fn shares(sampling: &Sampling, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut counts = vec![0usize; logits.len()];
        for draw in 0..draws {
            counts[sampling.choose(logits, draw % 7, draw).unwrap() as usize] += 1;
        }
        counts.into_iter().map(|count| count as f64 / draws as f64).collect()
    }

    fn close(shares: &[f64], expected: &[f64]) {
        for (share, expected) in shares.iter().zip(expected) {
            assert!((share - expected).abs() < 0.01, "{shares:?}");
        }
    }

    #[test]
    fn draws_follow_the_distribution_that_the_filters_leave() {
        let weights = [0.1f64, 0.4, 0.2, 0.3];
        let logits: Vec<f32> = weights.iter().map(|weight| weight.ln() as f32).collect();
        let plain = Sampling { temperature: 1.0, seed: 5, ..Sampling::default() };
        close(&shares(&plain, &logits, 40_000), &weights);
        let two = Sampling { top_k: Some(2), ..plain.clone() };
        close(&shares(&two, &logits, 40_000), &[0.0, 0.4 / 0.7, 0.0, 0.3 / 0.7]);
        // 0.4 + 0.3 do not reach 0.75, 0.2 more do.
        let nucleus = Sampling { top_p: Some(0.75), ..plain.clone() };
        close(&shares(&nucleus, &logits, 40_000), &[0.0, 0.4 / 0.9, 0.2 / 0.9, 0.3 / 0.9]);
        let cold = Sampling { temperature: 0.5, ..plain.clone() };
        let squares: f64 = weights.iter().map(|weight| weight * weight).sum();
        close(&shares(&cold, &logits, 40_000), &weights.map(|weight| weight * weight / squares));
        // After `top_k`, `top_p` is a share of what is left: 0.5 of 0.7 needs the first alone.
        let both = Sampling { top_k: Some(2), top_p: Some(0.5), ..plain };
        close(&shares(&both, &logits, 1_000), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_most_likely_and_a_seed_gives_the_same_draws() {
        assert_eq!(Sampling::default().choose(&[0.5, 2.0, 2.0], 0, 0).unwrap(), 1);
        let draws = |seed: u64| -> Vec<u32> {
            let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
            (0..50).map(|place| sampling.choose(&[0.0; 100], 3, place).unwrap()).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn numbers_that_cannot_be_used_are_refused() {
        let sampling = |temperature, top_k, top_p| Sampling { temperature, top_k, top_p, seed: 0 }.problem();
        assert_eq!(sampling(0.7, Some(50), Some(0.95)), None);
        for (problem, name) in [
            (sampling(f64::NAN, None, None), "temperature"),
            (sampling(-1.0, None, None), "temperature"),
            (sampling(1.0, Some(0), None), "top_k"),
            (sampling(1.0, None, Some(0.0)), "top_p"),
            (sampling(1.0, None, Some(f64::NAN)), "top_p"),
        ] {
            assert!(problem.is_some_and(|problem| problem.contains(name)), "{name}");
        }
        assert!(Sampling::default().choose(&[0.0, f32::NAN], 0, 0).is_err());
    }
}
