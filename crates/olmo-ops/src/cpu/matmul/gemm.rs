//! The matrix product for machines with AVX-512 or AVX2, where a training step spends most of its
//! time.
//!
//! Each element is computed by the same sequence of operations as in `matrixmultiply`, so results
//! are bit-identical: the sum runs in chains of (there 256) fused multiply-adds that start at zero,
//! and the chains are added in order. The rest differs: tiles that fill the registers, no packing of
//! the left matrix if its rows are contiguous, vectorised packing, and memory that is reused per
//! thread.

use std::arch::x86_64::{__m256, __m512, _MM_HINT_T0, _mm_prefetch};
use std::cell::RefCell;
use std::ops::Range;

use super::matrix::{Strided, Write};
use super::vector::Vector;
use crate::cpu::Vectors;

/// Registers in a row of a tile.
const WIDE: usize = 2;

/// Limits of the packed columns, in columns and in floats: they stay in the second-level cache.
const PACKED_COLUMNS: usize = 1024;
const PACKED: usize = 1 << 17;

/// Number of row tiles that use a packed strip of columns in sequence.
const BLOCK: usize = 8;

/// `c [m, n] (+)= a [m, k] b [k, n]` in the calling thread; c is row-major with its stride. A chain
/// adds `chain` terms. Whether it was done: this machine may have no instructions for it.
///
/// # Safety
/// All three matrices are in readable memory (c: writable), and c does not overlap anything in use.
#[inline]
pub(super) unsafe fn gemm(
    size: [usize; 3],
    a: Strided,
    b: Strided,
    write: Write,
    c: (*mut f32, usize),
    chain: usize,
) -> bool {
    match Vectors::available() {
        // SAFETY: the machine has AVX-512; the caller guarantees the rest.
        Vectors::Avx512 => unsafe { gemm_512(size, a, b, write, c, chain) },
        Vectors::Avx2 if std::arch::is_x86_feature_detected!("fma") => {
            // SAFETY: the machine has AVX2 and FMA; the caller guarantees the rest.
            unsafe { gemm_256(size, a, b, write, c, chain) }
        }
        Vectors::Avx2 | Vectors::Baseline => return false,
    }
    true
}

/// # Safety
/// See [`gemm`]; the machine has AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn gemm_512(size: [usize; 3], a: Strided, b: Strided, write: Write, c: (*mut f32, usize), chain: usize) {
    // SAFETY: by the caller's promise.
    unsafe { gemm_of::<__m512>(size, a, b, write, c, chain) }
}

/// # Safety
/// See [`gemm`]; the machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn gemm_256(size: [usize; 3], a: Strided, b: Strided, write: Write, c: (*mut f32, usize), chain: usize) {
    // SAFETY: by the caller's promise.
    unsafe { gemm_of::<__m256>(size, a, b, write, c, chain) }
}

