//! [`Vector`]: the vector registers of a machine, as the matrix product uses them.

use std::arch::x86_64::*;

/// A register of floats.
///
/// # Safety
/// Every method needs a machine with the type's instructions, and is meant to be inlined into a
/// function that is compiled for them.
pub(super) trait Vector: Copy {
    /// Floats in a register.
    const LANES: usize;
    /// Rows of a tile of the result. With two registers of sums for each row, two of the right matrix
    /// and one of the left one, all registers are in use.
    const ROWS: usize;

    unsafe fn zero() -> Self;
    /// `value` in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// The floats from `from` on, which is aligned.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` floats from `from` on; zeros in the other lanes. Nothing else is read.
    unsafe fn load_first(count: usize, from: *const f32) -> Self;
    /// Writes the first `count` lanes, and nothing else.
    unsafe fn store_first(self, count: usize, to: *mut f32);
    /// `left * right + self`, rounded once.
    unsafe fn plus_product(self, left: Self, right: Self) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    /// Transposes `from [rows, columns]` to `to [columns, rows]`, at most LANES each. Missing rows
    /// count as zeros; of each row of `to`, `written` floats are written.
    unsafe fn transpose(size: [usize; 2], from: *const f32, stride: usize, to: (*mut f32, usize), written: usize);
}

/// The methods that are one instruction.
macro_rules! instructions {
    ($zero:ident, $splat:ident, $load:ident, $plus_product:ident, $plus:ident) => {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: by the caller's promise.
            unsafe { $zero() }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { $splat(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { $load(from) }
        }

        #[inline(always)]
        unsafe fn plus_product(self, left: Self, right: Self) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { $plus_product(left, right, self) }
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: by the caller's promise.
            unsafe { $plus(self, other) }
        }
    };
}

impl Vector for __m512 {
    const LANES: usize = 16;
    const ROWS: usize = 12;

    instructions!(_mm512_setzero_ps, _mm512_set1_ps, _mm512_load_ps, _mm512_fmadd_ps, _mm512_add_ps);

    #[inline(always)]
    unsafe fn load_first(count: usize, from: *const f32) -> Self {
        // SAFETY: by the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask(count), from) }
    }

    #[inline(always)]
    unsafe fn store_first(self, count: usize, to: *mut f32) {
        // SAFETY: by the caller's promise.
        unsafe { _mm512_mask_storeu_ps(to, mask(count), self) }
    }

    #[inline(always)]
    unsafe fn transpose(size: [usize; 2], from: *const f32, stride: usize, to: (*mut f32, usize), written: usize) {
        // SAFETY: by the caller's promise.
        unsafe { transpose_16(size, from, stride, to, mask(written)) }
    }
}

/// The mask of the first `count` of 16 lanes; all of them from 16 on.
#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    if count >= 16 { __mmask16::MAX } else { (1 << count) - 1 }
}

