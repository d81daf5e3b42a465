//! Weights as the operations see them: where they are, and whether they are trained.

use std::ops::Range;

/// A weight in a device's arrays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its elements in the array of weights, row-major.
    pub values: Range<usize>,
    /// Its elements in the array of gradients, which holds the gradients of trained weights only.
    /// `None`: the weight is frozen, and no gradient is computed for it.
    pub gradient: Option<Range<usize>>,
}

impl Weight {
    /// A trained weight in arrays where every weight is trained.
    pub fn trained(values: Range<usize>) -> Weight {
        Weight { gradient: Some(values.clone()), values }
    }

    /// A weight without a gradient.
    pub fn frozen(values: Range<usize>) -> Weight {
        Weight { values, gradient: None }
    }
}

/// The matrix `[outputs, inputs]` of a linear product `x w^T`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linear {
    /// The elements.
    pub weight: Weight,
    /// Width of the product's input.
    pub inputs: usize,
}

impl Linear {
    /// A matrix with rows of `inputs` elements.
    pub fn new(weight: Weight, inputs: usize) -> Linear {
        Linear { weight, inputs }
    }

    /// Width of the product's result.
    pub fn outputs(&self) -> usize {
        self.weight.values.len() / self.inputs
    }
}

/// The trained parts of a flat array of weights. Arrays of gradients and moments hold these parts
/// only, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trained {
    parts: Vec<Range<usize>>,
}

impl Trained {
    /// These parts, in ascending order; neighbours are joined.
    ///
    /// # Panics
    /// They overlap or are not in order.
    pub fn new(ranges: impl IntoIterator<Item = Range<usize>>) -> Trained {
        let mut parts: Vec<Range<usize>> = Vec::new();
        for range in ranges {
            match parts.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                last => {
                    assert!(last.is_none_or(|last| last.end < range.start), "parts are in order");
                    parts.push(range);
                }
            }
        }
        Trained { parts }
    }

    /// Number of trained elements.
    pub fn len(&self) -> usize {
        self.parts.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether everything is frozen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight whose elements are `values`: all of them trained, or none.
    pub fn weight(&self, values: Range<usize>) -> Weight {
        let mut start = 0;
        for part in &self.parts {
            if part.start <= values.start && values.end <= part.end {
                let start = start + values.start - part.start;
                return Weight { gradient: Some(start..start + values.len()), values };
            }
            start += part.len();
        }
        Weight::frozen(values)
    }

    /// The trained elements of `weights`.
    pub fn pack(&self, weights: &[f32]) -> Vec<f32> {
        self.parts.iter().flat_map(|part| &weights[part.clone()]).copied().collect()
    }

    /// Replaces the trained elements of `weights`.
    ///
    /// # Panics
    /// `packed` does not have [`Trained::len`] elements.
    pub fn unpack(&self, packed: &[f32], weights: &mut [f32]) {
        assert_eq!(packed.len(), self.len(), "an element for each trained one");
        let mut rest = packed;
        for part in &self.parts {
            let (values, after) = rest.split_at(part.len());
            weights[part.clone()].copy_from_slice(values);
            rest = after;
        }
    }

    /// The trained parts of `groups`, with what belongs to each group.
    pub fn within<T: Copy>(&self, groups: &[(Range<usize>, T)]) -> Vec<(Range<usize>, T)> {
        let common = |a: &Range<usize>, b: &Range<usize>| a.start.max(b.start)..a.end.min(b.end);
        let pairs =
            groups.iter().flat_map(|(range, item)| self.parts.iter().map(move |part| (common(range, part), *item)));
        pairs.filter(|(range, _)| !range.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_trained_parts_are_packed() {
        let trained = Trained::new([2..4, 4..6, 10..13]);
        assert_eq!(trained.len(), 7);
        assert_eq!(trained.weight(4..6), Weight { values: 4..6, gradient: Some(2..4) });
        assert_eq!(trained.weight(11..13), Weight { values: 11..13, gradient: Some(5..7) });
        assert_eq!(trained.weight(6..10), Weight::frozen(6..10));
        let groups = [(0..5, true), (5..12, false), (12..20, true)];
        let weights: Vec<f32> = (0..20).map(|x| x as f32).collect();
        let packed = trained.pack(&weights);
        assert_eq!(packed, [2.0, 3.0, 4.0, 5.0, 10.0, 11.0, 12.0]);
        let mut zeros = vec![0.0; 20];
        trained.unpack(&packed, &mut zeros);
        assert_eq!(trained.pack(&zeros), packed);
        assert_eq!(zeros.iter().filter(|x| **x != 0.0).count(), 7);
        assert_eq!(trained.within(&groups), [(2..5, true), (5..6, false), (10..12, false), (12..13, true)]);
    }
}
