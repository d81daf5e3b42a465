//! The interface of the crate `gemm` 0.19 that burn-flex calls, on `matrixmultiply`.
//!
//! olmo-pipe computes with its own kernels; Burn's products run in tests and reference code only.
//! The original crate compiles kernels for five element types, two of them complex, which takes
//! longer than all other numeric crates together. This one multiplies f32, f64 and f16.

use std::any::TypeId;

use half::f16 as Half;

/// How many threads may be used. Products here run on the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallelism {
    /// The calling thread alone.
    None,
    /// A number of threads; 0 means all.
    Rayon(usize),
}

/// Computes `dst = alpha * dst + beta * lhs * rhs`, where `lhs` is `m` by `k` and `rhs` is `k` by
/// `n`. `dst` is read only if `read_dst` is set. `_cs` and `_rs` are the distances of columns and
/// rows, in elements.
///
/// # Safety
/// The matrices are as large as `m`, `n`, `k` and the distances say, `dst` may be written, and no
/// element of it is an element of `lhs` or `rhs`, or has two places in `dst`.
///
/// # Panics
/// `T` is none of f32, f64 and f16.
#[expect(clippy::too_many_arguments, reason = "the interface of the crate that this one replaces")]
pub unsafe fn gemm<T: 'static>(
    m: usize,
    n: usize,
    k: usize,
    dst: *mut T,
    dst_cs: isize,
    dst_rs: isize,
    read_dst: bool,
    lhs: *const T,
    lhs_cs: isize,
    lhs_rs: isize,
    rhs: *const T,
    rhs_cs: isize,
    rhs_rs: isize,
    alpha: T,
    beta: T,
    _conj_dst: bool,
    _conj_lhs: bool,
    _conj_rhs: bool,
    _parallelism: Parallelism,
) {
    macro_rules! multiply {
        ($float:ty, $gemm:ident) => {
            // SAFETY: `T` is this type. The caller guarantees the matrices; `dst` is not read where its
            // factor is 0.
            unsafe {
                let [alpha, beta] = [&raw const alpha, &raw const beta].map(|factor| factor.cast::<$float>().read());
                let (lhs, rhs, dst) = (lhs.cast(), rhs.cast(), dst.cast());
                let alpha = if read_dst { alpha } else { 0.0 };
                matrixmultiply::$gemm(
                    m, k, n, beta, lhs, lhs_rs, lhs_cs, rhs, rhs_rs, rhs_cs, alpha, dst, dst_rs, dst_cs,
                );
            }
        };
    }
    let element = TypeId::of::<T>();
    if element == TypeId::of::<f32>() {
        multiply!(f32, sgemm);
    } else if element == TypeId::of::<f64>() {
        multiply!(f64, dgemm);
    } else if element == TypeId::of::<Half>() {
        // SAFETY: `T` is `Half`.
        let [alpha, beta] = [&raw const alpha, &raw const beta].map(|factor| unsafe { factor.cast::<Half>().read() });
        let (lhs, rhs, dst) = (lhs.cast::<Half>(), rhs.cast::<Half>(), dst.cast::<Half>());
        for row in 0..m as isize {
            for column in 0..n as isize {
                // SAFETY: the caller guarantees that the matrices have these sizes and distances.
                unsafe {
                    let term = |place: isize| {
                        let left = *lhs.offset(row * lhs_rs + place * lhs_cs);
                        left.to_f32() * (*rhs.offset(place * rhs_rs + column * rhs_cs)).to_f32()
                    };
                    let product = beta.to_f32() * (0..k as isize).map(term).sum::<f32>();
                    let at = dst.offset(row * dst_rs + column * dst_cs);
                    let before = if read_dst { alpha.to_f32() * (*at).to_f32() } else { 0.0 };
                    at.write(Half::from_f32(before + product));
                }
            }
        }
    } else {
        panic!("gemm: this build multiplies f32, f64 and f16 only");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `dst = 2 * dst + 3 * lhs * rhs` for small whole numbers, with `dst` and `rhs` transposed in memory.
    fn product<T: Copy + 'static>(convert: impl Fn(f32) -> T, back: impl Fn(T) -> f32, read_dst: bool) -> Vec<f32> {
        let lhs: Vec<T> = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].map(&convert).to_vec(); // 2 x 3, row-major
        let rhs: Vec<T> = [1.0, 0.0, 2.0, -1.0, 1.0, 0.5].map(&convert).to_vec(); // 3 x 2, column-major
        let mut dst: Vec<T> = [1.0, 2.0, 3.0, 4.0].map(&convert).to_vec(); // 2 x 2, column-major
        // SAFETY: the sizes are those of the arrays, which do not overlap.
        unsafe {
            gemm(
                2,
                2,
                3,
                dst.as_mut_ptr(),
                2,
                1,
                read_dst,
                lhs.as_ptr(),
                1,
                3,
                rhs.as_ptr(),
                3,
                1,
                convert(2.0),
                convert(3.0),
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        dst.into_iter().map(back).collect()
    }

    #[test]
    fn each_type_multiplies_with_strides_and_factors() {
        // lhs * rhs = [[7, 2.5], [16, 4]].
        let fresh = [21.0, 48.0, 7.5, 12.0];
        let added = [23.0, 52.0, 13.5, 20.0];
        for (read_dst, expected) in [(false, fresh), (true, added)] {
            assert_eq!(product(|x| x, |x| x, read_dst), expected);
            assert_eq!(product(f64::from, |x| x as f32, read_dst), expected);
            assert_eq!(product(Half::from_f32, Half::to_f32, read_dst), expected);
        }
    }

    #[test]
    #[should_panic(expected = "f32, f64 and f16 only")]
    fn another_type_is_refused() {
        product(|x| x as i32, |x| x as f32, false);
    }
}
