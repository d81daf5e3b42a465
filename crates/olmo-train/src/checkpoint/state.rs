//! Complete training states on disk: written atomically, sealed, and found again.
//!
//! A checkpoint folder holds `model/` (a native model and the record of its tokenizer),
//! `optim/optim.safetensors` (`exp_avg.NAME`, `exp_avg_sq.NAME`), `metrics.jsonl` (the lines up to
//! its step) and, written last, `trainer.json`. Checkpoints are items `stepN` of the list port
//! `checkpoints`. If a run is asked to stop between two of them, its state is `stepN` in the
//! stage's state folder. A kill leaves at most a folder with another name (`.stepN.tmp`), which is
//! never read.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use olmo_base::failpoint;
use olmo_base::seal::{self, Seal};
use olmo_data::TokenizerRecord;
use olmo_model::ModelConfig;
use olmo_stage::{Context, StageError};
use serde::{Deserialize, Serialize};

use super::moments;
use crate::failure::model_failure;
use crate::learner::LearnerState;
use crate::metrics::{LINES, Metrics};

/// The list port for checkpoints.
pub(crate) const PORT: &str = "checkpoints";
const MODEL: &str = "model";
const OPTIM: &str = "optim";
const OPTIM_FILE: &str = "optim.safetensors";
const TRAINER: &str = "trainer.json";
pub(crate) const FORMAT: u32 = 1;

/// `trainer.json`: the position of a run. It contains nothing specific to one run, so that equal
/// checkpoints have equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trainer {
    pub format: u32,
    /// Number of completed steps.
    pub step: u64,
    /// Number of tokens seen, padding included.
    pub tokens: u64,
    /// Epoch of the next step, from 0.
    pub epoch: u64,
    /// Number of rows of that epoch already trained.
    pub epoch_position: u64,
    /// Number of optimizer updates: steps without a label make none.
    pub optimizer_steps: u64,
    pub seed: u64,
    pub global_train_batch_size: u64,
    pub instances: u64,
    pub sequence_length: u64,
    /// Tensor backend of the run.
    pub backend: String,
    /// Rows per micro-batch, which determine the order of additions.
    pub device_train_microbatch_size: u64,
    /// Version of stage `train`.
    pub stage_version: u32,
}

/// Everything that changes from step to step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub learner: LearnerState,
    /// Number of completed steps.
    pub step: u64,
    pub metrics: Metrics,
}

impl State {
    /// The state of a run that begins after `step` steps of another run.
    pub(crate) fn after(step: u64, learner: LearnerState) -> Self {
        Self { learner, step, metrics: Metrics::after(step) }
    }
}

/// The label of the checkpoint after `step` steps.
pub(crate) fn label(step: u64) -> String {
    format!("step{step}")
}

pub(crate) fn step_of(label: &str) -> Option<u64> {
    let number = label.strip_prefix("step")?.parse().ok()?;
    (self::label(number) == label).then_some(number)
}

/// A checkpoint that is written next to the folder `to`, durably, then renamed to `to` (which must
/// not exist) and sealed.
///
/// It is written in [`PHASES`]. Ranks that hold parts of the state go through them together: each
/// phase begins when all ranks have done the one before.
pub(crate) struct Writing {
    pub to: PathBuf,
    pub config: ModelConfig,
    pub record: TokenizerRecord,
    pub state: State,
    pub trainer: Trainer,
    /// Whether this rank writes what only one rank can write.
    pub is_first: bool,
}

/// A phase of writing a checkpoint.
type Phase = fn(&Writing) -> Result<(), StageError>;

/// The phases, in order.
pub(crate) const PHASES: [Phase; 3] = [Writing::create, Writing::fill, Writing::commit];

impl Writing {
    /// Writes the whole checkpoint, if no other rank has a part of it.
    pub(crate) fn write(&self) -> Result<(), StageError> {
        PHASES.iter().try_for_each(|phase| phase(self))
    }

    fn temporary(&self) -> Result<PathBuf, StageError> {
        let (parent, name) = (self.to.parent(), self.to.file_name());
        let (parent, name) =
            parent.zip(name).ok_or_else(|| StageError::io(&self.to, io::ErrorKind::InvalidInput.into()))?;
        Ok(parent.join(format!(".{}.tmp", name.to_string_lossy())))
    }