/// # Safety
/// The machine has AVX-512F; the rows are in readable memory, and the written lanes of `to`'s rows
/// in writable memory.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16(
    [rows, columns]: [usize; 2],
    from: *const f32,
    stride: usize,
    (to, to_stride): (*mut f32, usize),
    written: __mmask16,
) {
    let mut v = [_mm512_setzero_ps(); 16];
    let mut w = v;
    let read = mask(columns);
    for (row, v) in v.iter_mut().enumerate().take(rows) {
        // SAFETY: an existing row, of which `columns` elements are read.
        *v = unsafe { _mm512_maskz_loadu_ps(read, from.add(row * stride)) };
    }
    // Pairs of rows, then groups of four: quarter q of w[4 g + j] has column 4 q + j of the rows 4
    // g to 4 g + 3.
    for pair in 0..8 {
        w[2 * pair] = _mm512_unpacklo_ps(v[2 * pair], v[2 * pair + 1]);
        w[2 * pair + 1] = _mm512_unpackhi_ps(v[2 * pair], v[2 * pair + 1]);
    }
    for four in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| _mm512_castps_pd(w[4 * four + index]));
        v[4 * four] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        v[4 * four + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        v[4 * four + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        v[4 * four + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for j in 0..4 {
        // Quarters 0 and 2, and 1 and 3, of two groups of four each.
        let even = [0, 8].map(|four| _mm512_shuffle_f32x4::<0x88>(v[four + j], v[four + 4 + j]));
        let odd = [0, 8].map(|four| _mm512_shuffle_f32x4::<0xdd>(v[four + j], v[four + 4 + j]));
        w[j] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
        w[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
        w[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
        w[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
    }
    for (column, w) in w.into_iter().enumerate().take(columns) {
        // SAFETY: an existing column; lanes outside `written` are not touched.
        unsafe { _mm512_mask_storeu_ps(to.add(column * to_stride), written, w) };
    }
}

impl Vector for __m256 {
    const LANES: usize = 8;
    const ROWS: usize = 6;

    instructions!(_mm256_setzero_ps, _mm256_set1_ps, _mm256_load_ps, _mm256_fmadd_ps, _mm256_add_ps);

    #[inline(always)]
    unsafe fn load_first(count: usize, from: *const f32) -> Self {
        // SAFETY: by the caller's promise.
        unsafe { if count >= 8 { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, mask_256(count)) } }
    }

    #[inline(always)]
    unsafe fn store_first(self, count: usize, to: *mut f32) {
        // SAFETY: by the caller's promise.
        unsafe { if count >= 8 { _mm256_storeu_ps(to, self) } else { _mm256_maskstore_ps(to, mask_256(count), self) } }
    }

    #[inline(always)]
    unsafe fn transpose(size: [usize; 2], from: *const f32, stride: usize, to: (*mut f32, usize), written: usize) {
        // SAFETY: by the caller's promise.
        unsafe { transpose_8(size, from, stride, to, written) }
    }
}

/// The mask of the first `count` of 8 lanes.
///
/// # Safety
/// The machine has AVX2; `count` is at most 8.
#[inline(always)]
unsafe fn mask_256(count: usize) -> __m256i {
    const LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: eight of the sixteen numbers.
    unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - count).cast()) }
}

/// # Safety
/// The machine has AVX2; the rows are in readable memory, and the written lanes of `to`'s rows in
/// writable memory.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_8(
    [rows, columns]: [usize; 2],
    from: *const f32,
    stride: usize,
    (to, to_stride): (*mut f32, usize),
    written: usize,
) {
    let mut v = [_mm256_setzero_ps(); 8];
    let mut w = v;
    for (row, v) in v.iter_mut().enumerate().take(rows) {
        // SAFETY: an existing row, of which `columns` elements are read.
        *v = unsafe { __m256::load_first(columns, from.add(row * stride)) };
    }
    // Pairs of rows, then groups of four: half h of w[4 g + j] has column 4 h + j of the rows 4 g to
    // 4 g + 3.
    for pair in 0..4 {
        w[2 * pair] = _mm256_unpacklo_ps(v[2 * pair], v[2 * pair + 1]);
        w[2 * pair + 1] = _mm256_unpackhi_ps(v[2 * pair], v[2 * pair + 1]);
    }
    for four in 0..2 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| _mm256_castps_pd(w[4 * four + index]));
        v[4 * four] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
        v[4 * four + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        v[4 * four + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
        v[4 * four + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
    }
    for j in 0..4 {
        w[j] = _mm256_permute2f128_ps::<0x20>(v[j], v[4 + j]);
        w[4 + j] = _mm256_permute2f128_ps::<0x31>(v[j], v[4 + j]);
    }
    for (column, w) in w.into_iter().enumerate().take(columns) {
        // SAFETY: an existing column; lanes outside `written` are not touched.
        unsafe { w.store_first(written, to.add(column * to_stride)) };
    }
}
