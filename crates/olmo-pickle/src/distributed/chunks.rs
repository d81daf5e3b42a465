//! The chunks of a tensor: whether they fill it, and where their elements go.

/// A box of elements: where it begins in each dimension, and how far it extends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub offsets: Vec<u64>,
    pub sizes: Vec<u64>,
}

/// Number of elements; nothing if it does not fit 64 bits.
pub(super) fn volume(sizes: &[u64]) -> Option<u64> {
    if sizes.contains(&0) {
        return Some(0);
    }
    sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size))
}

impl Extent {
    fn end(&self, dimension: usize) -> u64 {
        self.offsets[dimension].saturating_add(self.sizes[dimension])
    }

    fn overlaps(&self, other: &Extent) -> bool {
        let within = |d: usize| self.offsets[d] < other.end(d) && other.offsets[d] < self.end(d);
        (0..self.sizes.len()).all(within)
    }
}

/// Comparisons of two chunks that a checkpoint may need. Real ones need a few per chunk.
pub(super) const MAX_COMPARISONS: u64 = 1 << 24;

/// Why `chunks` do not fill a tensor of `shape`, if they do not: one is outside of it, two overlap,
/// or elements are missing. Takes the comparisons it makes from `budget`.
pub(super) fn problem_of_tiling(shape: &[u64], chunks: &[Extent], budget: &mut u64) -> Option<String> {
    let rank = shape.len();
    for chunk in chunks {
        if chunk.offsets.len() != rank || chunk.sizes.len() != rank {
            return Some(format!("a chunk has {} dimensions, the tensor {rank}", chunk.sizes.len()));
        }
        if (0..rank).any(|d| chunk.offsets[d].checked_add(chunk.sizes[d]).is_none_or(|end| end > shape[d])) {
            return Some(format!("the chunk at {:?} of {:?} is outside of {shape:?}", chunk.offsets, chunk.sizes));
        }
    }
    let Some(total) = volume(shape) else { return Some(format!("the shape {shape:?} is too large")) };
    let filled: Vec<&Extent> = chunks.iter().filter(|chunk| volume(&chunk.sizes) != Some(0)).collect();
    // Along the dimension with the most different offsets, few chunks share a place.
    let different = |d: usize| {
        let mut offsets: Vec<u64> = filled.iter().map(|chunk| chunk.offsets[d]).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets.len()
    };
    let along = (0..rank).max_by_key(|d| different(*d));
    let mut sorted = filled.clone();
    if let Some(along) = along {
        sorted.sort_by_key(|chunk| chunk.offsets[along]);
    }
    for (at, chunk) in sorted.iter().enumerate() {
        for other in &sorted[at + 1..] {
            if along.is_some_and(|d| other.offsets[d] >= chunk.end(d)) {
                break;
            }
            *budget = match budget.checked_sub(1) {
                Some(left) => left,
                None => return Some("there are too many chunks to compare".into()),
            };
            if chunk.overlaps(other) {
                return Some(format!("the chunks at {:?} and {:?} overlap", chunk.offsets, other.offsets));
            }
        }
    }
    // Within the tensor and apart, so the sum cannot exceed the total.
    let sum: u64 = filled.iter().filter_map(|chunk| volume(&chunk.sizes)).sum();
    (sum != total).then(|| format!("its chunks have {sum} of {total} elements: a shard is missing"))
}

