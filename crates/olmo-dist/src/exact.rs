//! Exact sums: arrays that belong to the positions of a global batch are added as a fixed binary
//! tree ([`TreeSum`]), so the bits depend on neither the number of ranks nor the division of the
//! positions.
//!
//! A rank computes some positions, and adds up what it can: it holds the sums of complete nodes of
//! the tree. All ranks agree on the list of all nodes. Then each rank receives its part of every
//! node, and adds the parts in the order of the tree.

use crate::collective::{Collective, all_gather_bytes, part_of};
use crate::error::{DistError, Failure};
use crate::tree_sum::{TreeNode, TreeSum};
use crate::values::{Number, Values, ValuesRef};

/// Maximum number of values of a node that are exchanged at once; bounds the memory.
const PIECE: usize = 256 << 10;

/// Sums the nodes of all ranks, each an array of `length` values, in the order of the tree. `shard`
/// receives the range [`part_of`] this rank; zeros if all nodes are absent. Returns whether any
/// node is present.
///
/// # Errors
/// As for [`Collective`]. [`Failure::Mismatch`] on every rank if the nodes of all ranks do not
/// cover a range of positions from 0 without gaps and overlaps, or if the ranks pass different
/// lengths or types.
pub fn reduce_scatter_exact<C: Collective + ?Sized>(
    group: &C,
    nodes: &[TreeNode<ValuesRef<'_>>],
    length: usize,
    shard: Values<'_>,
) -> Result<bool, DistError> {
    match shard {
        Values::F32(shard) => reduce(group, &typed(nodes, |values| as_f32(values))?, length, shard),
        Values::F64(shard) => reduce(group, &typed(nodes, |values| as_f64(values))?, length, shard),
        _ => Err(arguments("only f32 and f64 are supported")),
    }
}

/// Sums the nodes of all ranks in the order of the tree. `into` receives the sum on every rank;
/// zeros if all nodes are absent. Returns whether any node is present.
///
/// # Errors
/// As for [`reduce_scatter_exact`].
pub fn all_reduce_exact<C: Collective + ?Sized>(
    group: &C,
    nodes: &[TreeNode<ValuesRef<'_>>],
    mut into: Values<'_>,
) -> Result<bool, DistError> {
    let length = into.len();
    let part = part_of(length, group.rank(), group.size());
    let shard = match &mut into {
        Values::F32(into) => Values::F32(&mut into[part]),
        Values::F64(into) => Values::F64(&mut into[part]),
        _ => return Err(arguments("only f32 and f64 are supported")),
    };
    let present = reduce_scatter_exact(group, nodes, length, shard)?;
    group.all_gather(into)?;
    Ok(present)
}

fn as_f32(values: ValuesRef<'_>) -> Option<&[f32]> {
    if let ValuesRef::F32(values) = values { Some(values) } else { None }
}

fn as_f64(values: ValuesRef<'_>) -> Option<&[f64]> {
    if let ValuesRef::F64(values) = values { Some(values) } else { None }
}

fn arguments(why: impl Into<String>) -> DistError {
    DistError::Arguments { operation: "exact reduction", why: why.into() }
}

fn typed<'a, T>(
    nodes: &[TreeNode<ValuesRef<'a>>],
    cast: impl Fn(ValuesRef<'a>) -> Option<&'a [T]>,
) -> Result<Vec<TreeNode<&'a [T]>>, DistError> {
    let cast = |values| cast(values).ok_or_else(|| arguments("nodes and result have different types"));
    let typed = |node: &TreeNode<ValuesRef<'a>>| {
        Ok(TreeNode { level: node.level, index: node.index, value: node.value.map(cast).transpose()? })
    };
    nodes.iter().map(typed).collect()
}

fn reduce<T: Number, C: Collective + ?Sized>(
    group: &C,
    nodes: &[TreeNode<&[T]>],
    length: usize,
    shard: &mut [T],
) -> Result<bool, DistError> {
    let (rank, size) = (group.rank(), group.size());
    if shard.len() != part_of(length, rank, size).len() {
        return Err(arguments(format!("the shard has {} values of {length}, not this rank's part", shard.len())));
    }
    let present: Vec<&[T]> = nodes.iter().filter_map(|node| node.value).collect();
    if let Some(other) = present.iter().find(|values| values.len() != length) {
        return Err(arguments(format!("a node has {} values, not {length}", other.len())));
    }
    let order = agree(group, nodes, length)?;
    let counts: Vec<usize> =
        (0..size).map(|rank| order.iter().filter(|node| node.rank == rank && node.is_present).count()).collect();
    shard.fill(T::default());
    if counts.iter().all(|count| *count == 0) {
        return Ok(false);
    }
    let mut sent: Vec<T> = Vec::new();
    let mut received: Vec<T> = Vec::new();
    for piece in (0..length.div_ceil(size)).step_by(PIECE) {
        let range = |rank| {
            let part = part_of(length, rank, size);
            (part.start + piece).min(part.end)..(part.start + piece + PIECE).min(part.end)
        };
        let mine = range(rank).len();
        sent.clear();
        for rank in 0..size {
            for values in &present {
                sent.extend_from_slice(&values[range(rank)]);
            }
        }
        let send_counts: Vec<usize> = (0..size).map(|rank| present.len() * range(rank).len()).collect();
        let recv_counts: Vec<usize> = counts.iter().map(|count| count * mine).collect();
        received.resize(recv_counts.iter().sum(), T::default());
        group.all_to_all_v(T::values_ref(&sent), &send_counts, T::values(&mut received), &recv_counts)?;

        // The present nodes of each rank, one after the other.
        let mut waiting: Vec<&mut [T]> = Vec::new();
        let mut rest = received.as_mut_slice();
        for count in &recv_counts {
            let (first, after) = rest.split_at_mut(*count);
            waiting.push(first);
            rest = after;
        }
        let mut sum = TreeSum::new();
        for node in &order {
            let value = if node.is_present { waiting[node.rank].split_off_mut(..mine) } else { None };
            sum.push(node.level, value, add);
        }
        if let Some(total) = sum.take(add) {
            let start = piece.min(shard.len());
            shard[start..][..mine].copy_from_slice(total);
        }
    }
    Ok(true)
}

fn add<'a, T: Number>(left: &'a mut [T], right: &'a mut [T]) -> &'a mut [T] {
    for (left, right) in left.iter_mut().zip(right) {
        *left = left.plus(*right);
    }
    left
}

/// A node of any rank.
struct Agreed {
    rank: usize,
    level: u32,
    is_present: bool,
}

/// The nodes of all ranks in the order of their positions. The result is the same on every rank.
fn agree<T: Number, C: Collective + ?Sized>(
    group: &C,
    nodes: &[TreeNode<&[T]>],
    length: usize,
) -> Result<Vec<Agreed>, DistError> {
    let mut mine = vec![length as u64, T::TYPE as u64];
    for node in nodes {
        mine.extend([u64::from(node.level), node.index, u64::from(node.value.is_some())]);
    }
    let bytes: Vec<u8> = mine.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut all = Vec::new();
    for (rank, bytes) in all_gather_bytes(group, &bytes)?.into_iter().enumerate() {
        let words: Vec<u64> =
            bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
        if words.get(..2) != mine.get(..2) {
            let why =
                format!("rank {rank} sums {:?} (length, type), rank {} {:?}", words.get(..2), group.rank(), &mine[..2]);
            return Err(Failure::Mismatch { why }.into());
        }
        for node in words[2..].chunks_exact(3) {
            // A level above 62 would overflow; it is refused below, with its positions.
            let level = node[0].min(63) as u32;
            let start = node[1].saturating_mul(1 << level);
            all.push((start, Agreed { rank, level, is_present: node[2] == 1 }));
        }
    }
    all.sort_by_key(|(start, node)| (*start, node.rank));
    let mut end = 0u64;
    for (start, node) in &all {
        if *start != end || node.level > 62 {
            let problem = if *start < end { "is summed twice" } else { "is summed by no rank" };
            let why =
                format!("position {} of the global batch {problem} (next node: rank {})", end.min(*start), node.rank);
            return Err(Failure::Mismatch { why }.into());
        }
        end = start.saturating_add(1 << node.level);
    }
    Ok(all.into_iter().map(|(_, node)| node).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_do_not_cover_the_positions_are_refused() {
        let values = [1.0f32];
        let node = |level, index| TreeNode { level, index, value: Some(ValuesRef::F32(&values)) };
        let sum = |nodes: &[TreeNode<ValuesRef<'_>>]| {
            let mut shard = [0.0f32];
            reduce_scatter_exact(&crate::Alone, nodes, 1, Values::F32(&mut shard)).map_err(|e| e.to_string())
        };
        assert_eq!(sum(&[node(1, 0), node(0, 2)]), Ok(true));
        assert!(sum(&[node(1, 0), node(0, 3)]).unwrap_err().contains("position 2 of the global batch is summed by no"));
        assert!(sum(&[node(1, 0), node(0, 1)]).unwrap_err().contains("position 1 of the global batch is summed twice"));
        assert!(sum(&[node(64, 0)]).is_err());
        assert!(sum(&[node(63, u64::MAX)]).is_err());
    }
}
