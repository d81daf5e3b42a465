//! Values drawn for random sweeps. A value depends only on the seed, the path and the number of the
//! trial: adding a path or trials changes no existing value.

use serde_json::Value;

/// The distribution of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Distribution {
    /// Between two finite numbers.
    Uniform(f64, f64),
    /// Between two positive numbers, uniform in the logarithm.
    LogUniform(f64, f64),
    /// Between two whole numbers, inclusive.
    Integer(i64, i64),
    /// One of this many choices.
    Choice(usize),
}

/// A drawn value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Drawn {
    Number(Value),
    /// The index of the choice.
    Choice(usize),
}

/// The keys of the distributions.
pub(crate) const KINDS: [&str; 4] = ["uniform", "log_uniform", "integer", "choice"];

impl Distribution {
    /// Parses the value of the one key `kind`. The error says what is wrong.
    pub(crate) fn read(kind: &str, value: &Value) -> Result<Self, String> {
        let pair = || -> Option<(f64, f64)> {
            let [low, high] = value.as_array()?.as_slice() else { return None };
            Some((low.as_f64()?, high.as_f64()?))
        };
        if kind == "choice" {
            let count = value.as_array().map_or(0, Vec::len);
            return if count > 0 { Ok(Self::Choice(count)) } else { Err("`choice` needs at least one value".into()) };
        }
        let (low, high) = pair().ok_or_else(|| format!("`{kind}` needs two numbers: [LOWEST, HIGHEST]"))?;
        if low > high {
            return Err(format!("the lowest value {low} is above the highest, {high}"));
        }
        match kind {
            "uniform" => Ok(Self::Uniform(low, high)),
            "log_uniform" if low > 0.0 => Ok(Self::LogUniform(low, high)),
            "log_uniform" => Err(format!("`log_uniform` needs numbers greater than 0, not {low}")),
            "integer" => {
                let whole = |at: usize| value.get(at).and_then(Value::as_i64);
                let (low, high) = whole(0).zip(whole(1)).ok_or("`integer` needs two whole numbers")?;
                Ok(Self::Integer(low, high))
            }
            _ => Err(format!("`{kind}` is no distribution")),
        }
    }

    /// The value of `path` in trial number `trial`.
    pub(crate) fn draw(&self, seed: u64, path: &str, trial: u64) -> Drawn {
        let bits = random(seed, path, trial);
        // 53 bits: every multiple of 2^-53 in [0, 1).
        let part = (bits >> 11) as f64 / (1u64 << 53) as f64;
        match *self {
            Self::Uniform(low, high) => Drawn::Number(rounded(low + part * (high - low), low, high)),
            Self::LogUniform(low, high) => {
                let value = (low.ln() + part * (high.ln() - low.ln())).exp();
                Drawn::Number(rounded(value, low, high))
            }
            Self::Integer(low, high) => {
                let count = (i128::from(high) - i128::from(low) + 1) as u128;
                let value = i128::from(low) + ((u128::from(bits) * count) >> 64) as i128;
                Drawn::Number(Value::from(value as i64))
            }
            Self::Choice(count) => Drawn::Choice(((u128::from(bits) * count as u128) >> 64) as usize),
        }
    }
}

/// 64 bits that depend on all three.
fn random(seed: u64, path: &str, trial: u64) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("olmo-pipe random sweep 1");
    hasher.update(&seed.to_le_bytes()).update(&trial.to_le_bytes()).update(path.as_bytes());
    let hash = hasher.finalize();
    let mut bits = [0; 8];
    bits.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(bits)
}

/// Rounds `value` to four digits between `low` and `high`: short in names, and equal on machines
/// whose logarithms differ in the last bit.
fn rounded(value: f64, low: f64, high: f64) -> Value {
    let value = format!("{value:.3e}").parse().unwrap_or(value);
    Value::from(value.clamp(low, high))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn number(drawn: Drawn) -> f64 {
        let Drawn::Number(value) = drawn else { panic!("{drawn:?}") };
        value.as_f64().unwrap()
    }

    /// Pinned: a seed in a user's experiment must keep giving the same trials.
    #[test]
    fn a_seed_means_the_same_values_for_ever() {
        let lr = Distribution::LogUniform(1e-5, 1e-2);
        let drawn: Vec<f64> = (0..4).map(|trial| number(lr.draw(1, "params.lr", trial))).collect();
        insta::assert_snapshot!(format!("{drawn:?}"), @"[9.156e-5, 0.005487, 0.0006639, 3.145e-5]");
        let steps = Distribution::Integer(-3, 3);
        let drawn: Vec<f64> = (0..8).map(|trial| number(steps.draw(7, "params.steps", trial))).collect();
        insta::assert_snapshot!(format!("{drawn:?}"), @"[-2.0, 2.0, -2.0, 1.0, 1.0, 0.0, 0.0, 1.0]");
    }

    #[test]
    fn draws_are_spread_evenly() {
        let mut counts = [0; 4];
        for trial in 0..4_000 {
            let Drawn::Choice(at) = Distribution::Choice(4).draw(3, "params.x", trial) else { panic!() };
            counts[at] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        let below = (0..4_000)
            .filter(|&trial| number(Distribution::LogUniform(1e-6, 1e-2).draw(3, "params.x", trial)) < 1e-4)
            .count();
        assert!((1_850..2_150).contains(&below), "{below} of 4,000 lie in the lower half of the logarithms");
    }

    #[test]
    fn a_distribution_that_cannot_be_says_why() {
        for (kind, value, word) in [
            ("uniform", json!([2, 1]), "above"),
            ("uniform", json!([1]), "two numbers"),
            ("log_uniform", json!([0, 1]), "greater than 0"),
            ("integer", json!([0.5, 2]), "whole"),
            ("choice", json!([]), "at least one"),
            ("normal", json!([0, 1]), "no distribution"),
        ] {
            let fault = Distribution::read(kind, &value).unwrap_err();
            assert!(fault.contains(word), "{fault}");
        }
    }

    proptest! {
        #[test]
        fn what_is_drawn_lies_within_its_bounds(a in -1e6..1e6f64, b in -1e6..1e6f64, seed: u64, trial: u64, low: i64, high: i64) {
            let (a, b) = if a < b { (a, b) } else { (b, a) };
            let value = number(Distribution::Uniform(a, b).draw(seed, "p", trial));
            prop_assert!((a..=b).contains(&value));
            let (a, b) = (a.abs().min(b.abs()) + 1e-9, a.abs().max(b.abs()) + 1e-9);
            let value = number(Distribution::LogUniform(a, b).draw(seed, "p", trial));
            prop_assert!((a..=b).contains(&value));
            let (low, high) = if low < high { (low, high) } else { (high, low) };
            let Drawn::Number(value) = Distribution::Integer(low, high).draw(seed, "p", trial) else { panic!() };
            prop_assert!((low..=high).contains(&value.as_i64().unwrap()));
        }
    }
}
