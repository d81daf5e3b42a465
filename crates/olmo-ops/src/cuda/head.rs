//! Head, cross-entropy and z-loss in chunks of rows. The logits of all tokens never exist at the
//! same time, and gradients are computed while the logits are available.

use olmo_torch::{Kind, Tensor};

use super::training::Losses;
use super::weights::{Cuda, sizes};
use crate::config::{IGNORED, LossTerms};
use crate::device::HeadOutput;
use crate::linear::Linear;

/// Maximum number of logits at a time.
const MOST_LOGITS: usize = 1 << 29;

/// The loss of `hidden [rows, width]` with the head's `weight`. With `gradients`, also computes
/// those, and adds the weight's to its sum.
pub(super) fn loss(
    device: &Cuda,
    hidden: &Tensor,
    weight: &Linear,
    targets: &[u32],
    terms: LossTerms,
    gradients: bool,
) -> HeadOutput<Cuda> {
    let [rows, width] = sizes(hidden);
    assert_eq!(targets.len(), rows, "there is a target for every place");
    let labelled: Vec<i64> = (0..rows as i64).filter(|&row| targets[row as usize] != IGNORED).collect();
    let labels = labelled.len() as u64;
    // Rows without a target cost nothing.
    let some = (labelled.len() < rows).then(|| device.integers(&labelled));
    let taken = some.as_ref().map_or_else(|| hidden.shallow_clone(), |some| hidden.index_select(0, some));
    let aims: Vec<i64> = labelled.iter().map(|&row| i64::from(targets[row as usize])).collect();
    let aims = device.integers(&aims);
    let matrix = device.matrix(weight);
    let vocabulary = sizes(&matrix)[0];
    let fit = labelled.iter().all(|&row| (targets[row as usize] as usize) < vocabulary);
    assert!(fit, "every target has a row of the head");
    let losses = device.floats(&[labelled.len(), 2]);
    let dtaken = gradients.then(|| device.empty(&[labelled.len(), width]));
    // Align rows of logits so that a thread can move several elements at once.
    let stride = vocabulary.next_multiple_of(8);
    let size = chunk_rows(labelled.len(), stride);
    let memory = device.empty(&[size.min(labelled.len()), stride]);
    for from in (0..labelled.len()).step_by(size) {
        let count = size.min(labelled.len() - from);
        let of_chunk = |x: &Tensor| x.narrow(0, from as i64, count as i64);
        let (rows, loss) = (of_chunk(&taken), of_chunk(&losses));
        let logits = memory.narrow(0, 0, count as i64).narrow(1, 0, vocabulary as i64);
        let _ = rows.mm_out(&logits, &matrix.tr());
        let (aims, scale) = (of_chunk(&aims), (1.0 / terms.denominator) as f32);
        let (z_loss, wanted) = (terms.z_loss as f32, i32::from(gradients));
        let arguments = arguments![&logits, stride as i64, &aims, &loss, vocabulary as i32, scale, z_loss, wanted];
        // SAFETY: there are `count` rows of logits, `stride` apart, and as many targets and losses;
        // the assertion above keeps targets below `vocabulary`.
        unsafe { device.launch("cross_entropy", count, 512.min(vocabulary.next_multiple_of(32)), &arguments) };
        if let Some(dtaken) = &dtaken {
            let _ = logits.mm_out(&of_chunk(dtaken), &matrix);
            device.add_product(&weight.weight, &logits, &rows);
        }
    }
    if gradients && labelled.is_empty() {
        device.add_nothing(&weight.weight);
    }
    let dhidden = dtaken.map(|made| match &some {
        None => made,
        Some(some) => device.zeros(&[rows, width]).index_copy_(0, some, &made),
    });
    let totals = losses.sum_dim_intlist([0i64].as_slice(), false, Kind::Double);
    // Use values that are already on the device: an upload would wait for it.
    let part = |index: i64| totals.narrow(0, index, 1);
    let loss = ((part(0) + part(1) * terms.z_loss) / terms.denominator).to_kind(Kind::Float);
    HeadOutput { loss, losses: Losses::new(totals, labels, terms.z_loss), dhidden }
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
