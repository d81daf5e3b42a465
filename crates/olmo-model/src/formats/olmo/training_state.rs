//! [`OptimizerState`] and [`TrainerState`]: what a checkpoint of AI2's trainers holds beside weights.

use std::path::Path;

use crate::config::ModelConfig;
use crate::error::{ModelError, shortened};
use crate::formats::parts::{Judge, Part};
use crate::formats::stored_model::StoredModel;
use crate::formats::tensors::{SavedFile, Tensors};
use crate::parameters::Parameters;

/// The state of AdamW.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    /// The first moment of each weight.
    pub exp_avg: Parameters,
    /// The second moments.
    pub exp_avg_sq: Parameters,
    /// Number of updates so far.
    pub steps: u64,
}

/// Where a run was in its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainerState {
    /// Number of completed steps.
    pub global_step: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// How much of the epoch is done.
    pub of_epoch: Done,
    /// The seed of the order of rows, if it is recorded: that of epoch E is shuffled with seed + E.
    pub seed: Option<u64>,
}

/// A part of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Number of rows.
    Instances(u64),
    /// Number of global batches.
    Batches(u64),
}

/// The names of a weight's state, as PyTorch's AdamW has them.
pub(super) const KINDS: [&str; 3] = ["exp_avg", "exp_avg_sq", "step"];

impl OptimizerState {
    /// The state of the model of `config`, whose tensors are `parts`, from the tensors of each of
    /// [`KINDS`].
    ///
    /// # Errors
    /// A weight has no state, or one of another shape; or their numbers of updates differ.
    pub(super) fn of(
        shown: &Path,
        config: &ModelConfig,
        parts: impl Fn() -> Vec<Part>,
        kinds: [Tensors; 3],
        judge: Judge<'_>,
    ) -> Result<Self, ModelError> {
        let [exp_avg, exp_avg_sq, steps] = kinds;
        let mut updates: Option<(String, f32)> = None;
        let mut problems = Vec::new();
        for (name, tensor) in &steps {
            match tensor.values().map(|values| values.first().copied()) {
                Ok(Some(count)) => {
                    let (first, of_first) = updates.get_or_insert_with(|| (name.clone(), count));
                    if *of_first != count {
                        problems.push(format!("`{first}` was updated {of_first} times, but `{name}` {count} times"));
                    }
                }
                Ok(None) => problems.push(format!("the `step` of `{name}` is empty")),
                Err(reason) => problems.push(format!("the `step` of `{name}` {reason}")),
            }
        }
        let count = updates.map_or(-1.0, |(_, count)| count);
        if problems.is_empty() && !(count >= 0.0 && count.fract() == 0.0) {
            problems.push("the optimizer's state does not tell its number of updates (`step`)".to_owned());
        }
        if !problems.is_empty() {
            return Err(ModelError::Tensors { path: shown.to_owned(), problems: shortened(problems) });
        }
        let moments = |kind: &str, tensors: Tensors| {
            let stored = StoredModel::new(shown, config.clone(), parts(), tensors, judge);
            stored.and_then(|stored| stored.parameters()).map_err(|error| match error {
                ModelError::Tensors { path, problems } => {
                    let problems = problems.into_iter().map(|problem| format!("{kind}: {problem}")).collect();
                    ModelError::Tensors { path, problems }
                }
                other => other,
            })
        };
        let (exp_avg, exp_avg_sq) = (moments(KINDS[0], exp_avg)?, moments(KINDS[1], exp_avg_sq)?);
        Ok(Self { exp_avg, exp_avg_sq, steps: count as u64 })
    }
}

/// The whole number that dicts in dicts of a file hold under `keys`.
pub(super) fn whole_number(saved: &SavedFile, keys: &[&str]) -> Result<u64, ModelError> {
    let found = keys.iter().try_fold(saved.root(), |value, key| value.get(key));
    let name = keys.join(".");
    let Some(value) = found else { return Err(saved.refuse(format!("has no `{name}`"))) };
    value.as_u64().ok_or_else(|| saved.refuse(format!("has {} for `{name}`, not a count", value.describe())))
}
