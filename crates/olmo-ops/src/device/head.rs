//! Head, cross-entropy and z-loss in chunks of rows. The logits of all tokens never exist at the
//! same time, and gradients are computed while the logits are available.

use std::ops::Range;

use olmo_torch::{Kind, Tensor};

use super::flat::DeviceFlat;
use super::norm::sizes;
use crate::config::{IGNORED, LossTerms};

/// Maximum number of logits at a time.
const MOST_LOGITS: usize = 1 << 29;

/// The results of the head.
pub(super) struct Made {
    /// Sums of the negative log-likelihood and of the squared log partition function over the
    /// targets that are not ignored: f64 `[2]`, on the device.
    pub totals: Tensor,
    /// Number of targets that are not ignored.
    pub labels: u64,
    /// The gradient of `hidden` for the loss `(nll + z_loss * lse^2) / denominator`, if requested.
    pub dhidden: Option<Tensor>,
}

/// The loss of `hidden [rows, width]` with the head's `weight`. With `wanted`, also computes the
/// gradients and adds the weight's to its sum.
pub(super) fn loss(
    flat: &DeviceFlat,
    hidden: &Tensor,
    weight: &Range<usize>,
    targets: &[u32],
    terms: LossTerms,
    wanted: bool,
) -> Made {
    let [rows, width] = sizes(hidden);
    assert_eq!(targets.len(), rows, "there is a target for every place");
    let labelled: Vec<i64> = (0..rows as i64).filter(|&row| targets[row as usize] != IGNORED).collect();
    let labels = labelled.len() as u64;
    // Rows without a target cost nothing.
    let some = (labelled.len() < rows).then(|| flat.integers(&labelled));
    let taken = some.as_ref().map_or_else(|| hidden.shallow_clone(), |some| hidden.index_select(0, some));
    let aims: Vec<i64> = labelled.iter().map(|&row| i64::from(targets[row as usize])).collect();
    let aims = flat.integers(&aims);
    let matrix = flat.matrix(weight, width);
    let vocabulary = sizes(&matrix)[0];
    let losses = flat.floats(&[labelled.len(), 2]);
    let dtaken = wanted.then(|| flat.empty(&[labelled.len(), width]));
    // Align rows of logits so that a thread can move several elements at once.
    let stride = vocabulary.next_multiple_of(8);
    let size = chunk_rows(labelled.len(), stride);
    let memory = flat.empty(&[size.min(labelled.len()), stride]);
    for from in (0..labelled.len()).step_by(size) {
        let count = size.min(labelled.len() - from);
        let of_chunk = |x: &Tensor| x.narrow(0, from as i64, count as i64);
        let (rows, loss) = (of_chunk(&taken), of_chunk(&losses));
        let logits = memory.narrow(0, 0, count as i64).narrow(1, 0, vocabulary as i64);
        let _ = rows.mm_out(&logits, &matrix.tr());
        let arguments = [
            (&logits).into(),
            (stride as i64).into(),
            (&of_chunk(&aims)).into(),
            (&loss).into(),
            (vocabulary as i32).into(),
            ((1.0 / terms.denominator) as f32).into(),
            (terms.z_loss as f32).into(),
            i32::from(wanted).into(),
        ];
        flat.launch("cross_entropy", count, 512.min(vocabulary.next_multiple_of(32)), &arguments);
        if let Some(dtaken) = &dtaken {
            let _ = logits.mm_out(&of_chunk(dtaken), &matrix);
            flat.add_product(weight, &logits, &rows);
        }
    }
    if wanted && labelled.is_empty() {
        flat.add_nothing(weight);
    }
    let dhidden = dtaken.map(|made| match &some {
        None => made,
        Some(some) => flat.zeros(&[rows, width]).index_copy_(0, some, &made),
    });
    let totals = losses.sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
    Made { totals, labels, dhidden }
}

/// Number of rows in a chunk: as few chunks as [`MOST_LOGITS`] allows, all of similar size.
fn chunk_rows(rows: usize, stride: usize) -> usize {
    let chunks = (rows * stride).div_ceil(MOST_LOGITS).max(1);
    rows.div_ceil(chunks).max(1).next_multiple_of(128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_few_and_even() {
        assert_eq!(chunk_rows(16_384, 100_352), 4_096);
        assert_eq!(chunk_rows(16_384, 50_304), 8_192);
        assert_eq!(chunk_rows(1, 8), 128);
        assert_eq!(chunk_rows(0, 8), 128);
    }
}
