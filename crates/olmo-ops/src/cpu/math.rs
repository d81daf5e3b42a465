//! Sums, maxima and the exponential, written so that they vectorise without changing the order of
//! any sum.

/// Number of lanes of a sum; fixed, so that the order of additions does not depend on the machine's
/// vectors.
pub(crate) const LANES: usize = 16;

/// The vector instructions of a machine, narrowest first.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Vectors {
    /// Those of every machine.
    Baseline,
    Avx2,
    /// AVX-512 F, VL, DQ and BW.
    Avx512,
}

#[cfg(target_arch = "x86_64")]
impl Vectors {
    /// The widest of this machine, or those that `OLMO_PIPE_VECTORS` limits it to (`baseline` or
    /// `avx2`), for measurements. The results are the same.
    #[inline]
    pub(crate) fn available() -> Vectors {
        #[cfg(test)]
        return Vectors::of_machine().min(tests::limit());
        #[cfg(not(test))]
        {
            static AVAILABLE: std::sync::OnceLock<Vectors> = std::sync::OnceLock::new();
            *AVAILABLE.get_or_init(|| {
                let limit = match std::env::var("OLMO_PIPE_VECTORS").as_deref() {
                    Ok("baseline") => Vectors::Baseline,
                    Ok("avx2") => Vectors::Avx2,
                    _ => Vectors::Avx512,
                };
                Vectors::of_machine().min(limit)
            })
        }
    }

    #[inline]
    fn of_machine() -> Vectors {
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bw")
        {
            Vectors::Avx512
        } else if std::arch::is_x86_feature_detected!("avx2") {
            Vectors::Avx2
        } else {
            Vectors::Baseline
        }
    }
}

/// Also compiles a function for machines with 256-bit and 512-bit vectors, and dispatches at run
/// time.
///
/// Results are bit-identical: no version may fuse a product and a sum, and all add in [`LANES`]
/// fixed lanes.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take their slices one by one")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn widest($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::cpu::Vectors::available() {
                    // SAFETY: the machine has the features of this version.
                    $crate::cpu::Vectors::Avx512 => return unsafe { widest($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::Vectors::Avx2 => return unsafe { wide($($arg),*) },
                    $crate::cpu::Vectors::Baseline => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// e^x with a relative error of about 2e-7. Clamped to e^-87 below -87 and to e^88 above 88; NaN
/// stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding and subtracting this rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // e^x = 2^whole * 2^part with |part| <= 1/2; a polynomial approximates 2^part.
    let scaled = x * std::f32::consts::LOG2_E;
    let rounded = scaled + ROUND;
    let part = scaled - (rounded - ROUND);
    let mut power = 1.535_336_2e-4;
    power = power * part + 1.339_887_4e-3;
    power = power * part + 9.618_437e-3;
    power = power * part + 5.550_332_5e-2;
    power = power * part + 2.402_264_8e-1;
    power = power * part + std::f32::consts::LN_2;
    power = power * part + 1.0;
    f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23))
}

/// Sum of `term(a, b)` over the pairs of `a` and `b`, in [`LANES`] lanes, which are added first to
/// last.
#[inline(always)]
pub(crate) fn sum_of_pairs<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut rest = 0f32;
    for (x, y) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        rest += term(*x, *y);
    }
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += term(x[lane], y[lane]);
        }
    }
    rest + lanes.iter().sum::<f32>()
}

/// Sum of products.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of_pairs(a, b, |x, y| x * y)
}

/// Sum.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    sum_of_pairs(values, values, |x, _| x)
}

/// Turns each value into `exp((value - largest) * scale)`. Returns the largest value and the sum of
/// the results.
#[inline(always)]
pub(crate) fn exponentials(values: &mut [f32], scale: f32) -> (f32, f32) {
    let largest = maximum(values);
    for value in values.iter_mut() {
        *value = exp((*value - largest) * scale);
    }
    (largest, sum(values))
}

/// Adds `terms` to `totals`, element by element.
#[inline(always)]
pub(crate) fn add(totals: &mut [f32], terms: &[f32]) {
    for (total, term) in totals.iter_mut().zip(terms) {
        *total += term;
    }
}

