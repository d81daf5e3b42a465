//! [`TokenTree`]: sequences that share their beginnings, each shared token once.

/// Sequences of tokens as a tree: a token that several of them begin with exists once.
///
/// The tokens of a batch are the segments one after the other. A token attends to the earlier tokens
/// of its segment and to all tokens of the segments above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenTree {
    segments: Vec<Segment>,
    /// The token of each row of the batch.
    ids: Vec<u32>,
    /// The segment that each sequence ends in.
    leaves: Vec<usize>,
}

/// Consecutive tokens that the same sequences contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The segment that ends before this one's first token, which has a lower index. `None`: the
    /// segment begins its sequences.
    pub parent: Option<usize>,
    /// Row of the first token.
    pub row: usize,
    /// Position of the first token in its sequences.
    pub position: usize,
    /// Number of tokens, at least 1.
    pub count: usize,
}

impl Segment {
    /// Position after the last token.
    fn end(&self) -> usize {
        self.position + self.count
    }
}

/// Sequences that are alike up to a position, which are still to be split.
struct Alike {
    first: usize,
    end: usize,
    position: usize,
    parent: Option<usize>,
}

impl TokenTree {
    /// The tree of some sequences.
    ///
    /// # Panics
    /// The sequences are not in ascending order, or one is empty.
    pub fn new(sequences: &[&[u32]]) -> TokenTree {
        assert!(sequences.is_sorted(), "sequences that are alike follow each other");
        assert!(sequences.iter().all(|sequence| !sequence.is_empty()), "a sequence has tokens");
        let mut tree = TokenTree { segments: Vec::new(), ids: Vec::new(), leaves: vec![0; sequences.len()] };
        let mut open = vec![Alike { first: 0, end: sequences.len(), position: 0, parent: None }];
        while let Some(Alike { mut first, end, position, parent }) = open.pop() {
            // Sorted, so that those that end here come first.
            while first < end && sequences[first].len() == position {
                tree.leaves[first] = parent.expect("a sequence that has ended has tokens");
                first += 1;
            }
            while first < end {
                let token = sequences[first][position];
                let count = sequences[first..end].partition_point(|sequence| sequence[position] == token);
                let last = first + count;
                let length = common(sequences[first], sequences[last - 1]) - position;
                let row = tree.ids.len();
                tree.ids.extend_from_slice(&sequences[first][position..position + length]);
                let segment = tree.segments.len();
                tree.segments.push(Segment { parent, row, position, count: length });
                open.push(Alike { first, end: last, position: position + length, parent: Some(segment) });
                first = last;
            }
        }
        tree
    }

    /// The token of each row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The position of each row's token in its sequences.
    pub fn positions(&self) -> Vec<usize> {
        self.segments.iter().flat_map(|segment| segment.position..segment.end()).collect()
    }

    /// Number of tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.segments.iter().map(Segment::end).max().unwrap_or(0)
    }

    /// The rows of the tokens of sequence `sequence` from `position` on, in order.
    pub fn rows_from(&self, sequence: usize, position: usize) -> Vec<usize> {
        let mut pieces: Vec<Segment> = Vec::new();
        for segment in self.path(self.leaves[sequence]) {
            if segment.end() <= position {
                break;
            }
            pieces.push(segment);
        }
        let row = |segment: &Segment| {
            let hidden = position.saturating_sub(segment.position);
            segment.row + hidden..segment.row + segment.count
        };
        pieces.iter().rev().flat_map(row).collect()
    }

    /// The segments.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Segment `segment` and those above it, lowest first.
    pub(crate) fn path(&self, segment: usize) -> impl Iterator<Item = Segment> + '_ {
        let above = |segment: &Segment| segment.parent.map(|parent| self.segments[parent]);
        std::iter::successors(Some(self.segments[segment]), above)
    }
}

/// Number of tokens with which both sequences begin.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_beginnings_exist_once_and_every_sequence_can_be_read_back() {
        let sequences: Vec<&[u32]> =
            vec![&[1], &[1, 2, 3], &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5], &[1, 2, 9], &[1, 7], &[4, 4, 4]];
        let tree = TokenTree::new(&sequences);
        // 1, 2, 3, 4 5, 9, 7, and 4 4 4.
        assert_eq!(tree.ids().len(), 10);
        assert_eq!((tree.segments().len(), tree.longest()), (7, 5));
        for (index, sequence) in sequences.iter().enumerate() {
            for position in 0..sequence.len() {
                let rows = tree.rows_from(index, position);
                let ids: Vec<u32> = rows.iter().map(|&row| tree.ids()[row]).collect();
                assert_eq!(ids, sequence[position..]);
                let positions = tree.positions();
                assert!(rows.iter().enumerate().all(|(step, &row)| positions[row] == position + step));
            }
        }
        assert!(TokenTree::new(&[]).ids().is_empty());
    }

    #[test]
    #[should_panic(expected = "alike follow each other")]
    fn sequences_in_another_order_are_refused() {
        TokenTree::new(&[&[2], &[1]]);
    }
}
