//! Products of single rows with weights in blocks: integer dot products within a block, whose results
//! are added in f32.
//!
//! The order of additions is fixed: block b belongs to half b % 2 of [`LANES`] sums, and in it every
//! four neighbouring elements to one sum. All versions have the same bits.

use half::f16;

use crate::cpu::buffer::Buffer;
use crate::cpu::math::LANES;
use crate::quantized::{BLOCK, BlockType};

/// Sums of a block.
const SUMS: usize = LANES / 2;
/// Elements of a sum of integers.
const GROUP: usize = BLOCK / SUMS;

/// Rows of activations, rounded to 8 bits in blocks of 32.
pub(super) struct RoundedRows {
    quants: Vec<i8>,
    /// One for each block.
    scales: Buffer,
    blocks: usize,
}

impl RoundedRows {
    /// The rows of `x`, of `inputs` elements each.
    ///
    /// # Panics
    /// A row has no whole blocks.
    pub(super) fn new(x: &[f32], inputs: usize) -> RoundedRows {
        assert!(inputs.is_multiple_of(BLOCK), "rows of whole blocks");
        let mut rows =
            RoundedRows { quants: vec![0; x.len()], scales: Buffer::new(x.len() / BLOCK), blocks: inputs / BLOCK };
        round(x, &mut rows.quants, &mut rows.scales);
        rows
    }

    /// Number of rows.
    fn count(&self) -> usize {
        self.quants.len() / (self.blocks * BLOCK).max(1)
    }

    fn row(&self, row: usize) -> Row<'_> {
        let first = row * self.blocks;
        Row {
            quants: &self.quants[first * BLOCK..(first + self.blocks) * BLOCK],
            scales: &self.scales[first..first + self.blocks],
        }
    }
}

/// A rounded row.
#[derive(Clone, Copy)]
struct Row<'r> {
    quants: &'r [i8],
    scales: &'r [f32],
}

crate::cpu::math::multiversion! {
    /// Rounds each block of `x` to the nearest multiples of a 127th of its largest element.
    fn round(x: &[f32], quants: &mut [i8], scales: &mut [f32]) {
        /// Adding this rounds to a whole number, which is then in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        for ((x, quants), scale) in x.chunks_exact(BLOCK).zip(quants.chunks_exact_mut(BLOCK)).zip(scales) {
            let mut largest = [0f32; LANES];
            for x in x.chunks_exact(LANES) {
                for lane in 0..LANES {
                    let size = x[lane].abs();
                    largest[lane] = if size > largest[lane] { size } else { largest[lane] };
                }
            }
            let largest = largest.into_iter().fold(0f32, |a, b| if b > a { b } else { a });
            *scale = largest / 127.0;
            let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
            for (quant, x) in quants.iter_mut().zip(x) {
                let rounded = x * inverse + ROUND;
                *quant = (rounded.to_bits() & 0xff) as u8 as i8;
            }
        }
    }
}

/// `y [outputs, rows]`: the products of each row of `weight` with each row of `x`.
pub(super) fn multiply(kind: BlockType, weight: &[u8], x: &RoundedRows, y: &mut [f32]) {
    let (rows, size) = (x.count(), x.blocks * kind.size());
    let dot = Kernel::of_machine(kind);
    for (y, weight) in y.chunks_exact_mut(rows).zip(weight.chunks_exact(size)) {
        for (row, y) in y.iter_mut().enumerate() {
            *y = dot.run(weight, x.row(row));
        }
    }
}

/// The version of the dot product for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Portable(BlockType),
    #[cfg(target_arch = "x86_64")]
    Avx2(BlockType),
}

impl Kernel {
    fn of_machine(kind: BlockType) -> Kernel {
        #[cfg(target_arch = "x86_64")]
        {
            use crate::cpu::Vectors;
            if Vectors::available() >= Vectors::Avx2 && std::arch::is_x86_feature_detected!("f16c") {
                return Kernel::Avx2(kind);
            }
        }
        Kernel::Portable(kind)
    }

    #[inline(always)]
    fn run(self, weight: &[u8], x: Row<'_>) -> f32 {
        match self {
            Kernel::Portable(kind) => portable(kind, weight, x),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has these instructions.
            Kernel::Avx2(BlockType::Q4_0) => unsafe { avx2::dot::<true>(weight, x) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2(_) => unsafe { avx2::dot::<false>(weight, x) },
        }
    }
}

/// The dot product of a row of blocks with a row of activations.
fn portable(kind: BlockType, weight: &[u8], x: Row<'_>) -> f32 {
    let mut lanes = [0f32; LANES];
    for (index, block) in weight.chunks_exact(kind.size()).enumerate() {
        let quants = quants(kind, &block[2..]);
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32() * x.scales[index];
        let x = &x.quants[index * BLOCK..(index + 1) * BLOCK];
        let lanes = &mut lanes[index % 2 * SUMS..][..SUMS];
        for ((lane, quants), x) in lanes.iter_mut().zip(quants.chunks_exact(GROUP)).zip(x.chunks_exact(GROUP)) {
            let sum: i32 = quants.iter().zip(x).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
            *lane += scale * sum as f32;
        }
    }
    lanes.iter().sum()
}

/// The whole numbers of a block.
fn quants(kind: BlockType, bytes: &[u8]) -> [i8; BLOCK] {
    let mut quants = [0; BLOCK];
    match kind {
        BlockType::Q8_0 => quants.iter_mut().zip(bytes).for_each(|(quant, byte)| *quant = byte.cast_signed()),
        BlockType::Q4_0 => {
            let (low, high) = quants.split_at_mut(BLOCK / 2);
            for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
                *low = (byte & 15).cast_signed() - 8;
                *high = (byte >> 4).cast_signed() - 8;
            }
        }
        BlockType::Q4_1 => unreachable!("weights with minimums are widened"),
    }
    quants
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{BLOCK, LANES, Row, SUMS};

