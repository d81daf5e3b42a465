//! The matrix product for machines with AVX-512, where a training step spends most of its time.
//!
//! Each element is computed by the same sequence of operations as in `matrixmultiply`, so results
//! are bit-identical: the sum runs in chains of (there 256) fused multiply-adds that start at zero,
//! and the chains are added in order. The rest differs: wider tiles, no packing of the left matrix
//! if its rows are contiguous, vectorised packing, and memory that is reused per thread.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::matrix::{Strided, Write};
use crate::cpu::Vectors;

/// Rows and columns of a tile of the result: 24 vector registers of sums.
const ROWS: usize = 12;
const COLUMNS: usize = 32;

/// Floats in a vector register.
const LANES: usize = 16;

/// Limits of the packed columns, in columns and in floats: they stay in the second-level cache.
const PACKED_COLUMNS: usize = 1024;
const PACKED: usize = 1 << 17;

/// Number of row tiles that use a packed strip of columns in sequence.
const BLOCK: usize = 8;

/// Whether this machine supports [`gemm`].
#[inline]
pub(super) fn available() -> bool {
    Vectors::available() == Vectors::Avx512
}

/// `c [m, n] (+)= a [m, k] b [k, n]` in the calling thread; c is row-major with its stride. A chain
/// adds `chain` terms.
///
/// # Safety
/// The machine has AVX-512F; all three matrices are in readable memory (c: writable), and c does
/// not overlap anything in use.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn gemm(
    [m, n, k]: [usize; 3],
    (a, [a_row, a_column]): Strided,
    (b, [b_row, b_column]): Strided,
    write: Write,
    (c, c_stride): (*mut f32, usize),
    chain: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 && write == Write::New {
        for row in 0..m {
            // SAFETY: a row of c.
            unsafe { std::slice::from_raw_parts_mut(c.add(row * c_stride), n) }.fill(0.0);
        }
    }
    let tiles = m.div_ceil(ROWS);
    // As even as possible: a tile of a single row takes as long as one of four.
    let row = |tile: usize| tile * (m / tiles) + tile.min(m % tiles);
    let depth = k.min(chain);
    // As many chains at a time as packed columns fit, so that c is read and written while it is
    // cached.
    let width = n.min(PACKED_COLUMNS).next_multiple_of(COLUMNS);
    let at_once = (PACKED / (depth.max(1) * width)).max(1) * chain;
    // Contiguous rows are read in place, others are packed.
    let packs = a_column != 1;
    let panels = if packs { tiles.min(BLOCK) * ROWS * depth } else { 0 };
    with_memory(k.min(at_once) * width + panels, |packed_b| {
        // SAFETY: offsets stay within the matrices, whose sizes the caller guarantees, and within
        // the memory, whose parts are as large as their blocks: the summed length times COLUMNS for
        // each strip, `depth` times ROWS for each panel.
        unsafe {
            let packed_a = packed_b.add(k.min(at_once) * width);
            for left in (0..n).step_by(PACKED_COLUMNS) {
                let columns = PACKED_COLUMNS.min(n - left);
                for start in (0..k).step_by(at_once) {
                    let end = (start + at_once).min(k);
                    // Start of the strips of the chain from `top` on; chains are stored in
                    // sequence.
                    let strips = |top: usize| packed_b.add((top - start) * columns.next_multiple_of(COLUMNS));
                    for top in (start..end).step_by(chain) {
                        let depth = chain.min(end - top);
                        for strip in (0..columns).step_by(COLUMNS) {
                            let from = b.add((left + strip) * b_column + top * b_row);
                            let there = COLUMNS.min(columns - strip);
                            pack::<COLUMNS>(depth, there, from, [b_column, b_row], strips(top).add(strip * depth));
                        }
                    }
                    for first in (0..tiles).step_by(BLOCK) {
                        let block = first..(first + BLOCK).min(tiles);
                        for top in (start..end).step_by(chain) {
                            let depth = chain.min(end - top);
                            let add = write == Write::Add || top > 0;
                            let panel = |tile: usize| packed_a.add((tile - first) * ROWS * depth);
                            if packs && a_row == 1 {
                                pack_columns(depth, block.clone(), row, a.add(top * a_column), a_column, packed_a);
                            } else if packs {
                                for tile in block.clone() {
                                    let from = a.add(row(tile) * a_row + top * a_column);
                                    let rows = row(tile + 1) - row(tile);
                                    pack::<ROWS>(depth, rows, from, [a_row, a_column], panel(tile));
                                }
                            }
                            for strip in (0..columns).step_by(COLUMNS) {
                                for tile in block.clone() {
                                    let a = if packs {
                                        (panel(tile).cast_const(), [1, ROWS])
                                    } else {
                                        (a.add(row(tile) * a_row + top), [a_row, 1])
                                    };
                                    let b = strips(top).add(strip * depth);
                                    let target = c.add(row(tile) * c_stride + left + strip);
                                    let size = [row(tile + 1) - row(tile), COLUMNS.min(columns - strip)];
                                    tile_of(size, depth, a, b, add, (target, c_stride));
                                }
                            }
                        }
                    }
                }
            }
        }
    });
}