    /// Creates the folder, with an empty file for the moments of all ranks.
    fn create(&self) -> Result<(), StageError> {
        if !self.is_first {
            return Ok(());
        }
        let temporary = self.temporary()?;
        let failed = |e| StageError::io(&temporary, e);
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(failed)?;
        }
        fs::create_dir_all(temporary.join(OPTIM)).map_err(failed)?;
        moments::create(&temporary.join(OPTIM).join(OPTIM_FILE), &self.state.learner.parameters).map_err(failed)
    }

    /// Writes the moments that this rank holds; the first rank also writes everything else.
    fn fill(&self) -> Result<(), StageError> {
        let temporary = self.temporary()?;
        let failed = |e| StageError::io(&temporary, e);
        if self.is_first {
            let model = temporary.join(MODEL);
            olmo_model::save_native(&model, &self.config, &self.state.learner.parameters).map_err(model_failure)?;
            self.record.write(&model)?;
        }
        failpoint("train.saving");
        moments::write(&temporary.join(OPTIM).join(OPTIM_FILE), &self.state.learner).map_err(failed)?;
        if self.is_first {
            fs::write(temporary.join(LINES), self.state.metrics.text()).map_err(failed)?;
            olmo_stage::worker::write_json(&temporary.join(TRAINER), &self.trainer)?;
        }
        Ok(())
    }

    /// Gives the complete folder its name.
    fn commit(&self) -> Result<(), StageError> {
        if !self.is_first {
            return Ok(());
        }
        let (temporary, to) = (self.temporary()?, &self.to);
        sync_tree(&temporary).map_err(|e| StageError::io(&temporary, e))?;
        fs::rename(&temporary, to).map_err(|e| StageError::io(to, e))?;
        if let Some(parent) = to.parent() {
            File::open(parent).and_then(|folder| folder.sync_all()).map_err(|e| StageError::io(parent, e))?;
        }
        Seal::write(to).map(drop).map_err(|e| StageError::io(to, e))
    }
}

/// Syncs all files and folders under `dir` to disk.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

/// Reads the checkpoint in folder `dir`, of the moments only those of `shard`.
///
/// # Errors
/// The reason why it cannot be used: it is damaged, or its model or data differ from `config` and
/// `expected` (whose step is the one before the first of the run).
fn load(
    dir: &Path,
    config: &ModelConfig,
    shard: &Range<usize>,
    expected: &Trainer,
) -> Result<(State, Trainer), String> {
    let text = fs::read(dir.join(TRAINER)).map_err(|e| format!("{TRAINER}: {e}"))?;
    let trainer: Trainer = serde_json::from_slice(&text).map_err(|e| format!("{TRAINER}: {e}"))?;
    if trainer.format != FORMAT {
        return Err(format!("{TRAINER}: format {}, but this build reads {FORMAT}", trainer.format));
    }
    // `identity` omits everything that changes from step to step, and the backend, which may
    // change.
    let identity =
        |t: &Trainer| [t.seed, t.global_train_batch_size, t.instances, t.sequence_length, t.stage_version.into()];
    if identity(&trainer) != identity(expected) {
        return Err(format!("{TRAINER}: belongs to another run: {trainer:?}"));
    }
    let (saved, parameters) = olmo_model::load_native(&dir.join(MODEL)).map_err(|e| e.to_string())?;
    if saved != *config {
        let changed =
            |(own, other): (&str, &str)| (own != other).then(|| format!("{} here, {}", other.trim(), own.trim()));
        let [own, other] = [&saved, config].map(|config| serde_json::to_string_pretty(config).unwrap_or_default());
        let differences: Vec<String> = own.lines().zip(other.lines()).filter_map(changed).take(3).collect();
        return Err(format!("belongs to a model with another config: {} there", differences.join("; ")));
    }
    let moments = moments::read(&dir.join(OPTIM).join(OPTIM_FILE), &parameters, shard);
    let [exp_avg, exp_avg_sq] = moments.map_err(|e| format!("{OPTIM_FILE}: {e}"))?.map(Arc::new);
    let lines = fs::read_to_string(dir.join(LINES)).map_err(|e| format!("{LINES}: {e}"))?;
    let metrics = Metrics::from_text(lines, expected.step).map_err(|e| format!("{LINES}: {e}"))?;
    if metrics.steps() != trainer.step {
        return Err(format!("{LINES}: ends with step {}, but {TRAINER} has {}", metrics.steps(), trainer.step));
    }
    let (step, optimizer_steps) = (trainer.step, trainer.optimizer_steps);
    let learner = LearnerState { parameters, shard: shard.clone(), exp_avg, exp_avg_sq, optimizer_steps };
    Ok((State { learner, step, metrics }, trainer))
}

