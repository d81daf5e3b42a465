//! [`NodeSums`]: the sums of one rank's positions, as complete nodes of the tree.

use std::ops::Range;

use crate::tree_sum::{TreeNode, TreeSum, nodes_of};

/// Adds the values of consecutive positions of a global batch, in order, to the sums of as few
/// complete nodes as possible. They are what [`crate::exact`] exchanges between ranks.
#[derive(Debug)]
pub struct NodeSums<T> {
    /// The nodes that are not complete yet, the last one first.
    open: Vec<(u32, u64)>,
    complete: Vec<TreeNode<T>>,
    /// The sum of the positions of the first open node so far.
    sum: TreeSum<T>,
    /// Number of these positions.
    count: u64,
}

impl<T> NodeSums<T> {
    /// A sum over `positions`, with none of them added.
    pub fn new(positions: Range<u64>) -> Self {
        let mut open = nodes_of(positions.start, positions.end);
        open.reverse();
        Self { open, complete: Vec::new(), sum: TreeSum::new(), count: 0 }
    }

    /// Adds the value of the next position. `add` adds a right half to a left half.
    ///
    /// # Panics
    /// All positions have been added.
    pub fn push(&mut self, value: Option<T>, mut add: impl FnMut(T, T) -> T) {
        let (level, index) = *self.open.last().expect("no more values than positions");
        self.sum.push(0, value, &mut add);
        self.count += 1;
        if self.count == 1 << level {
            self.complete.push(TreeNode { level, index, value: self.sum.take(&mut add) });
            self.open.pop();
            self.count = 0;
        }
    }

    /// The nodes, in the order of their positions. The sum is empty afterwards.
    ///
    /// # Panics
    /// A position has not been added.
    pub fn take(&mut self) -> Vec<TreeNode<T>> {
        assert!(self.open.is_empty(), "every position has been added");
        std::mem::take(&mut self.complete)
    }
}

/// Maximum number of sums that are held while a value of `positions` is added.
pub fn held_sums(positions: Range<u64>) -> usize {
    // Within a node, one sum waits at each level below it.
    let held = |(complete, (level, _)): (usize, (u32, u64))| complete + level as usize;
    nodes_of(positions.start, positions.end).into_iter().enumerate().map(held).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn add(left: f32, right: f32) -> f32 {
        left + right
    }

    fn whole(values: &[Option<f32>]) -> Option<u32> {
        let mut sum = TreeSum::new();
        for value in values {
            sum.push(0, *value, add);
        }
        sum.take(add).map(f32::to_bits)
    }

    proptest! {
        #[test]
        fn no_more_sums_wait_than_announced(positions in 1u64..300) {
            let mut sum = TreeSum::new();
            let mut most = 0;
            for _ in 0..positions {
                most = most.max(sum.waiting());
                sum.push(0, Some(1u32), |left, right| left + right);
            }
            prop_assert_eq!(most, held_sums(0..positions));
            prop_assert_eq!(sum.take(|left, right| left + right), Some(positions as u32));
        }

        #[test]
        fn the_nodes_of_all_ranks_give_the_bits_of_the_whole(
            values in prop::collection::vec(prop::option::weighted(0.8, -1e3f32..1e3), 0..70),
            cuts in prop::collection::vec(0usize..70, 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(values.len())).collect();
            cuts.extend([0, values.len()]);
            cuts.sort_unstable();
            let mut sum = TreeSum::new();
            for cut in cuts.windows(2) {
                let mut nodes = NodeSums::new(cut[0] as u64..cut[1] as u64);
                let mut most = 0;
                for value in &values[cut[0]..cut[1]] {
                    most = most.max(nodes.complete.len() + nodes.sum.waiting());
                    nodes.push(*value, add);
                }
                prop_assert_eq!(most, held_sums(cut[0] as u64..cut[1] as u64));
                for node in nodes.take() {
                    sum.push(node.level, node.value, add);
                }
            }
            prop_assert_eq!(sum.take(add).map(f32::to_bits), whole(&values));
        }
    }

    #[test]
    fn as_few_nodes_as_possible_are_held() {
        let mut nodes = NodeSums::new(3..9);
        for position in 3..9 {
            nodes.push((position != 4).then_some(position), |left, right| left * 10 + right);
        }
        let found: Vec<_> = nodes.take().into_iter().map(|node| (node.level, node.index, node.value)).collect();
        assert_eq!(found, [(0, 3, Some(3)), (2, 1, Some(5 * 10 + 67)), (0, 8, Some(8))]);
        assert_eq!([0..0, 0..1, 0..4, 0..5, 3..9].map(held_sums), [0, 0, 2, 2, 3]);
    }
}
