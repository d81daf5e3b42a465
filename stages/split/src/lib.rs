//! Stage `split`: splits a dataset into a training part and a held-out test part.
//!
//! The split depends only on the seed and the content of each record, not on their order or on the
//! number of threads. Records with the same question (the same turns before the first answer, or
//! the same document) go to the same part, so a model is never tested with a question that it was
//! trained on.

mod choice;

use std::path::Path;

use olmo_data::Conversation;
use olmo_data::dataset::{self, DatasetWriter, Kind, Record};
use olmo_stage::{Context, Stage, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use choice::{Key, Question};

/// Splits a dataset into a training part and a held-out test part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Size of the test part, as in scikit-learn: below 1, a fraction of the records; from 1 on, the
    /// number of records. At least one record is held out.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub test_size: f64,
    /// Maximum number of held-out records; null: no limit.
    #[schemars(range(min = 1))]
    pub max_test_size: Option<u64>,
    /// Seed for the choice of held-out records.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self { test_size: 0.05, max_test_size: Some(1000), seed: 6198 }
    }
}

impl Params {
    /// Number of records to hold out of `records`.
    fn wanted(&self, records: u64) -> u64 {
        let share = if self.test_size < 1.0 { self.test_size * records as f64 } else { self.test_size };
        (share.round() as u64).min(self.max_test_size.unwrap_or(u64::MAX)).max(1)
    }
}

/// The stage.
pub struct Split;

impl Stage for Split {
    type Params = Params;
    const CONTRACT: &'static str = include_str!("../stage.yaml");

    fn run(params: Params, context: &mut Context) -> Result<(), StageError> {
        if !(params.test_size > 0.0 && params.test_size.is_finite()) {
            return Err(StageError::fail("split::params", "`test_size` must be greater than 0"));
        }
        let from = context.input("dataset")?;
        match dataset::manifest(&from)?.kind {
            Kind::Text => split::<String, _>(&params, || dataset::text_batches(&from), context),
            Kind::Messages => split::<Conversation, _>(&params, || dataset::message_batches(&from), context),
        }
    }
}

/// Reads the dataset twice: once to choose, once to write.
fn split<T: Record + Question, B>(
    params: &Params,
    batches: impl Fn() -> Result<B, olmo_data::DataError>,
    context: &mut Context,
) -> Result<(), StageError>
where
    B: Iterator<Item = Result<Vec<T>, olmo_data::DataError>>,
{
    let mut keys: Vec<Key> = Vec::new();
    for batch in batches()? {
        context.check_stop()?;
        keys.extend(batch?.iter().map(|record| Key::of(params.seed, record)));
    }
    let records = keys.len() as u64;
    let test = choice::held_out(&keys, params.wanted(records));
    if test.is_empty() {
        let what = format!("cannot split {records} records with {} different questions", choice::distinct(&keys));
        return Err(StageError::fail("split::too_few", what)
            .hint("give more data, a smaller `test_size`, or your own file of held-out conversations"));
    }
    let writer = |dir: &Path| DatasetWriter::<T>::create(dir);
    let (mut kept, mut held_out) = (writer(&context.output("train")?)?, writer(&context.output("test")?)?);
    let mut place = keys.iter();
    for batch in batches()? {
        context.check_stop()?;
        for record in batch? {
            let is_test = place.next().is_some_and(|key| test.contains(key));
            let writer = if is_test { &mut held_out } else { &mut kept };
            writer.push(record)?;
        }
    }
    let (kept, held_out) = (kept.finish(0)?, held_out.finish(0)?);
    context.message(format!("{} {} to train on, {} held out", kept.records, kept.kind.as_str(), held_out.records));
    Ok(())
}

#[cfg(test)]
mod tests;
