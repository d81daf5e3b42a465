//! The interface of the crate `ptr_hash` 2.1 that `tokenizers` 1.0 calls: a perfect hash of known
//! keys.
//!
//! The original is made for billions of keys and needs 14 more crates. A tokenizer has some hundred
//! thousand, and `tokenizers` compares the key that it finds with the one it looked for.
//!
//! The method is CHD (Belazzougui, Botelho and Dietzfelbinger, "Hash, displace, and compress",
//! 2009), without the compression: keys fall into small buckets, and each bucket has a number, its
//! pilot, that sends its keys to slots that no other key has.

use std::marker::PhantomData;

pub mod hash {
    /// Keys are hashes already.
    #[derive(Clone, Copy, Debug)]
    pub struct NoHash;
}

/// Settings of the original. There are none here.
#[derive(Clone, Copy, Debug)]
pub struct PtrHashParams;

impl PtrHashParams {
    pub fn default_fast() -> Self {
        Self
    }
}

/// Keys per bucket, on average.
const BUCKET: f64 = 2.5;
/// Fraction of the slots that have a key. With the last buckets of one key each, a pilot out of 256
/// fits with a probability of 1 - 0.85^256.
const FULL: f64 = 0.85;

/// A function from each of a set of `u64` keys to a slot of its own, below
/// [`max_index`](FastPtrHash::max_index). Any other key gets some slot.
#[derive(Clone, Debug)]
pub struct FastPtrHash<Hash, Key> {
    seed: u64,
    slots: u64,
    pilots: Box<[u8]>,
    of: PhantomData<(Hash, Key)>,
}

impl FastPtrHash<hash::NoHash, u64> {
    /// # Panics
    /// If a key occurs twice: no function could tell the two apart.
    pub fn new(keys: &[u64], _: PtrHashParams) -> Self {
        let slots = ((keys.len() as f64 / FULL).ceil() as u64).max(1);
        let buckets = ((keys.len() as f64 / BUCKET).ceil() as usize).max(1);
        let mut seed = 0;
        loop {
            let empty = Self { seed, slots, pilots: vec![0; buckets].into(), of: PhantomData };
            match empty.place(keys) {
                Some(placed) => return placed,
                None => assert!(are_distinct(keys), "a key of a perfect hash occurs twice"),
            }
            seed += 1;
        }
    }

    /// Number of slots.
    pub fn max_index(&self) -> usize {
        self.slots as usize
    }

    /// The slot of `key`.
    #[inline]
    pub fn index(&self, key: &u64) -> usize {
        let mixed = self.mix(*key);
        self.slot(mixed, self.pilots[self.bucket(mixed)])
    }

    #[inline]
    fn mix(&self, key: u64) -> u64 {
        let wide = u128::from(key ^ self.seed) * 0x9e37_79b9_7f4a_7c15_u128;
        (wide as u64) ^ ((wide >> 64) as u64)
    }

    #[inline]
    fn bucket(&self, mixed: u64) -> usize {
        scaled(mixed, self.pilots.len() as u64)
    }

    #[inline]
    fn slot(&self, mixed: u64, pilot: u8) -> usize {
        let turned = (mixed ^ (u64::from(pilot) << 32 | u64::from(pilot))).wrapping_mul(0xd6e8_feb8_6659_fd93);
        scaled(turned ^ turned << 32, self.slots)
    }

    /// Finds the pilots, largest buckets first; `None` if one cannot be placed with this seed.
    fn place(mut self, keys: &[u64]) -> Option<Self> {
        // The keys of each bucket, one bucket after the other.
        let mut ends = vec![0; self.pilots.len() + 1];
        for key in keys {
            ends[self.bucket(self.mix(*key)) + 1] += 1;
        }
        for bucket in 1..ends.len() {
            ends[bucket] += ends[bucket - 1];
        }
        let mut grouped = vec![0; keys.len()];
        for mixed in keys.iter().map(|key| self.mix(*key)) {
            let next = &mut ends[self.bucket(mixed)];
            grouped[*next] = mixed;
            *next += 1;
        }
        // The ends have moved on to those of the buckets themselves.
        let start = |bucket: usize| if bucket == 0 { 0 } else { ends[bucket - 1] };
        let mut by_size: Vec<Vec<usize>> = Vec::new();
        for (bucket, end) in ends[..self.pilots.len()].iter().enumerate() {
            let size = end - start(bucket);
            if by_size.len() <= size {
                by_size.resize(size + 1, Vec::new());
            }
            by_size[size].push(bucket);
        }
        let mut taken = vec![false; self.slots as usize];
        let mut wanted = Vec::new();
        for bucket in by_size.into_iter().skip(1).rev().flatten() {
            let mixed = &grouped[start(bucket)..ends[bucket]];
            let pilot = (0..=u8::MAX).find(|pilot| {
                wanted.clear();
                mixed.iter().all(|mixed| {
                    let slot = self.slot(*mixed, *pilot);
                    let free = !taken[slot] && !wanted.contains(&slot);
                    wanted.push(slot);
                    free
                })
            })?;
            for slot in &wanted {
                taken[*slot] = true;
            }
            self.pilots[bucket] = pilot;
        }
        Some(self)
    }
}

fn are_distinct(keys: &[u64]) -> bool {
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

/// `value`, which is any number of 64 bits, as one below `end`.
#[inline]
fn scaled(value: u64, end: u64) -> usize {
    ((u128::from(value) * u128::from(end)) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[u64]) -> FastPtrHash<hash::NoHash, u64> {
        FastPtrHash::new(keys, PtrHashParams::default_fast())
    }

    /// Hashes, as `tokenizers` hands over.
    fn hashes(count: u64) -> Vec<u64> {
        (1..=count)
            .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9))
            .collect()
    }

    #[test]
    fn every_key_has_a_slot_of_its_own() {
        for count in [0, 1, 2, 3, 10, 1000, 300_000] {
            let keys = hashes(count);
            let hash = of(&keys);
            let mut slots: Vec<usize> = keys.iter().map(|key| hash.index(key)).collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), keys.len());
            assert!(slots.iter().all(|slot| *slot < hash.max_index()));
        }
    }

    #[test]
    fn any_other_key_has_some_slot() {
        for count in [0, 1, 1000] {
            let hash = of(&hashes(count));
            for other in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63] {
                assert!(hash.index(&other) < hash.max_index());
            }
        }
    }

    #[test]
    fn keys_that_are_no_hashes_have_slots_too() {
        let keys: Vec<u64> = (0..10_000).chain((0..10_000).map(|i| i << 40)).skip(1).collect();
        let hash = of(&keys);
        let slots: std::collections::BTreeSet<usize> = keys.iter().map(|key| hash.index(key)).collect();
        assert_eq!(slots.len(), keys.len());
    }

    #[test]
    #[should_panic(expected = "occurs twice")]
    fn a_key_that_occurs_twice_is_refused() {
        of(&[1, 2, 1]);
    }
}