/// Packs tiles of a matrix with contiguous columns, column by column: each is read once from end to
/// end.
///
/// # Safety
/// The tiles' rows are in readable memory, and `to` has room for all of them, padded.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pack_columns(
    depth: usize,
    block: Range<usize>,
    row: impl Fn(usize) -> usize,
    from: *const f32,
    stride: usize,
    to: *mut f32,
) {
    let mut tiles = [(0, 0); BLOCK];
    for (place, tile) in tiles.iter_mut().zip(block.clone()) {
        *place = (row(tile), first_lanes(row(tile + 1) - row(tile)));
    }
    for index in 0..depth {
        for (number, (row, rows)) in tiles[..block.len()].iter().enumerate() {
            // SAFETY: the tile's rows of an existing column, and its panel.
            unsafe {
                let values = _mm512_maskz_loadu_ps(*rows, from.wrapping_add(index * stride + row));
                _mm512_mask_storeu_ps(to.add((number * depth + index) * ROWS), first_lanes(ROWS), values);
            }
        }
    }
}

/// One tile with any number of rows.
///
/// # Safety
/// See [`tile`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tile_of(
    [rows, columns]: [usize; 2],
    depth: usize,
    a: Strided,
    b: *const f32,
    add: bool,
    c: (*mut f32, usize),
) {
    macro_rules! choose {
        ($($known:literal)*) => {
            // SAFETY: guaranteed by the caller. Constant strides of 1 make the addresses of a
            // tile's rows cheap.
            unsafe {
                match (rows, a.1) {
                    $(($known, [1, ROWS]) => tile::<$known>(columns, depth, (a.0, [1, ROWS]), b, add, c),)*
                    $(($known, [row, _]) => tile::<$known>(columns, depth, (a.0, [row, 1]), b, add, c),)*
                    _ => unreachable!("a tile has 1 to {ROWS} rows"),
                }
            }
        };
    }
    choose!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// `c [R, columns] (+)= a b` for one tile: a with its strides, b a packed strip `[depth, COLUMNS]`.
///
/// # Safety
/// The machine has AVX-512F. The tile's rows of a, and the aligned strip b, are in readable memory;
/// the tile's columns of its rows of c are in writable memory that nothing else uses.
#[inline(always)]
unsafe fn tile<const R: usize>(
    columns: usize,
    depth: usize,
    (mut a, [a_row, a_column]): Strided,
    mut b: *const f32,
    add: bool,
    (c, c_stride): (*mut f32, usize),
) {
    // SAFETY: guaranteed by the caller; columns beyond the tile's are neither read nor written.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for row in 0..R {
            _mm_prefetch::<_MM_HINT_T0>(c.add(row * c_stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.add(row * c_stride + columns - 1).cast());
        }
        for _ in 0..depth {
            let right = [_mm512_load_ps(b), _mm512_load_ps(b.add(LANES))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_ps(*a.add(row * a_row));
                sums[0] = _mm512_fmadd_ps(left, right[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(left, right[1], sums[1]);
            }
            // Neither is read after the last term.
            a = a.wrapping_add(a_column);
            b = b.wrapping_add(COLUMNS);
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, mut sum) in sums.into_iter().enumerate() {
                let mask = first_lanes(columns.saturating_sub(half * LANES));
                let to = c.wrapping_add(row * c_stride + half * LANES);
                if add {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum);
                }
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// The mask of the first `count` lanes; all lanes from 16 on.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask16 {
    if count >= LANES { __mmask16::MAX } else { (1 << count) - 1 }
}

/// Packs `rows` (at most WIDTH) rows of `depth` elements as `to [depth, WIDTH]`, padded with zeros;
/// strides are of rows and of elements.
///
/// # Safety
/// The rows are in readable memory, and `to` has room for `depth * WIDTH` elements.
#[target_feature(enable = "avx512f")]
unsafe fn pack<const WIDTH: usize>(
    depth: usize,
    rows: usize,
    from: *const f32,
    [row_stride, stride]: [usize; 2],
    to: *mut f32,
) {
    for start in (0..WIDTH).step_by(LANES) {
        let there = rows.saturating_sub(start).min(LANES);
        // SAFETY: only the first `rows` rows are read, only WIDTH columns are written.
        unsafe {
            let (from, to) = (from.wrapping_add(start * row_stride), to.add(start));
            let written = first_lanes(WIDTH - start);
            if stride == 1 && there > 0 {
                for top in (0..depth).step_by(LANES) {
                    let count = LANES.min(depth - top);
                    let to = to.add(top * WIDTH);
                    if there == LANES && count == LANES {
                        transpose([LANES, LANES], from.add(top), row_stride, (to, WIDTH), written);
                    } else {
                        transpose([there, count], from.add(top), row_stride, (to, WIDTH), written);
                    }
                }
            } else if row_stride == 1 {
                let read = first_lanes(there);
                for index in 0..depth {
                    let values = _mm512_maskz_loadu_ps(read, from.wrapping_add(index * stride));
                    _mm512_mask_storeu_ps(to.add(index * WIDTH), written, values);
                }
            } else {
                for index in 0..depth {
                    for row in 0..LANES.min(WIDTH - start) {
                        let value = if row < there { *from.add(row * row_stride + index * stride) } else { 0.0 };
                        *to.add(index * WIDTH + row) = value;
                    }
                }
            }
        }
    }
}

/// Transposes `from [rows, columns]` to `to [columns, rows]`, at most 16 each. Missing rows count
/// as zeros; lanes outside `written` keep their values.
///
/// # Safety
/// The rows are in readable memory; the written lanes of `to`'s rows are in writable memory.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose(
    [rows, columns]: [usize; 2],
    from: *const f32,
    stride: usize,
    (to, to_stride): (*mut f32, usize),
    written: __mmask16,
) {
    let mut v = [_mm512_setzero_ps(); LANES];
    let mut w = v;
    let read = first_lanes(columns);
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

/// Calls `work` with `length` floats of thread-local memory, aligned for vectors. They contain
/// leftovers of an earlier product.
fn with_memory(length: usize, work: impl FnOnce(*mut f32)) {
    thread_local! {
        static MEMORY: RefCell<Vec<Vector>> = const { RefCell::new(Vec::new()) };
    }
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Vector(#[expect(dead_code, reason = "written through a pointer")] [f32; LANES]);
    MEMORY.with_borrow_mut(|memory| {
        let vectors = length.div_ceil(LANES);
        if memory.len() < vectors {
            memory.clear(); // The old content need not be copied.
            memory.resize(vectors, Vector([0.0; LANES]));
        }
        work(memory.as_mut_ptr().cast());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::matmul::compute::CHAIN;

    fn matrix(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|i| (((i * 7919 + seed) % 1013) as f32 - 500.0) / 311.0).collect()
    }

    /// Whether a is transposed, and whether b is.
    const LAYOUTS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

    #[test]
    fn products_have_the_bits_of_matrixmultiply() {
        if !available() {
            olmo_base::testing::skip("this machine has no AVX-512");
            return;
        }
        let shapes = [
            [1, 1, 1],
            [1, 45, 31],
            [13, 7, 513],
            [12, 32, 256],
            [25, 33, 257],
            [37, 1100, 40],
            [200, 65, 17],
            [64, 31, 600],
            [3, 48, 1],
        ];
        for ([m, n, k], [a_turned, b_turned]) in shapes.into_iter().flat_map(|shape| LAYOUTS.map(|l| (shape, l))) {
            let (a, b) = (matrix(m * k, 1), matrix(k * n, 2));
            let a_strides = if a_turned { [1, m] } else { [k, 1] };
            let b_strides = if b_turned { [1, k] } else { [n, 1] };
            // Rows of c are longer than the product, and the elements in between must not change.
            let stride = n + 3;
            for write in [Write::New, Write::Add] {
                let mut got = matrix(m * stride, 3);
                let mut want = got.clone();
                let ([ra, ca], [rb, cb]) = (a_strides.map(|s| s as isize), b_strides.map(|s| s as isize));
                let beta = if write == Write::New { 0.0 } else { 1.0 };
                // SAFETY: AVX-512 is available, and the matrices have the given sizes and strides.
                unsafe {
                    let (a, b) = (a.as_ptr(), b.as_ptr());
                    gemm([m, n, k], (a, a_strides), (b, b_strides), write, (got.as_mut_ptr(), stride), CHAIN);
                    let c = want.as_mut_ptr();
                    matrixmultiply::sgemm(m, k, n, 1.0, a, ra, ca, b, rb, cb, beta, c, stride as isize, 1);
                }
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&want), "{m} {n} {k}, a turned: {a_turned}, b turned: {b_turned}");
            }
        }
    }

    #[test]
    fn shorter_chains_have_the_bits_of_one_product_after_the_other() {
        if !available() {
            olmo_base::testing::skip("this machine has no AVX-512");
            return;
        }
        // More chains than packed columns fit at a time, too.
        for ([m, n, k], chain) in [([40, 70, 200], 83), ([30, 1030, 300], 32), ([13, 33, 512], 256)] {
            let (a, b, mut got) = (matrix(m * k, 1), matrix(k * n, 2), matrix(m * n, 3));
            let mut want = got.clone();
            // SAFETY: AVX-512 is available, and the matrices have the given sizes and strides.
            unsafe {
                let (a, b) = (a.as_ptr(), b.as_ptr());
                gemm([m, n, k], (a, [1, m]), (b, [n, 1]), Write::Add, (got.as_mut_ptr(), n), chain);
                for top in (0..k).step_by(chain) {
                    let (a, b, part) = (a.add(top * m), b.add(top * n), chain.min(k - top));
                    let (ca, rb, c) = (m as isize, n as isize, want.as_mut_ptr());
                    matrixmultiply::sgemm(m, part, n, 1.0, a, 1, ca, b, rb, 1, 1.0, c, rb, 1);
                }
            }
            let same = got.iter().zip(&want).all(|(got, want)| got.to_bits() == want.to_bits());
            assert!(same, "{m} {n} {k} in chains of {chain}");
        }
    }

    #[test]
    fn an_empty_sum_is_zero_or_leaves_what_was_there() {
        if !available() {
            olmo_base::testing::skip("this machine has no AVX-512");
            return;
        }
        let (empty, mut c) = ([0f32; 1], vec![7f32; 6]);
        for (write, want) in [(Write::Add, 7.0), (Write::New, 0.0)] {
            let nothing = (empty.as_ptr(), [1, 1]);
            // SAFETY: AVX-512 is available; nothing is read, and c has two rows of three.
            unsafe { gemm([2, 3, 0], nothing, nothing, write, (c.as_mut_ptr(), 3), CHAIN) };
            assert_eq!(c, [want; 6]);
        }
    }
}
