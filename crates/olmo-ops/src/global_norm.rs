//! The norm of a gradient, and the factor that clips it.

use rayon::prelude::*;

/// Number of elements in a partial sum of [`square_sums`]; fixed, so that the order of the sum is
/// fixed.
pub const NORM_CHUNK: usize = 1 << 12;

/// Number of lanes of a partial sum.
const LANES: usize = 8;

/// Euclidean norm, summed in f64: lanes within fixed chunks, then the chunks in order. Does not
/// depend on the number of threads.
pub fn global_norm(values: &[f32]) -> f64 {
    norm_of(&square_sums(values))
}

/// The sum of the squares of each chunk of [`NORM_CHUNK`] values.
pub fn square_sums(values: &[f32]) -> Vec<f64> {
    values.par_chunks(NORM_CHUNK).map(square_sum).collect()
}

/// The norm of values whose chunks have these [`square_sums`].
pub fn norm_of(square_sums: &[f64]) -> f64 {
    square_sums.iter().sum::<f64>().sqrt()
}

fn square_sum(values: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    rest + lanes.iter().sum::<f64>()
}

/// The factor that clips a gradient of norm `total` to at most `max_norm`:
/// `max_norm / (total + 1e-6)`, at most 1.
pub fn clip_coefficient(total: f64, max_norm: f64) -> f64 {
    // This order of comparison lets a NaN through: a broken gradient must not look healthy.
    let coefficient = max_norm / (total + 1e-6);
    if coefficient > 1.0 { 1.0 } else { coefficient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_counts_every_element_once() {
        for length in [0, 1, 7, 8, 9, NORM_CHUNK - 1, NORM_CHUNK, NORM_CHUNK + 1, 3 * NORM_CHUNK + 5] {
            let values = vec![2.0f32; length];
            assert_eq!(global_norm(&values), (4.0 * length as f64).sqrt());
        }
    }

    #[test]
    fn the_norm_is_the_same_for_any_number_of_threads() {
        let values: Vec<f32> = (0..100_003).map(|i| ((i * 7919) % 1013) as f32 / 311.0 - 1.6).collect();
        let norms: Vec<u64> = [1, 2, 3, 5]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool can be built");
                pool.install(|| global_norm(&values).to_bits())
            })
            .collect();
        assert!(norms.iter().all(|norm| *norm == norms[0]), "{norms:?}");
    }

    #[test]
    fn clipping_shortens_long_gradients_and_leaves_short_ones() {
        assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
        assert_eq!(clip_coefficient(0.0, 1.0), 1.0);
        assert!((clip_coefficient(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert!(clip_coefficient(f64::NAN, 1.0).is_nan());
    }
}
