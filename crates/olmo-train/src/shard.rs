//! [`Strategy`]: what each rank holds.

use std::ops::Range;

use olmo_ops::NORM_CHUNK;

/// How ranks divide the state of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each rank holds everything.
    Ddp,
    /// Each rank holds, and updates, the optimizer's moments of a part of the weights (ZeRO-1).
    Zero1,
}

impl Strategy {
    /// The part of a flat array of `length` numbers whose moments `rank` of `size` holds. Parts end
    /// where chunks of the global norm end, so that a norm of parts has the bits of that of the
    /// whole.
    pub fn shard(self, length: usize, rank: usize, size: usize) -> Range<usize> {
        let part = self.part(length, size);
        match self {
            Self::Ddp => 0..length,
            Self::Zero1 => (rank * part).min(length)..((rank + 1) * part).min(length),
        }
    }

    /// Length of an array of which each rank has an equal part, of at least `length` numbers.
    pub(crate) fn padded(self, length: usize, size: usize) -> usize {
        match self {
            Self::Ddp => length,
            Self::Zero1 => self.part(length, size) * size,
        }
    }

    fn part(self, length: usize, size: usize) -> usize {
        match self {
            Self::Ddp => length,
            Self::Zero1 if size == 1 => length,
            Self::Zero1 => length.div_ceil(size).next_multiple_of(NORM_CHUNK),
        }
    }
}

#[cfg(test)]
mod tests {
    use olmo_dist::part_of;
    use olmo_ops::Trained;

    use super::*;

    #[test]
    fn shards_cover_everything_in_whole_chunks_and_are_what_a_reduce_scatter_leaves() {
        for (length, size) in [(1, 2), (5000, 2), (100_000, 3), (8192, 2), (50_000, 16)] {
            let padded = Strategy::Zero1.padded(length, size);
            let mut end = 0;
            for rank in 0..size {
                let shard = Strategy::Zero1.shard(length, rank, size);
                let part = part_of(padded, rank, size);
                assert_eq!(shard, part.start.min(length)..part.end.min(length));
                assert_eq!(shard.start, end);
                end = shard.end;
                assert!(end == length || end.is_multiple_of(NORM_CHUNK));
            }
            assert_eq!(end, length);
        }
        assert_eq!((Strategy::Zero1.shard(10, 0, 1), Strategy::Zero1.padded(10, 1)), (0..10, 10));
        assert_eq!((Strategy::Ddp.shard(10, 1, 2), Strategy::Ddp.padded(10, 2)), (0..10, 10));
    }

    #[test]
    fn groups_are_clipped_to_a_shard() {
        let groups = [(0..10, true), (10..20, false), (20..30, true)];
        let clipped = |shard: Range<usize>| Trained::new([shard]).within(&groups);
        assert_eq!(clipped(5..20), [(5..10, true), (10..20, false)]);
        assert_eq!(clipped(30..30), []);
    }
}