    /// The dot product of a row of q8_0 blocks, or q4_0 if `FOUR`, with a row of activations.
    ///
    /// # Safety
    /// The machine has AVX2 and F16C.
    #[target_feature(enable = "avx2,f16c")]
    pub(super) unsafe fn dot<const FOUR: bool>(weight: &[u8], x: Row<'_>) -> f32 {
        let size = if FOUR { 2 + BLOCK / 2 } else { 2 + BLOCK };
        let blocks = x.scales.len();
        assert!(weight.len() == blocks * size && x.quants.len() == blocks * BLOCK, "rows of equally many blocks");
        let mut sums = [_mm256_setzero_ps(); 2];
        let mut pairs = 0;
        while pairs + 2 <= blocks {
            for (half, sum) in sums.iter_mut().enumerate() {
                // SAFETY: an existing block of both rows.
                *sum = unsafe { add_block::<FOUR>(*sum, weight.as_ptr().add((pairs + half) * size), x, pairs + half) };
            }
            pairs += 2;
        }
        if pairs < blocks {
            // SAFETY: as above.
            sums[0] = unsafe { add_block::<FOUR>(sums[0], weight.as_ptr().add(pairs * size), x, pairs) };
        }
        let mut lanes = [0f32; LANES];
        for (sum, lanes) in sums.into_iter().zip(lanes.chunks_exact_mut(SUMS)) {
            // SAFETY: eight floats.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        }
        lanes.iter().sum()
    }

    /// Adds the products of block `index` to `sums`.
    ///
    /// # Safety
    /// The machine has AVX2 and F16C; `block` is a whole block, and `x` has block `index`.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn add_block<const FOUR: bool>(sums: __m256, block: *const u8, x: Row<'_>, index: usize) -> __m256 {
        // SAFETY: within the block, by the caller's promise.
        let quants = unsafe {
            if FOUR {
                let bytes = _mm_loadu_si128(block.add(2).cast());
                let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
                _mm256_sub_epi8(_mm256_and_si256(both, _mm256_set1_epi8(15)), _mm256_set1_epi8(8))
            } else {
                _mm256_loadu_si256(block.add(2).cast())
            }
        };
        // SAFETY: as above.
        let activations = unsafe { _mm256_loadu_si256(x.quants.as_ptr().add(index * BLOCK).cast()) };
        // Sizes of the weights times the activations with the weights' signs: pairs fit in 16 bits,
        // because activations are at least -127.
        let sizes = _mm256_sign_epi8(quants, quants);
        let pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(activations, quants));
        let groups = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        // SAFETY: the first two bytes of the block.
        let bits = unsafe { block.cast::<u16>().read_unaligned() };
        let scale = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)));
        // SAFETY: an existing scale.
        let scale = unsafe { _mm_mul_ss(scale, _mm_load_ss(x.scales.as_ptr().add(index))) };
        _mm256_add_ps(sums, _mm256_mul_ps(_mm256_broadcastss_ps(scale), groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i * 7919 + seed * 31) % 1013) as f32 - 500.0) / 250.0).collect()
    }

    #[test]
    fn products_are_those_of_the_rounded_numbers_and_every_version_has_the_same_bits() {
        for kind in [BlockType::Q8_0, BlockType::Q4_0] {
            // Odd and even numbers of blocks; the most negative quants.
            for blocks in [1, 2, 5, 12] {
                let (inputs, outputs) = (blocks * BLOCK, 7);
                let mut weight = Vec::new();
                kind.encode(&values(outputs * inputs, 3), &mut weight);
                weight[2..kind.size()].fill(if kind == BlockType::Q8_0 { 0x80 } else { 0 });
                let x = values(3 * inputs, 8);
                let rows = RoundedRows::new(&x, inputs);
                let mut y = vec![f32::NAN; outputs * 3];
                multiply(kind, &weight, &rows, &mut y);
                let mut wide = vec![0f32; outputs * inputs];
                kind.decode(&weight, &mut wide);
                for (index, y) in y.iter().enumerate() {
                    let (output, row) = (index / 3, index % 3);
                    let w = &wide[output * inputs..(output + 1) * inputs];
                    let x = &x[row * inputs..(row + 1) * inputs];
                    let exact: f64 = w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    // Half a step of each activation.
                    let most: f64 = w.iter().map(|w| f64::from(w.abs()) * 2.0 / 253.9).sum();
                    assert!((f64::from(*y) - exact).abs() <= most, "{y} {exact} {most}");
                    let one =
                        portable(kind, &weight[output * blocks * kind.size()..][..blocks * kind.size()], rows.row(row));
                    assert_eq!(y.to_bits(), one.to_bits(), "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn activations_are_rounded_to_the_nearest_and_zeros_stay_zeros() {
        let mut x = vec![0f32; 2 * BLOCK];
        x[0] = -12.7;
        x[1] = 0.149;
        x[2] = 0.151;
        let rows = RoundedRows::new(&x, 2 * BLOCK);
        assert_eq!(rows.quants[..4], [-127, 1, 2, 0]);
        assert!((rows.scales[0] - 0.1).abs() < 1e-7 && rows.scales[1] == 0.0);
        assert!(rows.quants[BLOCK..].iter().all(|quant| *quant == 0));
    }
}
