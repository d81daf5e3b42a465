//! [`LabelRuns`]: the labels of a document as the lengths of runs of equal labels.

use std::ops::Range;

/// Lengths of runs of tokens, in turn of such as are no targets and of targets. Only the first may
/// be 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelRuns(Vec<u32>);

impl LabelRuns {
    /// The runs of `mask`.
    pub fn of(mask: &[bool]) -> Self {
        let mut runs = Self::default();
        mask.chunk_by(|a, b| a == b).for_each(|run| runs.push(run[0], run.len()));
        runs
    }

    /// Appends `count` tokens of one label.
    pub fn push(&mut self, label: bool, count: usize) {
        if count == 0 {
            return;
        }
        // The runs at odd places are targets.
        let is_next = self.0.len() % 2 == usize::from(label);
        match self.0.last_mut() {
            Some(last) if !is_next => *last += count as u32,
            None if !is_next => self.0.extend([0, count as u32]),
            _ => self.0.push(count as u32),
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// Number of trainable targets: the first token has no context to be predicted from.
    pub fn targets(&self) -> u64 {
        count_targets(&self.0)
    }

    /// Appends the labels of the tokens `range` of a document with the labels `all`.
    pub fn extend_from(&mut self, all: &Self, range: Range<usize>) {
        let mut start = 0;
        for (i, run) in all.0.iter().enumerate() {
            let end = start + *run as usize;
            let (from, to) = (start.max(range.start), end.min(range.end));
            self.push(i % 2 == 1, to.saturating_sub(from));
            start = end;
        }
    }

    /// Makes the last token no target.
    pub fn unlabel_last(&mut self) {
        if self.0.len() % 2 == 1 {
            return;
        }
        if let Some(last) = self.0.last_mut() {
            *last -= 1;
            if *last == 0 {
                self.0.pop();
            }
            self.push(false, 1);
        }
    }
}

/// As [`LabelRuns::targets`], for the runs of a document.
pub(super) fn count_targets(runs: &[u32]) -> u64 {
    let labelled: u64 = runs.iter().skip(1).step_by(2).map(|run| u64::from(*run)).sum();
    let first_is_one = runs.first() == Some(&0) && runs.len() > 1;
    labelled - u64::from(first_is_one)
}

/// The labels with these runs; `None` if they are more than `most`.
pub(super) fn mask_of(runs: &[u32], most: usize) -> Option<Vec<bool>> {
    let mut mask = Vec::with_capacity(most);
    for (i, run) in runs.iter().enumerate() {
        let end = mask.len().checked_add(*run as usize).filter(|end| *end <= most)?;
        mask.resize(end, i % 2 == 1);
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_back_from_their_runs() {
        for (mask, runs) in [
            (vec![], vec![]),
            (vec![true], vec![0, 1]),
            (vec![false], vec![1]),
            (vec![false, true, true, false], vec![1, 2, 1]),
        ] {
            assert_eq!(LabelRuns::of(&mask).as_slice(), runs);
            assert_eq!(count_targets(&runs), mask.iter().skip(1).filter(|label| **label).count() as u64);
            assert_eq!(mask_of(&runs, mask.len()), Some(mask));
        }
        assert_eq!(mask_of(&[1, u32::MAX], 8), None);
    }

    #[test]
    fn a_part_of_the_runs_is_the_part_of_the_labels() {
        // Every mask of six tokens.
        for bits in 0..1 << 6 {
            let mask: Vec<bool> = (0..6).map(|token| bits >> token & 1 == 1).collect();
            let runs = LabelRuns::of(&mask);
            for (start, end) in (0..=6).flat_map(|start| (start..=6).map(move |end| (start, end))) {
                let mut part = LabelRuns::default();
                part.extend_from(&runs, start..end);
                assert_eq!(part, LabelRuns::of(&mask[start..end]), "{mask:?} {start}..{end}");
            }
            let mut without = runs;
            without.unlabel_last();
            assert_eq!(without, LabelRuns::of(&[&mask[..5], &[false]].concat()), "{mask:?}");
        }
    }
}