/// The largest value, ignoring NaN.
#[inline(always)]
pub(crate) fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::MIN; LANES];
    let chunks = values.chunks_exact(LANES);
    let mut largest = f32::MIN;
    for &x in chunks.remainder() {
        largest = if x > largest { x } else { largest };
    }
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] = if x[lane] > lanes[lane] { x[lane] } else { lanes[lane] };
        }
    }
    lanes.into_iter().fold(largest, |largest, x| if x > largest { x } else { largest })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::body::block::Block;
    use crate::config::{BlockConfig, BlockWeights, Keep, Norm, NormKind};
    use crate::cpu::{Compute, Cpu};
    use crate::device::Device as _;
    use crate::linear::{Linear, Weight};
    use crate::rope::{Placed, Rope, RopeConfig};

    /// The widest instructions that operations may use. Tests that run meanwhile get the same bits.
    #[cfg(target_arch = "x86_64")]
    static LIMIT: AtomicU8 = AtomicU8::new(Vectors::Avx512 as u8);

    #[cfg(target_arch = "x86_64")]
    pub(super) fn limit() -> Vectors {
        let all = [Vectors::Baseline, Vectors::Avx2, Vectors::Avx512];
        all[usize::from(LIMIT.load(Ordering::Relaxed))]
    }

    /// Output and gradients of a block.
    fn block_bits() -> Vec<u32> {
        let config = BlockConfig {
            d_model: 72,
            n_heads: 3,
            n_kv_heads: 1,
            head_dim: 22,
            rope: RopeConfig::new(10_000.0),
            mlp_width: 50,
            clip_qkv: Some(0.9),
            norm: Norm { kind: NormKind::Layer, eps: 1e-5 },
            norm_after: true,
            qk_norm: true,
            window: Some(60),
        };
        let mut end = 0;
        let mut weight = |length: usize| {
            end += length;
            Weight::trained(end - length..end)
        };
        let mut matrix = |outputs: usize, inputs: usize| Linear::new(weight(outputs * inputs), inputs);
        let (att_proj, attn_out) = (matrix(config.qkv_width(), 72), matrix(72, config.query_width()));
        let (ff_proj, ff_out) = (matrix(100, 72), matrix(72, 50));
        let mut vector = |length: usize| Some(weight(length));
        let (attn_norm, ff_norm) = (vector(72), vector(72));
        let (q_norm, k_norm) = (vector(config.query_width()), vector(config.kv_width()));
        let weights = BlockWeights { att_proj, attn_out, ff_proj, ff_out, attn_norm, ff_norm, q_norm, k_norm };
        let value = |i: usize| ((i * 7919) % 1013) as f32 / 1013.0 - 0.5;
        let values: Vec<f32> = (0..end).map(value).collect();
        let device = Cpu::with_gradients(Compute::Flex, Arc::new(values), vec![0.0; end]);
        let placed = Placed { rope: Arc::new(Rope::new(config.rope, 22, 83)), documents: None };
        let positions = device.positions(&placed, [2, 83]);
        let block = Block { device: &device, config: &config, weights: &weights, positions: &positions };
        let x = (0..2 * 83 * 72).map(|i| value(i + 3)).collect::<Vec<f32>>().into();
        let (y, saved) = block.forward(&x, Some(Keep::All));
        let dx = block.backward(&x, saved, &y).into_vec();
        let y = y.into_vec();
        y.into_iter().chain(dx).chain(device.into_gradients()).map(f32::to_bits).collect()
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_block_has_the_same_bits_with_any_vector_instructions() {
        let mut results = Vec::new();
        for vectors in [Vectors::Baseline, Vectors::Avx2, Vectors::Avx512] {
            if vectors > Vectors::of_machine() {
                olmo_base::testing::skip(&format!("this machine has no {vectors:?}"));
                continue;
            }
            LIMIT.store(vectors as u8, Ordering::Relaxed);
            results.push(block_bits());
        }
        LIMIT.store(Vectors::Avx512 as u8, Ordering::Relaxed);
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn the_exponential_is_close_over_its_whole_range() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            // Rounding x * log2(e) costs a relative error of |x| * 2^-24.
            let allowed = 3e-7 + f64::from(x.abs()) * 1.2e-7;
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < allowed, "exp({x}) = {}, not {exact}", exp(x));
            x += 0.013;
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn the_exponential_neither_hides_nan_nor_wraps_around() {
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(1e30) > 1e38 && exp(1e30).is_finite());
    }

    #[test]
    fn sums_include_what_does_not_fill_the_lanes() {
        for length in [0, 1, 15, 16, 17, 33, 100] {
            let values: Vec<f32> = (0..length).map(|i| i as f32 - 7.0).collect();
            assert_eq!(sum(&values), values.iter().sum::<f32>());
            assert_eq!(dot(&values, &values), values.iter().map(|x| x * x).sum::<f32>());
            let largest = values.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(maximum(&values), largest);
        }
    }
}
