//! The order in which an epoch visits the rows of a [`crate::Memmap`], identical to OLMo's.
//!
//! OLMo shuffles `arange(N, dtype=uint32)` with `numpy.random.Generator(PCG64(seed + epoch))`. This
//! module implements numpy's SeedSequence, PCG64 (XSL-RR 128/64), masked rejection and
//! Fisher-Yates, so a run sees rows in the same order as the Python trainer. The order depends only
//! on the number of rows, the seed and the epoch, never on the batch size or the number of
//! processes.

use std::io::Write as _;

/// The rows `0..instances` in the order of `epoch`, counted from 0.
pub fn epoch_order(instances: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let last = u32::try_from(instances).unwrap_or(u32::MAX);
    let mut order: Vec<u32> = (0..last).collect();
    let mut random = Pcg64::from_seed(u128::from(seed) + u128::from(epoch));
    for i in (1..last).rev() {
        let j = random.below_or_equal(i);
        order.swap(i as usize, j as usize);
    }
    order
}

/// The rows of consecutive epochs, from any position.
///
/// The position is a single number, the rows visited so far; it does not depend on batch size,
/// workers or processes.
pub struct Order {
    instances: usize,
    /// Number of rows visited per epoch; the rest is skipped.
    per_epoch: usize,
    seed: u64,
    cursor: u64,
    epoch: Option<(u64, Vec<u32>)>,
}

impl Order {
    /// The order of `instances` rows from `cursor` on. An epoch visits the largest multiple of
    /// `multiple` rows, the number of rows taken together.
    pub fn new(instances: usize, multiple: usize, seed: u64, cursor: u64) -> Self {
        let per_epoch = instances - instances % multiple.max(1);
        Self { instances, per_epoch, seed, cursor, epoch: None }
    }

    /// Continues from `cursor`.
    pub fn seek(&mut self, cursor: u64) {
        self.cursor = cursor;
    }

    /// Number of rows visited so far; a new [`Order`] can continue from here.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }
}

impl Iterator for Order {
    /// The epoch, from 0, and the row.
    type Item = (u64, u32);

    /// `None` only if an epoch has no rows.
    fn next(&mut self) -> Option<(u64, u32)> {
        let epoch = self.cursor.checked_div(self.per_epoch as u64)?;
        if self.epoch.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.epoch = Some((epoch, epoch_order(self.instances, self.seed, epoch)));
        }
        let (_, order) = self.epoch.as_ref()?;
        let row = order[(self.cursor % self.per_epoch as u64) as usize];
        self.cursor += 1;
        Some((epoch, row))
    }
}

/// Digest of the data of a step: BLAKE3 over its row indices, ids and labels (if any; one byte
/// each), in the order of the step, as 64 hex digits. Numbers are 32-bit little-endian.
pub fn batch_digest(rows: &[u32], input_ids: &[u32], label_mask: Option<&[bool]>) -> String {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut hasher = olmo_base::Digest::hasher();
    let labels = label_mask.unwrap_or_default().iter().map(|label| u8::from(*label)).collect();
    for part in [words(rows), words(input_ids), labels] {
        // Hashing cannot fail.
        let _ = hasher.write_all(&part);
    }
    hasher.finish().hex()
}

/// numpy's `SeedSequence(entropy).generate_state(8, uint32)`.
fn seed_state(entropy: u128) -> [u32; 8] {
    const INIT_A: u32 = 0x43b0_d7e5;
    const MULT_A: u32 = 0x931e_8875;
    const MIX_L: u32 = 0xca01_f9dd;
    const MIX_R: u32 = 0x4973_f715;
    const INIT_B: u32 = 0x8b51_f9dd;
    const MULT_B: u32 = 0x58f3_8ded;

    let mut hash = INIT_A;
    let mut hash_mix = |value: u32| {
        let mixed = value ^ hash;
        hash = hash.wrapping_mul(MULT_A);
        let mixed = mixed.wrapping_mul(hash);
        mixed ^ mixed >> 16
    };
    // Four words of entropy fill the pool exactly; numpy zero-pads shorter entropy.
    let mut pool: [u32; 4] = std::array::from_fn(|i| hash_mix((entropy >> (32 * i)) as u32));
    for source in 0..4 {
        for target in 0..4 {
            if source != target {
                let mixed = MIX_L.wrapping_mul(pool[target]).wrapping_sub(MIX_R.wrapping_mul(hash_mix(pool[source])));
                pool[target] = mixed ^ mixed >> 16;
            }
        }
    }
    let mut hash = INIT_B;
    std::array::from_fn(|i| {
        let mixed = pool[i % 4] ^ hash;
        hash = hash.wrapping_mul(MULT_B);
        let mixed = mixed.wrapping_mul(hash);
        mixed ^ mixed >> 16
    })
}

