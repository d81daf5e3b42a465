//! [`Setup`]: everything decided before the first step.

use olmo_data::{Memmap, TokenizerRecord};
use olmo_model::{ActivationCheckpointing, ModelConfig, OptimizerState, Parameters};
use olmo_stage::Compute;

use crate::early_stopping::{EarlyStopping, SharedScorer};
use crate::learner::{CrossEntropy, OptimizerSettings, Reduce};
use crate::schedule::Schedule;
use crate::shard::Strategy;

/// Weights to start from, and the state of the optimizer that trained them, if it goes on.
#[derive(Debug)]
pub struct Initial {
    pub parameters: Parameters,
    pub optimizer: Option<OptimizerState>,
}

/// What came before a run, if it continues another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Number of steps.
    pub step: u64,
    /// Number of the optimizer's updates.
    pub updates: u64,
}

/// The definition of a run. Its parts fit together: the data has at least one batch, and its ids
/// and lengths fit the model.
#[derive(Debug)]
pub struct Setup {
    pub data: Memmap,
    pub eval_data: Option<Memmap>,
    pub config: ModelConfig,
    /// What to save with the model of the tokenizer of its data.
    pub record: TokenizerRecord,
    /// What the run starts from; without it, new weights are initialised.
    pub initial: Option<Initial>,
    pub origin: Origin,
    /// Seed of new weights and, together with the epoch, of the order of the data.
    pub seed: u64,
    pub max_steps: u64,
    /// Rows per optimizer step.
    pub global_batch: usize,
    /// Rows per micro-batch.
    pub microbatch: usize,
    /// Whether a resumed run keeps the micro-batch size of the earlier attempt.
    pub microbatch_is_automatic: bool,
    /// Restricts attention to each token's own document.
    pub document_mask: bool,
    pub schedule: Schedule,
    pub optimizer: OptimizerSettings,
    pub objective: CrossEntropy,
    /// How the gradients of several ranks are summed.
    pub reduce: Reduce,
    /// What each of several ranks holds.
    pub strategy: Strategy,
    pub activation_checkpointing: ActivationCheckpointing,
    /// Steps between checkpoints, and between evaluations.
    pub save_interval: Option<u64>,
    pub eval_interval: Option<u64>,
    /// Also evaluates before the first step.
    pub eval_on_startup: bool,
    /// Measures scores at each evaluation, beside the loss on `eval_data`.
    pub scorer: Option<SharedScorer>,
    pub early_stopping: Option<EarlyStopping>,
    /// Steps between printed metrics.
    pub console_log_interval: u64,
    /// Where the run computes, and with which data type.
    pub compute: Compute,
    /// The requested device, such as `cuda:1`.
    pub device: String,
    /// Stage version of this run.
    pub version: u32,
    /// A change that needs about a quarter less memory, as text.
    pub smaller: Option<String>,
}