/// # Safety
/// See [`gemm`]; the machine has V's instructions.
#[inline(always)]
unsafe fn gemm_of<V: Vector>(
    [m, n, k]: [usize; 3],
    (a, [a_row, a_column]): Strided,
    (b, [b_row, b_column]): Strided,
    write: Write,
    (c, c_stride): (*mut f32, usize),
    chain: usize,
) {
    let (tile_rows, tile_columns) = (V::ROWS, WIDE * V::LANES);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 && write == Write::New {
        for row in 0..m {
            // SAFETY: a row of c.
            unsafe { std::slice::from_raw_parts_mut(c.add(row * c_stride), n) }.fill(0.0);
        }
    }
    let tiles = m.div_ceil(tile_rows);
    // As even as possible: a tile of a single row takes as long as one of four.
    let row = |tile: usize| tile * (m / tiles) + tile.min(m % tiles);
    let depth = k.min(chain);
    // As many chains at a time as packed columns fit, so that c is read and written while it is
    // cached.
    let width = n.min(PACKED_COLUMNS).next_multiple_of(tile_columns);
    let at_once = (PACKED / (depth.max(1) * width)).max(1) * chain;
    // Contiguous rows are read in place, others are packed.
    let packs = a_column != 1;
    let panels = if packs { tiles.min(BLOCK) * tile_rows * depth } else { 0 };
    let mut memory = Memory::take(k.min(at_once) * width + panels);
    let packed_b = memory.start();
    // SAFETY: offsets stay within the matrices, whose sizes the caller guarantees, and within the
    // memory, whose parts are as large as their blocks: the summed length times the columns of a tile
    // for each strip, `depth` times its rows for each panel.
    unsafe {
        let packed_a = packed_b.add(k.min(at_once) * width);
        for left in (0..n).step_by(PACKED_COLUMNS) {
            let columns = PACKED_COLUMNS.min(n - left);
            for start in (0..k).step_by(at_once) {
                let end = (start + at_once).min(k);
                // Start of the strips of the chain from `top` on; chains are stored in sequence.
                let strips = |top: usize| packed_b.add((top - start) * columns.next_multiple_of(tile_columns));
                for top in (start..end).step_by(chain) {
                    let depth = chain.min(end - top);
                    for strip in (0..columns).step_by(tile_columns) {
                        let from = b.add((left + strip) * b_column + top * b_row);
                        let there = tile_columns.min(columns - strip);
                        let to = strips(top).add(strip * depth);
                        pack::<V>(tile_columns, depth, there, from, [b_column, b_row], to);
                    }
                }
                for first in (0..tiles).step_by(BLOCK) {
                    let block = first..(first + BLOCK).min(tiles);
                    for top in (start..end).step_by(chain) {
                        let depth = chain.min(end - top);
                        let add = write == Write::Add || top > 0;
                        let panel = |tile: usize| packed_a.add((tile - first) * tile_rows * depth);
                        if packs && a_row == 1 {
                            pack_columns::<V>(depth, block.clone(), row, a.add(top * a_column), a_column, packed_a);
                        } else if packs {
                            for tile in block.clone() {
                                let from = a.add(row(tile) * a_row + top * a_column);
                                let rows = row(tile + 1) - row(tile);
                                pack::<V>(tile_rows, depth, rows, from, [a_row, a_column], panel(tile));
                            }
                        }
                        for strip in (0..columns).step_by(tile_columns) {
                            for tile in block.clone() {
                                let a = if packs {
                                    (panel(tile).cast_const(), [1, tile_rows])
                                } else {
                                    (a.add(row(tile) * a_row + top), [a_row, 1])
                                };
                                let b = strips(top).add(strip * depth);
                                let target = c.add(row(tile) * c_stride + left + strip);
                                let size = [row(tile + 1) - row(tile), tile_columns.min(columns - strip)];
                                tile_of::<V>(size, depth, a, b, add, (target, c_stride));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Packs tiles of a matrix with contiguous columns, column by column: each is read once from end to
/// end.
///
/// # Safety
/// The tiles' rows are in readable memory, and `to` has room for all of them, padded.
#[inline(always)]
unsafe fn pack_columns<V: Vector>(
    depth: usize,
    block: Range<usize>,
    row: impl Fn(usize) -> usize,
    from: *const f32,
    stride: usize,
    to: *mut f32,
) {
    let mut tiles = [(0, 0); BLOCK];
    for (place, tile) in tiles.iter_mut().zip(block.clone()) {
        *place = (row(tile), row(tile + 1) - row(tile));
    }
    for index in 0..depth {
        for (number, (row, rows)) in tiles[..block.len()].iter().enumerate() {
            // SAFETY: the tile's rows of an existing column, and its panel.
            unsafe {
                let values = V::load_first(*rows, from.wrapping_add(index * stride + row));
                values.store_first(V::ROWS, to.add((number * depth + index) * V::ROWS));
            }
        }
    }
}

/// One tile with any number of rows.
///
/// # Safety
/// See [`tile`].
#[inline(always)]
unsafe fn tile_of<V: Vector>(
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
                match (rows, a.1[0]) {
                    $(($known, 1) if $known <= V::ROWS && a.1[1] == V::ROWS => {
                        tile::<V, $known>(columns, depth, (a.0, [1, V::ROWS]), b, add, c)
                    })*
                    $(($known, row) if $known <= V::ROWS => {
                        tile::<V, $known>(columns, depth, (a.0, [row, 1]), b, add, c)
                    })*
                    _ => unreachable!("a tile has 1 to {} rows", V::ROWS),
                }
            }
        };
    }
    choose!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// `c [R, columns] (+)= a b` for one tile: a with its strides, b a packed strip `[depth, columns of a
/// tile]`.
///
/// # Safety
/// The machine has V's instructions. The tile's rows of a, and the aligned strip b, are in readable
/// memory; the tile's columns of its rows of c are in writable memory that nothing else uses.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize>(
    columns: usize,
    depth: usize,
    (mut a, [a_row, a_column]): Strided,
    mut b: *const f32,
    add: bool,
    (c, c_stride): (*mut f32, usize),
) {
    // SAFETY: guaranteed by the caller; columns beyond the tile's are neither read nor written.
    unsafe {
        let mut sums = [[V::zero(); WIDE]; R];
        for row in 0..R {
            _mm_prefetch::<_MM_HINT_T0>(c.add(row * c_stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.add(row * c_stride + columns - 1).cast());
        }
        for _ in 0..depth {
            let right = [V::load(b), V::load(b.add(V::LANES))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = V::splat(*a.add(row * a_row));
                sums[0] = sums[0].plus_product(left, right[0]);
                sums[1] = sums[1].plus_product(left, right[1]);
            }
            // Neither is read after the last term.
            a = a.wrapping_add(a_column);
            b = b.wrapping_add(WIDE * V::LANES);
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, mut sum) in sums.into_iter().enumerate() {
                let there = columns.saturating_sub(half * V::LANES);
                let to = c.wrapping_add(row * c_stride + half * V::LANES);
                if add {
                    sum = V::load_first(there, to).plus(sum);
                }
                sum.store_first(there, to);
            }
        }
    }
}

/// Packs `rows` (at most `width`) rows of `depth` elements as `to [depth, width]`, padded with zeros;
/// strides are of rows and of elements.
///
/// # Safety
/// The machine has V's instructions; the rows are in readable memory, and `to` has room for
/// `depth * width` elements.
#[inline(always)]
unsafe fn pack<V: Vector>(
    width: usize,
    depth: usize,
    rows: usize,
    from: *const f32,
    [row_stride, stride]: [usize; 2],
    to: *mut f32,
) {
    for start in (0..width).step_by(V::LANES) {
        let there = rows.saturating_sub(start).min(V::LANES);
        let written = V::LANES.min(width - start);
        // SAFETY: only the first `rows` rows are read, only `width` columns are written.
        unsafe {
            let (from, to) = (from.wrapping_add(start * row_stride), to.add(start));
            if stride == 1 && there > 0 {
                for top in (0..depth).step_by(V::LANES) {
                    let count = V::LANES.min(depth - top);
                    let to = to.add(top * width);
                    if there == V::LANES && count == V::LANES {
                        V::transpose([V::LANES, V::LANES], from.add(top), row_stride, (to, width), written);
                    } else {
                        V::transpose([there, count], from.add(top), row_stride, (to, width), written);
                    }
                }
            } else if row_stride == 1 {
                for index in 0..depth {
                    let values = V::load_first(there, from.wrapping_add(index * stride));
                    values.store_first(written, to.add(index * width));
                }
            } else {
                for index in 0..depth {
                    for row in 0..written {
                        let value = if row < there { *from.add(row * row_stride + index * stride) } else { 0.0 };
                        *to.add(index * width + row) = value;
                    }
                }
            }
        }
    }
}

/// Floats that a thread keeps for its next product, aligned for vectors. They contain leftovers.
struct Memory(Vec<Line>);

/// The floats of the widest register.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "written through a pointer")] [f32; 16]);

thread_local! {
    static MEMORY: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

impl Memory {
    /// At least `length` floats.
    fn take(length: usize) -> Self {
        let mut lines = MEMORY.take();
        let wanted = length.div_ceil(16);
        if lines.len() < wanted {
            lines.clear(); // The old content need not be copied.
            lines.resize(wanted, Line([0.0; 16]));
        }
        Self(lines)
    }

    fn start(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        MEMORY.set(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::matmul::compute::CHAIN;

    type Gemm = unsafe fn([usize; 3], Strided, Strided, Write, (*mut f32, usize), usize);

    /// The products of this machine; those that it cannot run are reported.
    fn products() -> Vec<Gemm> {
        let mut products: Vec<Gemm> = Vec::new();
        if std::arch::is_x86_feature_detected!("avx512f") {
            products.push(gemm_512);
        } else {
            olmo_base::testing::skip("this machine has no AVX-512");
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            products.push(gemm_256);
        } else {
            olmo_base::testing::skip("this machine has no AVX2 with FMA");
        }
        products
    }

    fn matrix(length: usize, seed: usize) -> Vec<f32> {
        (0..length).map(|i| (((i * 7919 + seed) % 1013) as f32 - 500.0) / 311.0).collect()
    }

    /// Whether a is transposed, and whether b is.
    const LAYOUTS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

    #[test]
    fn products_have_the_bits_of_matrixmultiply() {
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
        let cases = shapes.into_iter().flat_map(|shape| LAYOUTS.map(|layout| (shape, layout)));
        for (gemm, ([m, n, k], [a_turned, b_turned])) in
            products().into_iter().flat_map(|gemm| cases.clone().map(move |case| (gemm, case)))
        {
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
                // SAFETY: the machine has the instructions, and the matrices have the given sizes and strides.
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
        // More chains than packed columns fit at a time, too.
        let cases = [([40, 70, 200], 83), ([30, 1030, 300], 32), ([13, 33, 512], 256)];
        for (gemm, ([m, n, k], chain)) in products().into_iter().flat_map(|gemm| cases.map(|case| (gemm, case))) {
            let (a, b, mut got) = (matrix(m * k, 1), matrix(k * n, 2), matrix(m * n, 3));
            let mut want = got.clone();
            // SAFETY: the machine has the instructions, and the matrices have the given sizes and strides.
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
        let empty = [0f32; 1];
        for (gemm, (write, want)) in
            products().into_iter().flat_map(|gemm| [(Write::Add, 7.0), (Write::New, 0.0)].map(|case| (gemm, case)))
        {
            let nothing = (empty.as_ptr(), [1, 1]);
            let mut c = vec![7f32; 6];
            // SAFETY: the machine has the instructions; nothing is read, and c has two rows of three.
            unsafe { gemm([2, 3, 0], nothing, nothing, write, (c.as_mut_ptr(), 3), CHAIN) };
            assert_eq!(c, [want; 6]);
        }
    }
}
