//! Measures the loss on held-out data.

use olmo_base::failpoint;
use olmo_data::Memmap;
use olmo_model::{LossOptions, Model};
use olmo_stage::{Context, StageError};

use crate::data::rows;
use crate::failure::model_failure;

/// Mean loss over the labels of `data`, with rows in order, `microbatch` at a time. Does not change
/// the model.
///
/// # Errors
/// `Interrupted` if a stop was requested.
pub(super) fn mean_loss(
    model: &Model,
    data: &Memmap,
    microbatch: usize,
    document_mask: bool,
    context: &Context,
) -> Result<f64, StageError> {
    let (mut sum, mut labels) = (0.0, 0);
    for from in (0..data.instances()).step_by(microbatch) {
        context.check_stop()?;
        let batch = rows(data, from, data.instances().min(from + microbatch), document_mask);
        let output = model.loss(&batch, &LossOptions { denominator: 1.0, z_loss: 0.0 }).map_err(model_failure)?;
        sum += output.loss_sum;
        labels += output.labels;
        failpoint("train.evaluating");
    }
    Ok(sum / labels as f64)
}
