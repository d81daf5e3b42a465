//! A small random generator of our own, so that a seed gives the same weights in every version on
//! every machine.

use olmo_base::SplitMix64;

/// Numbers for initialising weights.
pub(crate) struct Random {
    bits: SplitMix64,
    spare: Option<f64>,
}

impl Random {
    /// The stream named `stream` of `seed`; the streams of a seed are unrelated.
    pub(super) fn new(seed: u64, stream: &str) -> Random {
        // FNV-1a turns the name into a number; the mixing below spreads it.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in stream.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let mixed = SplitMix64::new(seed).next_u64();
        Random { bits: SplitMix64::new(mixed ^ hash), spare: None }
    }

    /// Uniform in (-1, 1).
    fn signed(&mut self) -> f64 {
        ((self.bits.next_u64() >> 11) as f64 + 0.5) / (1u64 << 52) as f64 - 1.0
    }

    /// Standard normal (Marsaglia's polar method: no trigonometric function, which could differ
    /// between systems).
    pub(super) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (a, b) = (self.signed(), self.signed());
            let square = a * a + b * b;
            if square > 0.0 && square < 1.0 {
                let scale = (-2.0 * natural_logarithm(square) / square).sqrt();
                self.spare = Some(b * scale);
                return a * scale;
            }
        }
    }

    /// Standard normal, redrawn until it is within `cutoff`.
    pub(super) fn truncated_normal(&mut self, cutoff: f64) -> f64 {
        loop {
            let draw = self.normal();
            if draw.abs() <= cutoff {
                return draw;
            }
        }
    }
}

/// ln(x) for x in (0, 1), using only additions and divisions: a system's `log` may differ in the
/// last bit.
fn natural_logarithm(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln(m) = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172: 12 terms reach f64.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for term in (0..12).rev() {
        sum = sum * square + 1.0 / f64::from(2 * term + 1);
    }
    2.0 * s * sum + exponent as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_agrees_with_the_systems() {
        let mut random = Random::new(1, "logarithm");
        for _ in 0..10_000 {
            let x = (random.signed() + 1.0) / 2.0;
            assert!((natural_logarithm(x) - x.ln()).abs() <= 4e-15 * x.ln().abs().max(1.0), "{x}");
        }
    }

    #[test]
    fn normal_draws_have_unit_variance_and_no_mean() {
        let mut random = Random::new(7, "moments");
        let draws: Vec<f64> = (0..200_000).map(|_| random.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / draws.len() as f64;
        let kurtosis = draws.iter().map(|x| (x - mean).powi(4)).sum::<f64>() / draws.len() as f64;
        assert!(
            mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02 && (kurtosis - 3.0).abs() < 0.1,
            "{mean} {variance} {kurtosis}"
        );
    }

    #[test]
    fn the_stream_of_a_seed_never_changes() {
        let mut random = Random::new(42, "transformer.wte.weight");
        let first: Vec<u64> = (0..3).map(|_| random.bits.next_u64()).collect();
        let mut again = Random::new(42, "transformer.wte.weight");
        assert_eq!(first, (0..3).map(|_| again.bits.next_u64()).collect::<Vec<_>>());
        let mut other = Random::new(42, "transformer.ff_out.weight");
        assert_ne!(first[0], other.bits.next_u64());
    }
}