/// The latest usable state of earlier attempts, and its `trainer.json`. Warns about every unusable
/// state.
///
/// A state after `first_missing` (the first step whose checkpoint is due but missing from the list)
/// is not usable: training that resumed from it would never write that checkpoint.
pub(crate) fn latest(
    context: &mut Context,
    config: &ModelConfig,
    shard: &Range<usize>,
    expected: &Trainer,
    first_missing: u64,
) -> Result<Option<(State, Trainer)>, StageError> {
    let items = context.request.items.get(PORT).cloned().unwrap_or_default();
    let items = items.into_iter().filter_map(|item| Some((step_of(item.label.as_deref()?)?, item.path, false)));
    let saved = interrupted(&context.state_dir()?)?.into_iter().map(|(step, path)| (step, path, true));
    let mut candidates: Vec<(u64, PathBuf, bool)> = items.chain(saved).collect();
    // Stable sort: of two states at the same step, the list item comes first.
    candidates.sort_by_key(|(step, ..)| std::cmp::Reverse(*step));
    for (step, path, is_private) in candidates {
        let usable = if step > first_missing {
            Err(format!("the checkpoint after step {first_missing} is missing"))
        } else if is_private && let Err(why) = Seal::check(&path) {
            Err(why.to_string())
        } else {
            load(&path, config, shard, expected)
        };
        match usable {
            Ok(found) if found.0.step == step => return Ok(Some(found)),
            Ok(found) => context
                .warning(format!("the state after step {step} contains step {}; an older one is used", found.0.step)),
            Err(reason) => {
                context.warning(format!("the state after step {step} cannot be used ({reason}); an older one is used"));
            }
        }
    }
    Ok(None)
}

/// The states in the stage's state folder.
fn interrupted(state_dir: &Path) -> Result<Vec<(u64, PathBuf)>, StageError> {
    let entries = fs::read_dir(state_dir).map_err(|e| StageError::io(state_dir, e))?;
    let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    Ok(names.filter_map(|path| Some((step_of(path.file_name()?.to_str()?)?, path))).collect())
}

/// The folder for the state after `step` steps of a run that was asked to stop.
pub(crate) fn interrupted_folder(context: &Context, step: u64) -> Result<PathBuf, StageError> {
    Ok(context.state_dir()?.join(label(step)))
}

/// Removes the states in the stage's state folder that are older than that after `step` steps.
pub(crate) fn remove_older(context: &Context, step: u64) -> Result<(), StageError> {
    for (older, path) in interrupted(&context.state_dir()?)? {
        if older < step {
            seal::remove(&path).map_err(|e| StageError::io(&path, e))?;
        }
    }
    Ok(())
}

/// Removes an earlier state in folder `to`, if there is one.
pub(crate) fn make_room(to: &Path) -> Result<(), StageError> {
    seal::remove(to).map_err(|e| StageError::io(to, e))
}

/// The folder for the item after `step` steps; it does not exist yet.
pub(crate) fn item_folder(context: &Context, step: u64) -> Result<PathBuf, StageError> {
    let label = label(step);
    // `item_dir` empties the folder it returns, so request it under a temporary name.
    let temporary = context.item_dir(PORT, &format!(".{label}.tmp"))?;
    Ok(temporary.with_file_name(&label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_back_only_as_it_is_written() {
        assert_eq!(step_of(&label(40)), Some(40));
        for text in ["step", "step040", "step-1", "40", ".step40.tmp", "step4 0", "step99999999999999999999"] {
            assert_eq!(step_of(text), None, "{text}");
        }
    }
}
