//! [`TreeSum`]: adds the values of micro-batches in an order that any number of ranks can
//! reproduce.

/// A sum over the positions 0, 1, 2, … of a global batch, added as a binary tree: the node `k` of
/// level `l` covers the positions from `k * 2^l` to `(k + 1) * 2^l`, and is the sum of its left and
/// its right half. An absent value leaves the other half as it is.
///
/// The order depends on the positions alone. So each rank can sum the positions of one node, and
/// the sums of the nodes give the same bits as the sum of all positions in one process.
#[derive(Debug)]
pub struct TreeSum<T> {
    /// Complete nodes that wait for their right siblings, by decreasing level.
    nodes: Vec<Node<T>>,
}

#[derive(Debug)]
struct Node<T> {
    level: u32,
    value: Option<T>,
}

/// A node of the tree: the positions from `index * 2^level` to `(index + 1) * 2^level`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreeNode<T> {
    pub level: u32,
    pub index: u64,
    /// The sum of these positions; `None` if all of them are without a value. An absent sum leaves
    /// other sums as they are.
    pub value: Option<T>,
}

impl<T> TreeNode<T> {
    /// The same node, with what `view` makes of its value.
    pub fn map_ref<'a, U>(&'a self, view: impl FnOnce(&'a T) -> U) -> TreeNode<U> {
        TreeNode { level: self.level, index: self.index, value: self.value.as_ref().map(view) }
    }
}

/// Splits the positions from `start` to `end` into nodes of the tree, `(level, index)`: as few as
/// possible, in order.
pub fn nodes_of(mut start: u64, end: u64) -> Vec<(u32, u64)> {
    let mut nodes = Vec::new();
    while start < end {
        let level = start.trailing_zeros().min((end - start).ilog2());
        nodes.push((level, start >> level));
        start += 1 << level;
    }
    nodes
}

impl<T> Default for TreeSum<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> TreeSum<T> {
    /// A sum of nothing.
    pub fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    /// Adds the value of the next node of level `level`, which follows the previous one. `add` adds
    /// a right half to a left half.
    ///
    /// # Panics
    /// The node does not begin where the previous one ends, or is not aligned to its size.
    pub fn push(&mut self, level: u32, value: Option<T>, mut add: impl FnMut(T, T) -> T) {
        let mut node = Node { level, value };
        while let Some(left) = self.nodes.pop_if(|left| left.level == node.level) {
            node = Node { level: node.level + 1, value: join(left.value, node.value, &mut add) };
        }
        assert!(self.nodes.last().is_none_or(|last| last.level > node.level), "the nodes are aligned");
        self.nodes.push(node);
    }

    /// The sum of all values; `None` if all are absent. The sum is empty afterwards.
    pub fn take(&mut self, mut add: impl FnMut(T, T) -> T) -> Option<T> {
        let mut total = None;
        while let Some(left) = self.nodes.pop() {
            total = join(left.value, total, &mut add);
        }
        total
    }
}

#[cfg(test)]
impl<T> TreeSum<T> {
    /// Number of nodes that wait for their right siblings.
    pub(crate) fn waiting(&self) -> usize {
        self.nodes.len()
    }
}

fn join<T>(left: Option<T>, right: Option<T>, add: &mut impl FnMut(T, T) -> T) -> Option<T> {
    match (left, right) {
        (Some(left), Some(right)) => Some(add(left, right)),
        (left, right) => left.or(right),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[Option<f32>]) -> Option<f32> {
        let mut sum = TreeSum::new();
        for value in values {
            sum.push(0, *value, |left, right| left + right);
        }
        sum.take(|left, right| left + right)
    }

    /// Splits the node of level `level` over `values` into parts, by the bits of `splits`, and
    /// pushes the sum of each part.
    fn push_parts(values: &[Option<f32>], level: u32, splits: &mut impl Iterator<Item = bool>, to: &mut TreeSum<f32>) {
        if values.is_empty() {
            return;
        }
        if level > 0 && splits.next() == Some(true) {
            let (left, right) = values.split_at((1 << (level - 1)).min(values.len()));
            push_parts(left, level - 1, splits, to);
            push_parts(right, level - 1, splits, to);
        } else {
            to.push(level, sum(values), |left, right| left + right);
        }
    }

    proptest! {
        #[test]
        fn any_split_into_aligned_parts_gives_the_bits_of_the_whole(
            values in prop::collection::vec(prop::option::weighted(0.8, -1e3f32..1e3), 1..70),
            splits in prop::collection::vec(any::<bool>(), 0..128),
        ) {
            let level = values.len().next_power_of_two().ilog2();
            let mut parts = TreeSum::new();
            push_parts(&values, level, &mut splits.into_iter(), &mut parts);
            let total = parts.take(|left, right| left + right);
            prop_assert_eq!(total.map(f32::to_bits), sum(&values).map(f32::to_bits));
        }
    }

    #[test]
    fn positions_are_split_into_the_largest_nodes() {
        assert_eq!(nodes_of(0, 7), [(2, 0), (1, 2), (0, 6)]);
        assert_eq!(nodes_of(3, 9), [(0, 3), (2, 1), (0, 8)]);
        assert_eq!(nodes_of(4, 4), []);
    }

    #[test]
    fn the_order_is_that_of_the_tree() {
        let mut sum = TreeSum::new();
        let add = |left: String, right: String| format!("({left}{right})");
        for (position, name) in "abcdefg".chars().enumerate() {
            // A micro-batch without labels keeps its position.
            sum.push(0, (position != 2).then(|| name.to_string()), add);
        }
        assert_eq!(sum.take(add).unwrap(), "(((ab)d)((ef)g))");
        assert_eq!(sum.take(add), None);
    }

    #[test]
    fn one_and_two_values_are_added_as_in_a_loop() {
        assert_eq!(sum(&[]), None);
        assert_eq!(sum(&[Some(0.1)]), Some(0.1));
        assert_eq!(sum(&[Some(0.1), Some(0.7)]), Some(0.1 + 0.7));
    }
}
