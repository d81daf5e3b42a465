//! [`Collective`]: the operations in which the ranks of a run exchange values.

use std::ops::Range;

use crate::error::{DistError, Failure};
use crate::values::{Values, ValuesRef};

/// The ranks of a run. Every rank calls the same operations in the same order, with values of the
/// same type and length.
///
/// # Errors
/// Each operation fails with [`DistError::Failure`] if a rank has failed, is gone, or stays away,
/// and with [`DistError::Arguments`] if the arguments do not fit. After an error the values are
/// unspecified.
pub trait Collective {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Replaces `values` on every rank by their sum over all ranks. All ranks get the same bits,
    /// which may depend on the number of ranks.
    fn all_reduce(&self, values: Values<'_>) -> Result<(), DistError>;

    /// Sums like [`Collective::all_reduce`], but only the range [`part_of`] this rank has the sum
    /// afterwards; the other values are unspecified. Returns that range.
    fn reduce_scatter(&self, values: Values<'_>) -> Result<Range<usize>, DistError>;

    /// Sends the range [`part_of`] this rank to all others, and receives theirs.
    fn all_gather(&self, values: Values<'_>) -> Result<(), DistError>;

    /// Replaces `values` on every rank by those of rank `root`.
    fn broadcast(&self, values: Values<'_>, root: usize) -> Result<(), DistError>;

    /// Waits until every rank has called this.
    fn barrier(&self) -> Result<(), DistError>;

    /// Sends `values` to rank `to`, which calls [`Collective::recv`].
    fn send(&self, values: ValuesRef<'_>, to: usize) -> Result<(), DistError>;

    /// Receives the values that rank `from` sends with [`Collective::send`].
    fn recv(&self, values: Values<'_>, from: usize) -> Result<(), DistError>;

    /// Sends the first `send_counts[0]` values of `send` to rank 0, the next `send_counts[1]` to
    /// rank 1, and so on; receives `recv_counts[r]` values from rank `r` into `recv`, in the order
    /// of the ranks. A rank also sends to itself.
    fn all_to_all_v(
        &self,
        send: ValuesRef<'_>,
        send_counts: &[usize],
        recv: Values<'_>,
        recv_counts: &[usize],
    ) -> Result<(), DistError>;
}

/// The range of `length` values that belongs to `rank`: equal parts, of which the last ones may be
/// shorter.
pub fn part_of(length: usize, rank: usize, size: usize) -> Range<usize> {
    let part = length.div_ceil(size.max(1));
    (rank * part).min(length)..((rank + 1) * part).min(length)
}

/// Returns the `bytes` of every rank, which may have different lengths.
///
/// # Errors
/// As for [`Collective`]; also if a rank sends more than 16 MiB.
pub fn all_gather_bytes<C: Collective + ?Sized>(group: &C, bytes: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
    const LIMIT: u64 = 16 << 20;
    let (rank, size) = (group.rank(), group.size());
    let mut lengths = vec![0; size * 8];
    lengths[rank * 8..][..8].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    group.all_gather(Values::U8(&mut lengths))?;
    let lengths: Vec<u64> =
        lengths.chunks_exact(8).map(|length| u64::from_le_bytes(length.try_into().unwrap_or_default())).collect();
    if let Some(rank) = lengths.iter().position(|length| *length > LIMIT) {
        let why = format!("rank {rank} would send {} bytes to every rank; the limit is {LIMIT}", lengths[rank]);
        return Err(Failure::Mismatch { why }.into());
    }
    let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
    let mut all = vec![0; lengths.iter().sum()];
    let (send, counts) = (bytes.repeat(size), vec![bytes.len(); size]);
    group.all_to_all_v(ValuesRef::U8(&send), &counts, Values::U8(&mut all), &lengths)?;
    let mut rest = all.as_slice();
    Ok(lengths.iter().filter_map(|length| rest.split_off(..*length)).map(<[u8]>::to_vec).collect())
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

    fn all_reduce(&self, _: Values<'_>) -> Result<(), DistError> {
        Ok(())
    }

    fn reduce_scatter(&self, values: Values<'_>) -> Result<Range<usize>, DistError> {
        Ok(0..values.len())
    }

    fn all_gather(&self, _: Values<'_>) -> Result<(), DistError> {
        Ok(())
    }

    fn broadcast(&self, _: Values<'_>, _: usize) -> Result<(), DistError> {
        Ok(())
    }

    fn barrier(&self) -> Result<(), DistError> {
        Ok(())
    }

    fn send(&self, _: ValuesRef<'_>, _: usize) -> Result<(), DistError> {
        Err(DistError::Arguments { operation: "send", why: "there is no other rank".into() })
    }

    fn recv(&self, _: Values<'_>, _: usize) -> Result<(), DistError> {
        Err(DistError::Arguments { operation: "recv", why: "there is no other rank".into() })
    }

    fn all_to_all_v(&self, send: ValuesRef<'_>, _: &[usize], recv: Values<'_>, _: &[usize]) -> Result<(), DistError> {
        match (send, recv) {
            (ValuesRef::F32(send), Values::F32(recv)) if send.len() == recv.len() => recv.copy_from_slice(send),
            (ValuesRef::F64(send), Values::F64(recv)) if send.len() == recv.len() => recv.copy_from_slice(send),
            (ValuesRef::Bf16(send), Values::Bf16(recv)) if send.len() == recv.len() => recv.copy_from_slice(send),
            (ValuesRef::U8(send), Values::U8(recv)) if send.len() == recv.len() => recv.copy_from_slice(send),
            _ => {
                let why = "a rank receives as many values of the same type as it sends to itself".into();
                return Err(DistError::Arguments { operation: "all_to_all_v", why });
            }
        }
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
