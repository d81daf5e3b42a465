//! [`BlockType`]: blocks of 32 weights with a common scale, as in GGUF files.
//!
//! The bytes are those of llama.cpp: the scale in f16 comes first, then the quants. In a block of 4-bit
//! quants, byte i has element i in its low half and element i + 16 in its high half.

use half::f16;

/// Number of elements in a block.
pub const BLOCK: usize = 32;

/// How a block of 32 elements is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// `scale * quant`, 8-bit quants from -127 to 127.
    Q8_0,
    /// `scale * (quant - 8)`, 4-bit quants.
    Q4_0,
    /// `scale * quant + minimum`, 4-bit quants. It can be read, not written.
    Q4_1,
}

impl BlockType {
    /// Size of a block in bytes.
    pub fn size(self) -> usize {
        match self {
            BlockType::Q8_0 => 2 + BLOCK,
            BlockType::Q4_0 => 2 + BLOCK / 2,
            BlockType::Q4_1 => 4 + BLOCK / 2,
        }
    }

    /// The name in GGUF.
    pub fn name(self) -> &'static str {
        match self {
            BlockType::Q8_0 => "q8_0",
            BlockType::Q4_0 => "q4_0",
            BlockType::Q4_1 => "q4_1",
        }
    }

    /// Writes the elements of `blocks` into `target`.
    ///
    /// # Panics
    /// The sizes differ, or a block is incomplete.
    pub fn decode(self, blocks: &[u8], target: &mut [f32]) {
        assert_eq!(blocks.len() / self.size() * BLOCK, target.len(), "as many elements as the blocks have");
        for (block, target) in blocks.chunks_exact(self.size()).zip(target.chunks_exact_mut(BLOCK)) {
            let (scale, rest) = (half(block), &block[2..]);
            match self {
                BlockType::Q8_0 => {
                    for (target, quant) in target.iter_mut().zip(rest) {
                        *target = scale * f32::from(quant.cast_signed());
                    }
                }
                BlockType::Q4_0 => halves(rest, target, |quant| scale * (f32::from(quant) - 8.0)),
                BlockType::Q4_1 => {
                    let minimum = half(rest);
                    halves(&rest[2..], target, |quant| scale * f32::from(quant) + minimum);
                }
            }
        }
    }

    /// Appends the blocks of `values`, rounded as llama.cpp rounds them.
    ///
    /// # Panics
    /// A block is incomplete, or this type cannot be written.
    pub fn encode(self, values: &[f32], blocks: &mut Vec<u8>) {
        assert!(values.len().is_multiple_of(BLOCK), "whole blocks");
        for values in values.chunks_exact(BLOCK) {
            match self {
                BlockType::Q8_0 => {
                    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                    let scale = largest / 127.0;
                    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                    blocks.extend(f16::from_f32(scale).to_le_bytes());
                    // Half away from zero.
                    blocks.extend(values.iter().map(|value| ((value * inverse).round() as i8).cast_unsigned()));
                }
                BlockType::Q4_0 => {
                    let mut largest = 0f32;
                    for value in values {
                        if value.abs() > largest.abs() {
                            largest = *value;
                        }
                    }
                    let scale = largest / -8.0;
                    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                    blocks.extend(f16::from_f32(scale).to_le_bytes());
                    let quant = |value: f32| ((value * inverse + 8.5) as u8).min(15);
                    let (low, high) = values.split_at(BLOCK / 2);
                    blocks.extend(low.iter().zip(high).map(|(low, high)| quant(*low) | quant(*high) << 4));
                }
                BlockType::Q4_1 => unreachable!("q4_1 is only read"),
            }
        }
    }

    /// The first scale (or minimum) among `blocks` that is infinite or NaN, with the index of its
    /// block's first element.
    pub(crate) fn first_not_finite(self, blocks: &[u8]) -> Option<(usize, f32)> {
        let numbers = |block: &[u8]| [half(block), if self == BlockType::Q4_1 { half(&block[2..]) } else { 0.0 }];
        let wrong = |block: &[u8]| numbers(block).into_iter().find(|number| !number.is_finite());
        blocks.chunks_exact(self.size()).enumerate().find_map(|(index, block)| Some((index * BLOCK, wrong(block)?)))
    }
}

/// The f16 at the start of `bytes`.
#[inline(always)]
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Writes the values of 4-bit quants.
fn halves(quants: &[u8], target: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = target.split_at_mut(BLOCK / 2);
    for ((byte, low), high) in quants.iter().zip(low).zip(high) {
        *low = value(byte & 15);
        *high = value(byte >> 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_their_values_within_half_a_step() {
        let values: Vec<f32> = (0..96).map(|i| ((i * 7919 % 1013) as f32 - 500.0) / 300.0).collect();
        for (kind, steps) in [(BlockType::Q8_0, 254.0), (BlockType::Q4_0, 15.0)] {
            let mut blocks = Vec::new();
            kind.encode(&values, &mut blocks);
            assert_eq!(blocks.len(), 3 * kind.size());
            let mut back = vec![0.0; 96];
            kind.decode(&blocks, &mut back);
            for (values, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                for (value, back) in values.iter().zip(back) {
                    // At the end opposite to the largest value, q4_0 has one step less.
                    let most = largest * 2.0 / steps * if kind == BlockType::Q4_0 { 1.05 } else { 0.51 };
                    assert!((value - back).abs() <= most, "{value} {back}");
                }
            }
            assert_eq!(kind.first_not_finite(&blocks), None);
            blocks[kind.size()..kind.size() + 2].copy_from_slice(&f16::INFINITY.to_le_bytes());
            assert_eq!(kind.first_not_finite(&blocks), Some((32, f32::INFINITY)));
        }
    }

    #[test]
    fn known_blocks_have_known_bytes() {
        let mut values = [0f32; BLOCK];
        values[0] = 127.0;
        values[1] = -2.5;
        values[17] = 0.5;
        let mut blocks = Vec::new();
        BlockType::Q8_0.encode(&values, &mut blocks);
        assert_eq!(blocks[..4], [0x00, 0x3c, 127, (-3i8).cast_unsigned()]);
        assert_eq!(blocks[2 + 17], 1);
        values[0] = -8.0;
        blocks.clear();
        BlockType::Q4_0.encode(&values, &mut blocks);
        // The scale is 1: -8 is 0, -2.5 is 6 after rounding up, 0.5 is 9.
        assert_eq!(blocks[..4], [0x00, 0x3c, 0x80, 0x96]);
        // A minimum of -1 and a scale of 0.5.
        let mut block = [0u8; 20];
        block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0xbc]);
        block[4] = 0xf2;
        let mut target = [0f32; BLOCK];
        BlockType::Q4_1.decode(&block, &mut target);
        assert_eq!((target[0], target[16], target[1]), (0.0, 6.5, -1.0));
    }

    #[test]
    fn a_block_of_zeros_is_a_block_of_zeros() {
        for kind in [BlockType::Q8_0, BlockType::Q4_0] {
            let mut blocks = Vec::new();
            kind.encode(&[0.0; BLOCK], &mut blocks);
            let mut target = [1f32; BLOCK];
            kind.decode(&blocks, &mut target);
            assert_eq!(target, [0f32; BLOCK]);
        }
    }
}
