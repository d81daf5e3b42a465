//! [`Collective`]: exchanges values between the ranks of a run.

use std::ops::Range;

use olmo_stage::StageError;

/// Values to exchange, in place.
#[derive(Debug)]
pub enum Values<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
}

impl Values<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The ranks of a run. Every rank calls the same operations in the same order, with values of the
/// same length.
///
/// # Errors
/// Each operation fails if another rank is gone.
pub trait Collective {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Replaces `values` on every rank by their sum over all ranks.
    fn all_reduce(&self, values: Values<'_>) -> Result<(), StageError>;

    /// Sums like [`Collective::all_reduce`], but only the range [`part_of`] this rank has the sum
    /// afterwards. Returns that range.
    fn reduce_scatter(&self, values: Values<'_>) -> Result<Range<usize>, StageError>;

    /// Sends the range [`part_of`] this rank to all others, and receives theirs.
    fn all_gather(&self, values: Values<'_>) -> Result<(), StageError>;

    /// Replaces `values` on every rank by those of rank `root`.
    fn broadcast(&self, values: Values<'_>, root: usize) -> Result<(), StageError>;

    /// Waits until every rank has called this.
    fn barrier(&self) -> Result<(), StageError>;
}

/// The range of `length` values that belongs to `rank`: equal parts, of which the last ones may be
/// shorter.
pub fn part_of(length: usize, rank: usize, size: usize) -> Range<usize> {
    let part = length.div_ceil(size.max(1));
    (rank * part).min(length)..((rank + 1) * part).min(length)
}

/// A run with a single rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: Values<'_>) -> Result<(), StageError> {
        Ok(())
    }

    fn reduce_scatter(&self, values: Values<'_>) -> Result<Range<usize>, StageError> {
        Ok(0..values.len())
    }

    fn all_gather(&self, _: Values<'_>) -> Result<(), StageError> {
        Ok(())
    }

    fn broadcast(&self, _: Values<'_>, _: usize) -> Result<(), StageError> {
        Ok(())
    }

    fn barrier(&self) -> Result<(), StageError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_ranks_cover_all_values_in_order() {
        for (length, size) in [(0, 1), (1, 1), (10, 3), (2, 4), (12, 4), (7, 8)] {
            let parts: Vec<usize> = (0..size).flat_map(|rank| part_of(length, rank, size)).collect();
            assert_eq!(parts, (0..length).collect::<Vec<_>>(), "{length} values, {size} ranks");
        }
    }
}