/// Calls `copy(place in the tensor, place in the chunk, count)` for each run of elements that
/// follow each other in both. Stops at the first error.
pub(super) fn for_each_run<E>(
    shape: &[u64],
    chunk: &Extent,
    mut copy: impl FnMut(u64, u64, u64) -> Result<(), E>,
) -> Result<(), E> {
    let total = volume(&chunk.sizes).unwrap_or(0);
    if total == 0 {
        return Ok(());
    }
    let rank = shape.len();
    // Dimensions after `split` are whole, so a run extends over them and over `split` itself.
    let split = (0..rank).rev().find(|d| chunk.sizes[*d] != shape[*d]).unwrap_or(0);
    let run: u64 = chunk.sizes.iter().skip(split).product();
    let mut strides = vec![1u64; rank];
    for d in (1..rank).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    let mut indices = vec![0u64; split];
    for number in 0..total / run {
        let mut place: u64 = (0..rank).map(|d| chunk.offsets[d] * strides[d]).sum();
        place += indices.iter().zip(&strides).map(|(index, stride)| index * stride).sum::<u64>();
        copy(place, number * run, run)?;
        for d in (0..split).rev() {
            indices[d] += 1;
            if indices[d] < chunk.sizes[d] {
                break;
            }
            indices[d] = 0;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offsets: &[u64], sizes: &[u64]) -> Extent {
        Extent { offsets: offsets.to_vec(), sizes: sizes.to_vec() }
    }

    fn problem(shape: &[u64], chunks: &[Extent]) -> Option<String> {
        problem_of_tiling(shape, chunks, &mut 1000)
    }

    #[test]
    fn chunks_must_fill_the_tensor_without_overlap() {
        assert_eq!(problem(&[], &[extent(&[], &[])]), None);
        assert_eq!(problem(&[0, 3], &[]), None);
        assert_eq!(problem(&[4, 3], &[extent(&[2, 0], &[2, 3]), extent(&[0, 0], &[2, 3])]), None);
        let quarters = [[0, 0], [0, 2], [2, 0], [2, 2]].map(|at| extent(&at, &[2, 2]));
        assert_eq!(problem(&[4, 4], &quarters), None);
        for (chunks, reason) in [
            (vec![], "0 of 12"),
            (vec![extent(&[0, 0], &[2, 3])], "6 of 12 elements"),
            (vec![extent(&[0, 0], &[3, 3]), extent(&[2, 0], &[2, 3])], "overlap"),
            (vec![extent(&[0, 0], &[5, 3])], "outside"),
            (vec![extent(&[u64::MAX, 0], &[2, 3])], "outside"),
            (vec![extent(&[0], &[4])], "1 dimensions, the tensor 2"),
        ] {
            let message = problem(&[4, 3], &chunks).unwrap();
            assert!(message.contains(reason), "{message}");
        }
        assert!(problem(&[], &[extent(&[], &[]), extent(&[], &[])]).unwrap().contains("overlap"));
    }

    #[test]
    fn comparisons_are_limited() {
        let rows: Vec<Extent> = (0..100).map(|row| extent(&[row, 0], &[1, 2])).collect();
        assert_eq!(problem_of_tiling(&[100, 2], &rows, &mut 0), None);
        let mut cells: Vec<Extent> = (0..400).map(|at| extent(&[at / 20, at % 20], &[1, 1])).collect();
        assert_eq!(problem_of_tiling(&[20, 20], &cells, &mut 4000), None);
        cells.push(extent(&[0, 0], &[20, 20]));
        assert!(problem_of_tiling(&[20, 20], &cells, &mut 4000).is_some());
    }

    #[test]
    fn runs_cover_a_chunk_in_order() {
        let runs = |shape: &[u64], chunk: &Extent| {
            let mut runs = Vec::new();
            for_each_run::<()>(shape, chunk, |place, from, count| {
                runs.push((place, from, count));
                Ok(())
            })
            .unwrap();
            runs
        };
        assert_eq!(runs(&[], &extent(&[], &[])), [(0, 0, 1)]);
        assert_eq!(runs(&[4, 3], &extent(&[2, 0], &[2, 3])), [(6, 0, 6)]);
        assert_eq!(runs(&[4, 3], &extent(&[1, 1], &[2, 2])), [(4, 0, 2), (7, 2, 2)]);
        assert_eq!(runs(&[2, 4, 2], &extent(&[0, 1, 0], &[2, 2, 2])), [(2, 0, 4), (10, 4, 4)]);
        assert_eq!(runs(&[2, 2, 4], &extent(&[1, 0, 1], &[1, 2, 3])), [(9, 0, 3), (13, 3, 3)]);
        assert_eq!(runs(&[4, 0], &extent(&[0, 0], &[4, 0])), []);
    }
}
