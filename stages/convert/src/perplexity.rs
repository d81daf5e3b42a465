//! Perplexity of a model and of its export, on the same rows.

use std::path::Path;

use olmo_data::{Instance, Memmap};
use olmo_infer::{LanguageModel, Placement, Request};
use olmo_stage::StageError;
use serde::Serialize;

/// Largest number of rows.
const ROWS: usize = 64;

/// Perplexity before and after the export.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Perplexity {
    pub rows: usize,
    /// Number of labelled tokens.
    pub tokens: u64,
    /// That of the model.
    pub before: f64,
    /// That of the export.
    pub after: f64,
}

/// Compares the models in two folders on the first rows of `data`.
///
/// # Errors
/// A folder cannot be read, or the rows have tokens that the models do not know, or no labels.
pub(crate) fn compare(
    data: &Path,
    [before, after]: [&Path; 2],
    placement: &Placement<'_>,
) -> Result<Perplexity, StageError> {
    let memmap = Memmap::open(data)?;
    let rows = memmap.rows(&(0..memmap.instances().min(ROWS)).collect::<Vec<_>>())?;
    let of = |folder: &Path| measure(&*olmo_infer::open(folder, placement)?, &rows);
    let ((before, tokens), (after, _)) = (of(before)?, of(after)?);
    Ok(Perplexity { rows: rows.len(), tokens, before, after })
}

/// The perplexity of the labelled tokens after the first of each row, and their number.
fn measure(model: &dyn LanguageModel, rows: &[Instance]) -> Result<(f64, u64), StageError> {
    let most = model.config().max_sequence_length;
    let request = |row: &Instance| {
        let ids = &row.input_ids[..row.input_ids.len().min(most)];
        let (context, continuation) = ids.split_at(1.min(ids.len()));
        Request { context: context.to_vec(), continuation: continuation.to_vec() }
    };
    let long: Vec<&Instance> = rows.iter().filter(|row| row.input_ids.len() > 1).collect();
    let requests: Vec<Request> = long.iter().map(|row| request(row)).collect();
    let scores = model.loglikelihood(&requests).map_err(|error| error.with_code("convert::data"))?;
    let (mut sum, mut count) = (0.0, 0u64);
    for (row, score) in long.iter().zip(&scores) {
        let is_label = |place: usize| row.label_mask.as_ref().is_none_or(|mask| mask[place + 1]);
        for (_, logprob) in score.tokens.iter().enumerate().filter(|(place, _)| is_label(*place)) {
            sum -= f64::from(*logprob);
            count += 1;
        }
    }
    if count == 0 {
        let what = "the first rows of `data` have no labels, so there is no perplexity";
        return Err(StageError::fail("convert::data", what).hint("give rows that were made with labels"));
    }
    Ok(((sum / count as f64).exp(), count))
}