/// numpy's `PCG64` with its buffered 32-bit draws.
struct Pcg64 {
    state: u128,
    increment: u128,
    buffered: Option<u32>,
}

impl Pcg64 {
    const MULTIPLIER: u128 = 2_549_297_995_355_413_924 << 64 | 4_865_540_595_714_422_341;

    fn from_seed(entropy: u128) -> Self {
        let words = seed_state(entropy);
        let pair = |i: usize| u128::from(words[2 * i]) | u128::from(words[2 * i + 1]) << 32;
        let initial = pair(0) << 64 | pair(1);
        let sequence = pair(2) << 64 | pair(3);
        let mut random = Self { state: 0, increment: sequence << 1 | 1, buffered: None };
        random.step();
        random.state = random.state.wrapping_add(initial);
        random.step();
        random
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(Self::MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// Returns the low half of a 64-bit draw first, then its high half.
    fn next_u32(&mut self) -> u32 {
        self.buffered.take().unwrap_or_else(|| {
            let draw = self.next_u64();
            self.buffered = Some((draw >> 32) as u32);
            draw as u32
        })
    }

    /// numpy's `random_interval`: a number in `0..=max`, `max > 0`.
    fn below_or_equal(&mut self, max: u32) -> u32 {
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_rows_come_in_the_order_that_numpy_gives() {
        assert_eq!(epoch_order(16, 0, 0), [2, 11, 3, 10, 0, 4, 7, 5, 14, 12, 6, 9, 13, 8, 1, 15]);
        assert_eq!(epoch_order(16, 42, 0), [6, 15, 11, 10, 9, 3, 0, 7, 12, 5, 2, 4, 14, 1, 13, 8]);
        assert_eq!(epoch_order(16, 6198, 0), [4, 14, 6, 15, 3, 2, 13, 0, 10, 11, 9, 7, 8, 1, 12, 5]);
    }

    #[test]
    fn the_epoch_is_added_to_the_seed() {
        assert_eq!(epoch_order(16, 40, 2), epoch_order(16, 42, 0));
        assert_ne!(epoch_order(16, 42, 1), epoch_order(16, 42, 0));
    }

    #[test]
    fn long_orders_are_those_of_numpy() {
        assert_eq!(epoch_order(1000, 6198, 0)[..5], [615, 832, 881, 9, 648]);
        // BLAKE3 digests of orders whose SHA-256 matched numpy 1.26's: fc4c978b, 078a1b0c,
        // 72ac7e5c.
        let digest = |instances, seed| {
            let bytes: Vec<u8> = epoch_order(instances, seed, 0).iter().flat_map(|row| row.to_le_bytes()).collect();
            olmo_base::Digest::of(&bytes).short()
        };
        assert_eq!(digest(1000, 6198), "7298861a98cf");
        assert_eq!(digest(100_000, 6198), "99efdbc95fea");
        assert_eq!(digest(100_000, 42), "9a7862f0af26");
    }

    #[test]
    fn an_order_goes_on_from_any_cursor() {
        let whole: Vec<(u64, u32)> = Order::new(10, 3, 7, 0).take(40).collect();
        assert_eq!(whole[..9].iter().map(|(_, row)| *row).collect::<Vec<_>>(), epoch_order(10, 7, 0)[..9]);
        assert_eq!(whole[9], (1, epoch_order(10, 7, 1)[0]));
        for cut in 0..40 {
            let mut first = Order::new(10, 3, 7, 0);
            first.by_ref().take(cut).for_each(drop);
            let rest: Vec<(u64, u32)> = Order::new(10, 3, 7, first.cursor()).take(40 - cut).collect();
            assert_eq!(rest, whole[cut..]);
            first.seek(0);
            assert!(first.take(40).eq(whole.iter().copied()));
        }
        assert_eq!(Order::new(2, 3, 7, 0).next(), None);
    }

    #[test]
    fn every_row_comes_once() {
        for instances in [0, 1, 2, 3, 97] {
            let mut order = epoch_order(instances, 7, 3);
            order.sort_unstable();
            assert_eq!(order, (0..instances as u32).collect::<Vec<_>>());
        }
    }
}
