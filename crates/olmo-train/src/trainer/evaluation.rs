//! Measures the loss on held-out data.

use std::ops::Range;

use olmo_base::failpoint;
use olmo_data::Memmap;
use olmo_model::{LossOptions, Model};
use olmo_stage::{Context, StageError};

use crate::data::rows;
use crate::failure::model_failure;
use crate::ranks::Ranks;

/// Mean loss over the labels of `data`, with rows in order, `microbatch` at a time. The ranks divide
/// the work; the result has the bits of a single rank. Does not change the model.
///
/// # Errors
/// `Interrupted` if a stop was requested.
pub(super) fn mean_loss(
    model: &Model,
    data: &Memmap,
    microbatch: usize,
    document_mask: bool,
    context: &Context,
    ranks: &Ranks,
) -> Result<f64, StageError> {
    let parts: Vec<Range<usize>> =
        (0..data.instances()).step_by(microbatch).map(|from| from..data.instances().min(from + microbatch)).collect();
    let mut own = parts[ranks.share(parts.len())].iter();
    let (mut sums, mut labels) = (Vec::new(), Vec::new());
    // Every rank asks as often as the one with the most work.
    for _ in 0..parts.len().div_ceil(ranks.size()) {
        if let [true] = ranks.any([context.stop_requested()])? {
            return Err(StageError::Interrupted);
        }
        let Some(part) = own.next() else { continue };
        let batch = rows(data, part.start, part.end, document_mask)?;
        let output = model.loss(&batch, &LossOptions { denominator: 1.0, z_loss: 0.0 }).map_err(model_failure)?;
        sums.push(output.loss_sum);
        labels.push(output.labels as f64);
        failpoint("train.evaluating");
    }
    let [sums, labels] = [sums, labels].map(|own| ranks.gather_shares(&own, parts.len()));
    Ok(sums?.iter().sum::<f64>() / labels?.iter().sum::<f64>())
}
